//! Every metric of the console, by name, and its readiness: both follow the snapshots.

use std::sync::Arc;

use metrics::{describe_gauge, gauge};
use shared::admin::Condition;
use tokio::sync::watch;

use crate::snapshot::Snapshot;

/// What is taken out of the metrics of services: lag, replicas and their freshness, what stands.
pub(crate) const TOLD: [&str; 9] = [
    GENERATION,
    REPLICA_GENERATION,
    "writer_lag_records",
    "writer_blocked",
    REPLICA_LAG,
    REPLICA_HEALTHY,
    "consumer_blocked",
    "consumer_parked_records",
    "messaging_kv_store_remaining_offsets",
];

/// Of writers: 1 for the state that a generation is in, labels `generation`, `group`, `state`.
pub(crate) const GENERATION: &str = "writer_generation";
/// Of readers, label `replica`: the generation that it serves.
pub(crate) const REPLICA_GENERATION: &str = "reader_replica_generation";
/// Of readers, label `replica`: 1 while it can be asked.
pub(crate) const REPLICA_HEALTHY: &str = "reader_replica_healthy";
/// Of readers, label `replica`: for how long it has lacked something, at most.
pub(crate) const REPLICA_LAG: &str = "reader_replica_lag_seconds";

const BLOCKED: &str = "console_blocked_partitions";
const PARKED: &str = "console_parked_keys";
const DEAD_LETTERS: &str = "console_dead_letters";
const HELD_BACK: &str = "console_open_transaction_records";
const LAG: &str = "console_group_lag_records";
const LAG_SECONDS: &str = "console_group_lag_seconds";

/// Follows the snapshots; ends with them.
pub(crate) async fn follow(mut now: watch::Receiver<Arc<Snapshot>>, kafka: Condition) {
    describe_gauge!(BLOCKED, "partitions that stand at a record until a person decides, by group");
    describe_gauge!(PARKED, "keys that wait until a person decides, by group");
    describe_gauge!(DEAD_LETTERS, "dead letters that were not given back, by topic");
    describe_gauge!(HELD_BACK, "records behind the last stable offset, by topic");
    describe_gauge!(LAG, "records that a group has still to consume");
    describe_gauge!(LAG_SECONDS, "for how long a group's next record has waited; not a number while nobody can know");
    while now.changed().await.is_ok() {
        let snapshot = Arc::clone(&now.borrow_and_update());
        match (&snapshot.error, snapshot.complete) {
            (Some(error), _) => kafka.set(false, error.clone()),
            (None, true) => kafka.set(true, "all followed topics are read"),
            // What is found later is read later; once is enough.
            (None, false) if !kafka.holds() => kafka.set(false, "the followed topics are being read"),
            (None, false) => {}
        }
        note(&snapshot);
    }
}

fn note(snapshot: &Snapshot) {
    for group in &snapshot.groups {
        let held = || snapshot.held.iter().filter(|held| held.group == group.name);
        let blocked = held().filter(|held| held.state.waits_for_operator()).count();
        let parked: usize = held().map(|held| held.state.parked.len()).sum();
        gauge!(LAG, "group" => group.name.clone()).set(group.lag_records as f64);
        gauge!(LAG_SECONDS, "group" => group.name.clone()).set(group.lag_seconds.unwrap_or(f64::NAN));
        gauge!(BLOCKED, "group" => group.name.clone()).set(blocked as f64);
        gauge!(PARKED, "group" => group.name.clone()).set(parked as f64);
    }
    for of in &snapshot.dead_letters {
        gauge!(DEAD_LETTERS, "topic" => of.topic.clone()).set(of.letters.saturating_sub(of.redriven) as f64);
    }
    let mut held_back = std::collections::BTreeMap::<&str, i64>::new();
    for of in &snapshot.open_transactions {
        *held_back.entry(&of.topic).or_default() += of.high_watermark - of.last_stable_offset;
    }
    for topic in snapshot.groups.iter().flat_map(|group| &group.partitions).map(|of| of.topic.as_str()) {
        held_back.entry(topic).or_default();
    }
    for (topic, records) in held_back {
        gauge!(HELD_BACK, "topic" => topic.to_owned()).set(records as f64);
    }
}
