//! What is told to the group: offsets with their gaps.

use std::sync::Arc;

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer as _},
};

use super::{handler::RecordHandler, run::Loop};

impl<H: RecordHandler> Loop<H> {
    pub(super) fn commit(&mut self, mode: CommitMode) {
        if self.consumer.client().context().take_commit_failure() {
            self.held.values_mut().for_each(|held| held.committed = (-1, String::new()));
        }
        self.pass_markers();
        let mut list = TopicPartitionList::new();
        for (of, held) in &mut self.held {
            let commit = held.partition.offsets.commit();
            if commit == held.committed {
                continue;
            }
            let mut element = list.add_partition(&of.0, of.1);
            if element.set_offset(Offset::Offset(commit.0)).is_ok() {
                element.set_metadata(&commit.1);
                held.committed = commit;
            }
        }
        if list.count() > 0
            && let Err(error) = self.consumer.commit(&list, mode)
        {
            self.held.values_mut().for_each(|held| held.committed = (-1, String::new()));
            tracing::warn!(error = %error, "offsets were not committed; they are with the next commit");
        }
    }

    /// Moves partitions with nothing in hand behind transaction markers and aborted records, so that a drained topic has no lag.
    fn pass_markers(&mut self) {
        let Ok(positions) = self.consumer.position() else { return };
        for element in positions.elements() {
            let of = (Arc::<str>::from(element.topic()), element.partition());
            let Some(held) = self.held.get_mut(&of) else { continue };
            if let Offset::Offset(position) = element.offset()
                && held.partition.is_idle()
                && held.partition.offsets.has_begun(held.start)
            {
                held.partition.pass(position);
            }
        }
    }
}
