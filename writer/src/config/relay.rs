//! What `writer relay` can be told, beside what every verb can.

use std::time::Duration;

use clap::Args;
use messaging::relay::{RelayConfig, StretchLimits};
use shared::config::{Invalid, bytes_between, duration_between};

use super::{KIB, MIB, SECOND, count};

/// After so long the brokers end the transaction of a relay that died; readers of the topic wait for it.
const TRANSACTION_MAX: Duration = Duration::from_secs(15);

/// Arguments of `writer relay`.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Relay")]
pub(super) struct RelayArgs {
    /// Topic of `relay`; made with the partitions and replicas of --topic when it is missing
    #[arg(long, env = "WRITER_RELAY_TOPIC", default_value = "installed-apps.changed", global = true)]
    relay_topic: String,

    /// Consumer group that keeps the position of `relay`, and its transactional id [default: --group with `-relay`]
    #[arg(long, env = "WRITER_RELAY_GROUP", global = true)]
    relay_group: Option<String>,

    /// Events in one transaction of `relay` at most; fewer are seen sooner, more cost less
    #[arg(long, env = "WRITER_RELAY_BATCH_RECORDS_MAX", default_value = "1000", global = true, value_parser = count(1, 100_000))]
    relay_batch_records_max: usize,

    /// Bytes of events in one transaction of `relay` at most, but for one event of each partition; it bounds the memory
    #[arg(long, env = "WRITER_RELAY_BATCH_BYTES_MAX", default_value = "4MiB", global = true, value_parser = bytes_between(64 * KIB, 256 * MIB))]
    relay_batch_bytes_max: u64,

    /// Pause of `relay` before it looks again when the change log has nothing new, duration; each look is one statement
    #[arg(long, env = "WRITER_RELAY_IDLE", default_value = "200ms", global = true, value_parser = duration_between(Duration::from_millis(10), 60 * SECOND))]
    relay_idle: Duration,
}

/// The checked settings of `writer relay`: what the library is told.
pub type RelaySettings = RelayConfig;

impl RelayArgs {
    /// Checks what clap can't.
    pub(super) fn settings(self, topic: &str, group: &str) -> Result<RelaySettings, Invalid> {
        if self.relay_topic == topic {
            return Err(Invalid::new("WRITER_RELAY_TOPIC", "must be another topic than WRITER_TOPIC"));
        }
        let own_group = self.relay_group.filter(|group| !group.is_empty());
        let (records_max, bytes_max) = (self.relay_batch_records_max, self.relay_batch_bytes_max as usize);
        Ok(RelayConfig {
            source_topic: topic.to_owned(),
            topic: self.relay_topic,
            group: own_group.unwrap_or_else(|| format!("{group}-relay")),
            limits: StretchLimits { records_max, bytes_max },
            idle: self.relay_idle,
            transaction_timeout: TRANSACTION_MAX,
        })
    }
}
