//! How far a load is, as services and people see it.

/// What a store is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    /// The brokers do not answer, or there is no such topic; [`Progress::detail`] says which.
    #[default]
    Waiting,
    /// Some partition is not loaded.
    Loading,
    /// Everything is contained that was there when the load began; it follows.
    Ready,
    /// The memory is used up; it follows no more.
    Full,
}

/// How far a load is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// What the store is doing.
    pub state: State,
    /// What it waits for.
    pub detail: String,
    /// Partitions of the topic.
    pub partitions: usize,
    /// Those that are loaded.
    pub partitions_loaded: usize,
    /// Offsets that the load has yet to pass; not all of them are records.
    pub remaining_offsets: i64,
    /// Records read since the start.
    pub records: u64,
    /// Records among them whose value could not be read.
    pub unreadable: u64,
    /// Keys held.
    pub keys: usize,
    /// Estimate of the memory in use.
    pub memory_bytes: usize,
    /// Its limit.
    pub memory_bytes_max: usize,
}

impl Progress {
    /// Whether the store is complete.
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }
}
