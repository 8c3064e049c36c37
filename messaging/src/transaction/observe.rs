//! Every metric of a transactional loop, by name. The label is the group.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_histogram, histogram};

const RECORDS: &str = "messaging_transaction_records_total";
const OUTPUTS: &str = "messaging_transaction_outputs_total";
const COMMITS: &str = "messaging_transaction_commits_total";
const ABORTS: &str = "messaging_transaction_aborts_total";
const SECONDS: &str = "messaging_transaction_seconds";

/// Describes them for `/metrics`.
pub(crate) fn describe() {
    describe_counter!(RECORDS, "records consumed in committed transactions");
    describe_counter!(OUTPUTS, "records produced in committed transactions");
    describe_counter!(COMMITS, "transactions committed");
    describe_counter!(ABORTS, "transactions aborted and tried again");
    describe_histogram!(SECONDS, "from the handler's call to the answer of the commit");
}

/// A transaction was committed.
pub(crate) fn committed(group: &str, records: usize, outputs: usize, took: Duration) {
    let group = group.to_owned();
    counter!(RECORDS, "group" => group.clone()).increment(records as u64);
    counter!(OUTPUTS, "group" => group.clone()).increment(outputs as u64);
    counter!(COMMITS, "group" => group.clone()).increment(1);
    histogram!(SECONDS, "group" => group).record(took.as_secs_f64());
}

/// A transaction was aborted.
pub(crate) fn aborted(group: &str) {
    counter!(ABORTS, "group" => group.to_owned()).increment(1);
}
