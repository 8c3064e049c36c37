//! Who drains the topic: the writer, or what it is measured against. Both are run, watched and checked by the same rules.

pub mod jdbc_sink;
pub mod writer;

use anyhow::Result;

use crate::dataset::Table;

/// A drain that goes on.
pub(crate) trait Drain {
    /// Its name in results.
    const NAME: &'static str;

    /// Its process; none when it has ended by itself.
    fn pid(&self) -> Option<i32>;

    /// How many events were in the database at the first sight of any; none while there is none.
    async fn begun(&self) -> Result<Option<u64>>;

    /// How far it is. Must cost the database next to nothing, because it is asked all the time.
    async fn progress(&self) -> Result<Progress>;

    /// What of its end state is not as the table says, one line each.
    async fn differences(&self, table: &Table) -> Result<Vec<String>>;

    /// Why it cannot go on, if it can't.
    async fn failure(&self) -> Option<String>;

    /// Ends it in order.
    async fn stop(self) -> Result<()>;
}

/// How far a drain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// This many events are in the database, if that can be told cheaply.
    Running(Option<u64>),
    /// The last event of every partition is in the database, and so is each before it.
    Done,
}
