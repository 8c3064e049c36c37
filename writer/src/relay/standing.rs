//! What operators see of a running relay: the conditions of `/readyz`, metrics, and each trouble once in the log.

use std::collections::BTreeMap;

use messaging::relay::RelayEvent;
use shared::admin::{Condition, Readiness};

use super::{
    observe::{Metrics, Stands, Trouble},
    source::ReadError,
};

const LOST: &str = "position-lost: the group has no position, but events were relayed before (offsets expire when a relay is \
                    away for offsets.retention.minutes, and go with the source topic); decide where to go on: writer relay set \
                    --to floor|end --reason TEXT";

const READ: &str = "the change log is read";

/// The relay's conditions.
#[derive(Debug)]
pub(super) struct Standing {
    metrics: Metrics,
    kafka: Condition,
    database: Condition,
    position: Condition,
    pub(super) accepting: Condition,
}

impl Standing {
    /// Adds the conditions.
    pub(super) fn new(readiness: &Readiness, topic: &str) -> Self {
        let condition = |name: &str| readiness.condition(name);
        let (kafka, database, position) = (condition("kafka"), condition("database"), condition("position"));
        let accepting = condition("accepting");
        accepting.set(true, "not draining");
        Self { metrics: Metrics::new(topic), kafka, database, position, accepting }
    }

    /// A page was read; by partition, how many records the relay is behind the view.
    pub(super) fn read(&self, lags: &BTreeMap<i32, i64>) {
        self.database.set(true, READ);
        lags.iter().for_each(|(partition, records)| self.metrics.lag(*partition, *records));
        let behind: Vec<i32> = lags.iter().filter(|(_, lag)| **lag < 0).map(|(partition, _)| *partition).collect();
        self.metrics.stands(None);
        match behind.is_empty() {
            true => self.position.set(true, "the log reaches back to it"),
            false => self.position.set(
                false,
                format!(
                    "view-behind: partitions {behind:?} of this database are behind what was relayed: a replica that lags, a \
                     failover, a position that was set back; what they hold below it is not relayed again"
                ),
            ),
        }
    }

    /// The mechanism tells how it is.
    pub(super) fn hear(&self, event: &RelayEvent<'_, ReadError>) {
        match event {
            RelayEvent::Opened { partitions } => {
                tracing::info!(partitions, "the topic of the events is there");
                self.kafka
                    .set(false, "taking the transactional id, and waiting for the end of a predecessor's transaction");
            }
            RelayEvent::Waits(why) => {
                self.metrics.trouble(Trouble::Kafka);
                fails(&self.kafka, why);
            }
            RelayEvent::Runs => self.kafka.set(true, "the relay has its positions"),
            RelayEvent::Committed { outputs, .. } => {
                self.kafka.set(true, "transactions are committed");
                self.metrics.relayed(*outputs);
            }
            RelayEvent::PositionsLost => {
                self.kafka.set(true, "the group was asked for its positions");
                self.metrics.stands(Some(Stands::PositionLost));
                stands(&self.position, LOST);
            }
            RelayEvent::Unread(error @ ReadError::Expired(_)) => {
                self.database.set(true, READ);
                self.metrics.stands(Some(Stands::PositionExpired));
                stands(&self.position, &error.to_string());
            }
            RelayEvent::Unread(error @ ReadError::SwitchUnseen(_)) => {
                self.database.set(true, READ);
                fails(&self.position, &error.to_string());
            }
            RelayEvent::Unread(error @ ReadError::Store(_)) => {
                self.metrics.trouble(Trouble::Database);
                fails(&self.database, &error.to_string());
            }
        }
    }
}

/// Waited out; in the log once, also when it was so from the start.
fn fails(condition: &Condition, why: &str) {
    if condition.detail() != why {
        tracing::warn!(why, "the relay waits");
    }
    condition.set(false, why.to_owned());
}

/// Until an operator decides; in the log once, also when it was so from the start.
fn stands(condition: &Condition, why: &str) {
    if condition.detail() != why {
        tracing::error!(why, "the relay stands until its position is set");
    }
    condition.set(false, why.to_owned());
}
