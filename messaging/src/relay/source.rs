//! What a relay reads from, and what it tells of itself.

use std::{collections::BTreeMap, fmt::Display};

use crate::transaction::Output;

/// A position in one partition of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayPosition {
    /// Everything below this offset has been relayed.
    pub next_offset: i64,
    /// What else the source has to know to go on; kept beside the offset, 1000 bytes at most. Empty where somebody has set the
    /// offset with Kafka's tools.
    pub detail: String,
}

/// Positions by partition. One that is not named has not begun.
pub type Positions = BTreeMap<i32, RelayPosition>;

/// How much may be read at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StretchLimits {
    /// Records.
    pub records_max: usize,
    /// Bytes of their values; a single record may exceed it.
    pub bytes_max: usize,
}

/// What comes after some positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// Records, in the order in which they are produced; their topic is the relay's.
    pub outputs: Vec<Output>,
    /// Behind all of them. Of all partitions, the moved and the others.
    pub to: Positions,
    /// Whether there was nothing more at that moment.
    pub is_last: bool,
}

/// A log that is relayed.
///
/// **Order.** A stretch follows the positions without a gap: what lies below `to` is in it, was relayed before, or will never be.
///
/// **Duplication.** The same positions give the same records, or as many of them as the limits allow; that is all that exactly
/// once rests on.
///
/// **Cancellation.** Futures are dropped at an `await` when the relay stops.
pub trait RelaySource: Send + 'static {
    /// Why the log can't be read now. The same is asked again, with a growing pause, from the positions that the group has then.
    type Error: Display + Send;

    /// Where a relay begins that has never relayed anything. Of at least one partition, else an error.
    fn begin(&mut self) -> impl Future<Output = Result<Positions, Self::Error>> + Send;

    /// What comes after these positions.
    fn read(
        &mut self,
        after: &Positions,
        limits: StretchLimits,
    ) -> impl Future<Output = Result<Stretch, Self::Error>> + Send;

    /// Hears how the relay is; for people and metrics.
    fn observe(&mut self, event: RelayEvent<'_, Self::Error>);
}

/// How a relay is.
#[derive(Debug)]
pub enum RelayEvent<'a, E> {
    /// The topic is there, with so many partitions. The transactional id is taken next, which waits for the end of what a
    /// predecessor has left open.
    Opened {
        /// Their number.
        partitions: i32,
    },
    /// It waits for the brokers, or for what they refuse.
    Waits(&'a str),
    /// The group has no positions, but the topic has been written: they expired, or the source topic was made anew. It waits for
    /// [`super::set_positions`].
    PositionsLost,
    /// The source could not be read.
    Unread(&'a E),
    /// It has its positions and goes on.
    Runs,
    /// A transaction was committed.
    Committed {
        /// Its records.
        outputs: usize,
        /// The positions behind it.
        to: &'a Positions,
    },
}
