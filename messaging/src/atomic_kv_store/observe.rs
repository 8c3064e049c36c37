//! Every metric of an atomic store beside those of its store and its transactions, by name. The label is the group.

use metrics::{counter, describe_counter};

const KEYLESS: &str = "messaging_atomic_kv_store_keyless_commands_total";
const CALLBACKS: &str = "messaging_atomic_kv_store_callbacks_total";
const CALLBACK_FAILURES: &str = "messaging_atomic_kv_store_callback_failures_total";

/// Describes them for `/metrics`.
pub(super) fn describe() {
    describe_counter!(KEYLESS, "commands without a key, which change nothing");
    describe_counter!(CALLBACKS, "updates called back");
    describe_counter!(CALLBACK_FAILURES, "calls back that failed and are repeated");
}

/// A command has no key.
pub(super) fn keyless(group: &str) {
    counter!(KEYLESS, "group" => group.to_owned()).increment(1);
}

/// A callback is done.
pub(super) fn called_back(group: &str) {
    counter!(CALLBACKS, "group" => group.to_owned()).increment(1);
}

/// A callback failed.
pub(super) fn callback_failed(group: &str) {
    counter!(CALLBACK_FAILURES, "group" => group.to_owned()).increment(1);
}
