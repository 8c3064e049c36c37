//! Consume → produce exactly once (pattern 5): records in, records out, offsets, in one Kafka transaction.
//!
//! **Flow.** [`run`] owns one thread. It joins a group, polls a batch, hands it to a pure handler, produces what that returns and
//! commits it with the batch's next offsets. Who reads the output with `read_committed` sees each input's outputs exactly once.
//!
//! **Order.** The records of a partition are handled in offset order. Outputs are produced in the order in which the handler
//! returns them; two with the same key and topic keep it.
//!
//! **Duplication.** None, for readers with `read_committed`. The handler itself may see a record again, after an abort or a
//! crash, so it must be pure: what it does beside its result may happen twice. A record that it cannot use it turns into an
//! output too, such as a dead letter, which is then exactly one.
//!
//! **Durability.** A committed transaction is on all in-sync replicas: outputs and offsets, or neither.
//!
//! **A crash**
//! - *before the commit was asked for*: nothing happened. The next process of this member aborts the transaction by taking its id;
//!   another member that gets the partitions waits until it is aborted, at most [`TransactionConfig::transaction_timeout`].
//! - *while the commit is under way*: the coordinator decides; either way offsets and outputs agree, and whoever goes on asks
//!   for offsets that are stable (KIP-447).
//! - *after it*: the next one begins behind the batch.
//!
//! **A zombie**, frozen and replaced, is fenced twice: its producer by the transactional id, once its successor has the same;
//! its offsets by the group's generation. It ends with an error and commits nothing.
//!
//! **Errors** have three ends ([`Disposition`]): the call is repeated; the transaction is aborted and the batch tried again,
//! without the partitions that were taken meanwhile; or the process has to end, and a supervisor starts it anew. What is
//! wrong with the environment never loses a record and never skips one.
//!
//! **Absent.** Anything but Kafka: a database row cannot be part of this transaction (design 12). What comes from a table is
//! relayed ([`crate::relay`]).

mod batch;
mod error;
mod exchange;
mod membership;
pub(crate) mod observe;
pub(crate) mod producer;
mod record;
mod single;
mod work;

use std::{collections::HashMap, time::Duration};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub use error::{Disposition, HandlerError, TransactionError};
use exchange::Exchange;
pub(crate) use record::TopicPartition;
pub use record::{Header, Output, Record};
pub use single::SingleTransaction;
pub(crate) use work::{Ends, Work};

/// Who takes part, in what, and how large a transaction may be.
#[derive(Debug, Clone)]
pub struct TransactionConfig {
    /// Topics to consume.
    pub topics: Vec<String>,
    /// Group that shares their partitions, and in whose name offsets are committed.
    pub group: String,
    /// Name of this member, the same after each restart and no other member's: the ordinal of a stateful set, a host name. Group
    /// and member make the transactional id.
    pub member: String,
    /// A transaction takes at most so many records.
    pub batch_records_max: usize,
    /// A batch takes no further record once its keys and values have so many bytes.
    pub batch_bytes_max: usize,
    /// After so long the coordinator aborts a transaction whose member is gone; until then others wait for it.
    pub transaction_timeout: Duration,
}

impl TransactionConfig {
    /// With batches of 2000 records or 4 MiB and a timeout of 15 s.
    pub fn new(topics: &[&str], group: &str, member: &str) -> Self {
        Self {
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            group: group.to_owned(),
            member: member.to_owned(),
            batch_records_max: 2000,
            batch_bytes_max: 4 << 20,
            transaction_timeout: Duration::from_secs(15),
        }
    }
}

/// Consumes and produces until shutdown. `handler` gets the records of a batch, in offset order by partition, and returns what is
/// to be produced; it must be pure. Its error ends the loop, nothing of the batch being done.
///
/// Errors: fatal ones alone; the process should end. Dropping the future stops the loop as shutdown does.
pub async fn run(
    settings: &HashMap<String, String>,
    config: TransactionConfig,
    handler: impl FnMut(&[Record]) -> Result<Vec<Output>, HandlerError> + Send + 'static,
    shutdown: CancellationToken,
) -> Result<(), TransactionError> {
    run_work(settings, config, work::Pure(handler), shutdown).await
}

/// As [`run`], for work that has a state.
pub(crate) async fn run_work(
    settings: &HashMap<String, String>,
    config: TransactionConfig,
    work: impl Work,
    shutdown: CancellationToken,
) -> Result<(), TransactionError> {
    let shutdown = shutdown.child_token();
    let _stop = shutdown.clone().drop_guard();
    let exchange = Exchange::new(settings, config, work, shutdown)?;
    let (tell, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name("transaction".to_owned())
        .spawn(move || drop(tell.send(exchange.run())))
        .map_err(TransactionError::Thread)?;
    // A panic of the handler drops the sender.
    ended.await.unwrap_or(Err(TransactionError::Panicked))
}
