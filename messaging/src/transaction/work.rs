//! What a loop does with its records, as the loop sees it.

use std::collections::BTreeMap;

use super::{HandlerError, Output, Record, TransactionError, record::TopicPartition};

/// Next offsets behind what was produced, by topic and partition.
pub(crate) type Ends = BTreeMap<TopicPartition, i64>;

/// The calls come from one thread. Between `transform` and `committed` or `aborted` there is no other.
pub(crate) trait Work: Send + 'static {
    /// The group gave this partition, and the offset from which it goes on is settled; says whether its records may come. Asked
    /// again until it says so, or the partition is taken.
    fn admits(&mut self, partition: &TopicPartition) -> Result<bool, TransactionError>;

    /// The group took it.
    fn taken(&mut self, partition: &TopicPartition);

    /// Records to records. May be called again with some of them, after an abort.
    fn transform(&mut self, records: &[Record]) -> Result<Vec<Output>, HandlerError>;

    /// What `transform` returned last is committed; `ends` is where it lies.
    fn committed(&mut self, ends: Ends);

    /// What `transform` returned last never was.
    fn aborted(&mut self);
}

/// A handler without state.
pub(super) struct Pure<H>(pub(super) H);

impl<H: FnMut(&[Record]) -> Result<Vec<Output>, HandlerError> + Send + 'static> Work for Pure<H> {
    fn admits(&mut self, _: &TopicPartition) -> Result<bool, TransactionError> {
        Ok(true)
    }

    fn taken(&mut self, _: &TopicPartition) {}

    fn transform(&mut self, records: &[Record]) -> Result<Vec<Output>, HandlerError> {
        self.0(records)
    }

    fn committed(&mut self, _: Ends) {}

    fn aborted(&mut self) {}
}
