//! A consumer that hands records to a handler, in order, and never loses sight of one that fails.
//!
//! ```text
//! topic ──────────┐                            ┌─ Ok ──> done ──> committed, with the gaps above it
//! retry topic 0 ──┼─poll─> partition: lanes ─> handler
//! retry topic 1 ──┘        (by key)            └─ Err ─> decide: again in place │ retry topic │ dead letter │ stand │ park
//!        ^                                                             └── later ──┘
//! ```
//!
//! One task owns all state and polls the client; attempts and deliveries are tasks of their own that report to it. It waits for
//! nothing else, so a rebalance is answered and the group keeps this member whatever the handlers do.
//!
//! **Order.** See [`RecordHandler`]. A partition that stands at a record begins nothing behind it; what is parked holds its key
//! only; a record in a retry topic has lost its order.
//!
//! **Durability.** An offset is committed when every record below it is done: handled, or acknowledged by all in-sync replicas
//! of a retry topic or of the dead letters. Commits carry the gaps, so a successor repeats what was under way only.
//!
//! **Duplication.** At least once. After a crash: what was under way, and what was done since the last commit (a second). A
//! record moved to a retry topic or to the dead letters just before a crash may stand there twice.
//!
//! **A crash**, by when it comes: in the handler, the record is handled again; behind a letter or a record for a retry topic and before the
//! commit, it is handled again and may be sent again; behind the record at which a partition stands and before that is written down, the
//! record is tried again, and stands again; behind a command that was followed and before that is written down, the next owner
//! follows it (again). What is audited is sent and not waited for: a crash can lose the last events.
//!
//! **Retries.** A delay holds no task and stops no polling: the record waits in its lane and, when a partition has enough in hand,
//! the client is told to pause it. A record of a retry topic is due when the broker has had it for its delay (its append time,
//! seen by this machine's clock), never earlier; from then on monotonic time counts. When a retry in place is due is kept with the
//! blocking state, and a new owner waits for it, by its machine's clock.
//!
//! **What is never silent.** A record that is given up is a dead letter, or its partition stands, or its key is parked; the brake
//! stops a partition that would empty itself into the dead letters; what an operator leaves out is a dead letter too. All of it
//! is in the group's audit topic ([`crate::blocking`]).

mod assignment;
mod claim;
mod commit;
mod config;
mod group;
mod handler;
mod observe;
mod offsets;
mod partition;
mod run;
mod settle;
mod source;
mod work;

use std::sync::Arc;

use rdkafka::error::KafkaError;
use tokio_util::sync::CancellationToken;

pub use config::{ConfigError, ConsumerConfig, Order, Start, Watermarks};
pub use handler::{HandleError, RecordHandler};

use crate::topics::OpenError;

/// Consumes topics with a handler.
pub struct Consumer<H> {
    config: Arc<ConsumerConfig>,
    handler: Arc<H>,
}

/// Why a consumer ended.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    /// A topic is not there.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The client has failed for good.
    #[error("the Kafka client: {0}")]
    Kafka(#[from] KafkaError),
    /// The commands are not followed any more.
    #[error("what follows the commands has ended: {0}")]
    Commands(String),
}

impl<H: RecordHandler> Consumer<H> {
    /// Checks the configuration; asks no broker yet.
    pub fn new(config: ConsumerConfig, handler: H) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self { config: Arc::new(config), handler: Arc::new(handler) })
    }

    /// Consumes until `shutdown`, then finishes what is in hand, commits and leaves the group.
    ///
    /// Makes the retry topics and the group's own where they are missing. Errors: a consumed topic does not exist, one may not
    /// be made, the client fails for good. Brokers that are away are waited for.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), ConsumerError> {
        run::run(self.config, self.handler, shutdown).await
    }
}
