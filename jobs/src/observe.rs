//! Every metric of jobs, by name.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::produce::Outcome;

const UPLOADS: &str = "jobs_uploads_total";
const ROWS: &str = "jobs_rows_total";
const RECORDS: &str = "jobs_records_total";
const UPLOAD: &str = "jobs_upload_seconds";
const TRANSACTION: &str = "jobs_transaction_seconds";
const SPOOL: &str = "jobs_spool_bytes";
const UNDER_WAY: &str = "jobs_uploads_under_way";

pub(crate) fn describe() {
    describe_counter!(UPLOADS, "uploads by outcome: accepted, repeated, or the problem that the client was told");
    describe_counter!(ROWS, "rows of accepted imports");
    describe_counter!(RECORDS, "jobs of accepted imports");
    describe_histogram!(UPLOAD, "from the request to the end of its file");
    describe_histogram!(TRANSACTION, "from the end of the file to the commit of its jobs");
    describe_gauge!(SPOOL, "bytes in the spool");
    describe_gauge!(UNDER_WAY, "uploads in hand");
    gauge!(SPOOL).set(0.0);
}

/// An upload is in hand for as long as it is held.
pub(crate) struct UnderWay;

impl UnderWay {
    pub(crate) fn new() -> Self {
        gauge!(UNDER_WAY).increment(1.0);
        Self
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        gauge!(UNDER_WAY).decrement(1.0);
    }
}

pub(crate) fn spool_bytes(bytes: u64) {
    gauge!(SPOOL).set(bytes as f64);
}

pub(crate) fn checked(took: Duration) {
    histogram!(UPLOAD).record(took.as_secs_f64());
}

pub(crate) fn produced(outcome: Outcome, rows: u64, jobs: u32, took: Duration) {
    match outcome {
        Outcome::Accepted => {
            counter!(UPLOADS, "outcome" => "accepted").increment(1);
            counter!(ROWS).increment(rows);
            counter!(RECORDS).increment(u64::from(jobs));
            histogram!(TRANSACTION).record(took.as_secs_f64());
        }
        Outcome::Repeated => counter!(UPLOADS, "outcome" => "repeated").increment(1),
    }
}

pub(crate) fn refused(outcome: &'static str) {
    counter!(UPLOADS, "outcome" => outcome).increment(1);
}
