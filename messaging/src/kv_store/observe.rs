//! Every metric of a store, by name. The label is the topic.

use metrics::{counter, describe_counter, describe_gauge, gauge};

use super::{Progress, State};

const READY: &str = "messaging_kv_store_ready";
const REMAINING: &str = "messaging_kv_store_remaining_offsets";
const KEYS: &str = "messaging_kv_store_keys";
const MEMORY: &str = "messaging_kv_store_memory_bytes";
const RECORDS: &str = "messaging_kv_store_records_total";
const UNREADABLE: &str = "messaging_kv_store_unreadable_total";

/// Describes them for `/metrics`.
pub(super) fn describe() {
    describe_gauge!(READY, "1 while the store is complete");
    describe_gauge!(REMAINING, "offsets that the load has yet to pass");
    describe_gauge!(KEYS, "keys held");
    describe_gauge!(MEMORY, "estimated bytes of the keys and values held");
    describe_counter!(RECORDS, "records read");
    describe_counter!(UNREADABLE, "records whose value could not be decoded");
}

/// Tells what has changed.
pub(super) fn told(topic: &str, progress: &Progress) {
    let topic = topic.to_owned();
    gauge!(READY, "topic" => topic.clone()).set(f64::from(u8::from(progress.state == State::Ready)));
    gauge!(REMAINING, "topic" => topic.clone()).set(progress.remaining_offsets as f64);
    gauge!(KEYS, "topic" => topic.clone()).set(progress.keys as f64);
    gauge!(MEMORY, "topic" => topic.clone()).set(progress.memory_bytes as f64);
    counter!(RECORDS, "topic" => topic.clone()).absolute(progress.records);
    counter!(UNREADABLE, "topic" => topic).absolute(progress.unreadable);
}
