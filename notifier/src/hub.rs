//! Who listens to which channel, and what is kept of each: the one place where the topic and the connections meet.
//!
//! The follower appends; connections subscribe. Both happen under one lock and neither waits for a client: appending puts a frame into
//! the outboxes of those who listen, which are bounded.
//!
//! **Order.** Frames of a channel are put in the order of the log. A subscription is registered for what comes, then given the replay;
//! the outbox drops what it has already, so nothing is missing between the two and nothing is twice (correctness 18).
//!
//! **Bounds.** Frames of a channel, bytes of all of them, channels. What was active least recently goes first; a client that misses it is told.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use shared::import::ChannelId;
use tokio::sync::{Notify, watch};

use crate::{
    cursor::{Cursor, Place},
    frame::Frame,
    history::History,
    observe,
    outbox::{Outbox, Take},
};

/// What a channel costs beside its frames: its name three times, maps, its history.
const CHANNEL_BYTES: usize = 600;

/// The bounds of a hub.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) channel_frames_max: usize,
    pub(crate) bytes_max: usize,
    pub(crate) channel_connections_max: usize,
    pub(crate) queue_frames_max: usize,
    pub(crate) progress_interval: Duration,
}

/// All clones are the same.
#[derive(Clone)]
pub(crate) struct Hub {
    inner: Arc<Mutex<Inner>>,
    limits: Limits,
    /// Sent after each change of a position.
    moved: Arc<watch::Sender<()>>,
}

#[derive(Default)]
struct Inner {
    channels: HashMap<Arc<str>, Channel>,
    partitions: BTreeMap<i32, Partition>,
    /// Channels with frames by the time of their last one, the oldest first.
    by_activity: BTreeMap<u64, Arc<str>>,
    activities: u64,
    bytes: usize,
    lines: u64,
}

#[derive(Default)]
struct Channel {
    history: Option<History>,
    activity: Option<u64>,
    listeners: Vec<(u64, Arc<Line>)>,
}

#[derive(Default)]
struct Partition {
    /// Everything below it is known here.
    next: i64,
    /// Nothing is known of channels without a history up to here.
    floor: i64,
    /// Whether some channel's history was dropped for want of room.
    has_dropped: bool,
}

/// The way from the hub to one connection.
pub(crate) struct Line {
    outbox: Mutex<Outbox>,
    filled: Notify,
}

/// A listener's place; it is given up when this is dropped.
pub(crate) struct Subscription {
    hub: Hub,
    channel: Arc<str>,
    number: u64,
    line: Arc<Line>,
    /// Where the stream goes on: behind what the client has seen, unless something is missing there.
    pub(crate) from: Cursor,
    /// Whether nothing is missing between the client's cursor and what follows.
    pub(crate) recovered: bool,
}

/// As many listen to the channel as may.
#[derive(Debug, thiserror::Error)]
#[error("as many connections listen to this channel as may; one of them must end first")]
pub(crate) struct ChannelFull;

impl Hub {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { inner: Arc::default(), limits, moved: Arc::new(watch::channel(()).0) }
    }

    /// Begins a partition whose log starts there. One that was known before was another topic's, or has a hole: its channels are
    /// forgotten, and those who listen are told.
    pub(crate) fn begin(&self, partition: i32, start: i64) {
        let mut inner = self.inner();
        let fresh = Partition { next: start, floor: start - 1, has_dropped: false };
        if inner.partitions.insert(partition, fresh).is_some() {
            inner.forget(partition);
        }
    }

    /// Takes a record of a channel over, and gives it to those who listen.
    pub(crate) fn append(&self, channel: &str, frame: Frame) {
        let mut inner = self.inner();
        let Place { partition, offset } = frame.place;
        inner.advance(partition, offset + 1);
        inner.keep(channel, &frame, self.limits.channel_frames_max);
        if let Some(found) = inner.channels.get(channel) {
            found.listeners.iter().for_each(|(_, line)| line.put(frame.clone()));
        }
        inner.make_room(self.limits.bytes_max);
        observe::kept(inner.channels.len(), inner.bytes);
    }

    /// Says that everything below `next` is known. To be called after each batch: it wakes those who wait for a position.
    pub(crate) fn advanced(&self, places: impl IntoIterator<Item = (i32, i64)>) {
        let mut inner = self.inner();
        places.into_iter().for_each(|(partition, next)| inner.advance(partition, next));
        drop(inner);
        self.moved.send_replace(());
    }

    /// Waits until this instance has read as far as the client has, which may come from one that is ahead. `false` when that takes
    /// longer than `max`: then the cursor is not of this log.
    pub(crate) async fn reached(&self, seen: Cursor, max: Duration) -> bool {
        let Cursor::At(at) = seen else { return true };
        let mut moved = self.moved.subscribe();
        let has_it = || self.inner().partitions.get(&at.partition).is_some_and(|it| at.offset < it.next);
        let waited = tokio::time::timeout(max, moved.wait_for(|()| has_it())).await;
        matches!(waited, Ok(Ok(_)))
    }

    /// Begins to listen behind `seen`; `is_of_this_log` as [`Self::reached`] found.
    pub(crate) fn subscribe(
        &self,
        channel: &ChannelId,
        seen: Cursor,
        is_of_this_log: bool,
    ) -> Result<Subscription, ChannelFull> {
        let mut inner = self.inner();
        let channel: Arc<str> = channel.as_str().into();
        inner.lines += 1;
        let number = inner.lines;
        let seen = if is_of_this_log { seen } else { Cursor::Start };
        let limits = &self.limits;
        let unknown = inner.is_recovered_without_history(seen);
        let found = inner.channels.entry(Arc::clone(&channel)).or_default();
        if found.listeners.len() >= limits.channel_connections_max {
            return Err(ChannelFull);
        }
        // The replay has room of its own: it is bounded by what is kept of a channel.
        let frames_max = limits.queue_frames_max + limits.channel_frames_max;
        let outbox = Mutex::new(Outbox::new(seen, frames_max, limits.progress_interval));
        let line = Arc::new(Line { outbox, filled: Notify::new() });
        found.listeners.push((number, Arc::clone(&line)));
        let replay = found.history.as_ref().map(|history| history.after(seen));
        let recovered = is_of_this_log && replay.as_ref().map_or(unknown, |replay| replay.recovered);
        replay.into_iter().flat_map(|replay| replay.frames).for_each(|frame| line.put(frame));
        let from = if recovered { seen } else { Cursor::Start };
        Ok(Subscription { hub: self.clone(), channel, number, line, from, recovered })
    }

    /// Forgets channels that have expired.
    pub(crate) fn sweep(&self, now_unix_s: u64) {
        let mut inner = self.inner();
        let is_over = |name: &str| expiry(name).is_none_or(|expiry| expiry <= now_unix_s);
        let over: Vec<Arc<str>> = inner.channels.keys().filter(|name| is_over(name)).cloned().collect();
        over.iter().for_each(|name| inner.drop_history(name));
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Maps are changed under the lock, and nothing that may panic is called between two changes that belong together.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn advance(&mut self, partition: i32, next: i64) {
        let known = self.partitions.entry(partition).or_default();
        known.next = known.next.max(next);
    }

    fn keep(&mut self, name: &str, frame: &Frame, frames_max: usize) {
        let Place { partition, .. } = frame.place;
        let (floor, is_whole) = self.partitions.get(&partition).map_or((-1, true), |it| (it.floor, !it.has_dropped));
        let name: Arc<str> =
            self.channels.get_key_value(name).map_or_else(|| name.into(), |(name, _)| Arc::clone(name));
        let channel = self.channels.entry(Arc::clone(&name)).or_default();
        let before = channel.history.as_ref().map_or(0, |history| history.bytes() + CHANNEL_BYTES);
        let history = channel.history.get_or_insert_with(|| History::new(partition, floor, is_whole));
        history.add(frame.clone(), frames_max);
        self.bytes = self.bytes + history.bytes() + CHANNEL_BYTES - before;
        self.activities += 1;
        if let Some(earlier) = channel.activity.replace(self.activities) {
            self.by_activity.remove(&earlier);
        }
        self.by_activity.insert(self.activities, name);
    }

    /// Drops the histories of channels that were silent longest.
    fn make_room(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max {
            let Some((_, name)) = self.by_activity.first_key_value() else { return };
            let name = Arc::clone(name);
            let last = self.channels.get(&name).and_then(|channel| channel.history.as_ref()).and_then(History::last);
            if let Some(partition) = last.and_then(|last| self.partitions.get_mut(&last.partition)) {
                partition.floor = partition.floor.max(last.map_or(-1, |last| last.offset));
                partition.has_dropped = true;
            }
            observe::dropped_for_room();
            self.drop_history(&name);
        }
    }

    fn drop_history(&mut self, name: &str) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        if let Some(history) = channel.history.take() {
            self.bytes -= history.bytes() + CHANNEL_BYTES;
        }
        if let Some(activity) = channel.activity.take() {
            self.by_activity.remove(&activity);
        }
        if channel.listeners.is_empty() {
            self.channels.remove(name);
        }
    }

    /// The partition's channels begin anew, as do those who listen to a channel of which no partition is known.
    fn forget(&mut self, partition: i32) {
        let is_of = |channel: &Channel| {
            channel.history.as_ref().is_none_or(|history| history.last().is_none_or(|last| last.partition == partition))
        };
        let names: Vec<Arc<str>> =
            self.channels.iter().filter(|(_, channel)| is_of(channel)).map(|(name, _)| Arc::clone(name)).collect();
        for name in names {
            let listeners = self.channels.get(&name).into_iter().flat_map(|channel| &channel.listeners);
            listeners.for_each(|(_, line)| line.begin_anew());
            self.drop_history(&name);
        }
    }

    /// Of a channel without a history nothing is missing if nothing of its partition was dropped behind the cursor.
    fn is_recovered_without_history(&self, seen: Cursor) -> bool {
        match seen {
            Cursor::Start => self.partitions.values().all(|partition| !partition.has_dropped),
            Cursor::At(at) => self.partitions.get(&at.partition).is_some_and(|it| at.offset >= it.floor),
        }
    }
}

/// When a channel ends, in seconds since 1970, by its name: `<random>.<expiry>.<mac>`.
pub(crate) fn expiry(channel: &str) -> Option<u64> {
    channel.split('.').nth(1)?.parse().ok()
}

impl Line {
    fn put(&self, frame: Frame) {
        self.outbox().put(frame);
        self.filled.notify_one();
    }

    fn begin_anew(&self) {
        self.outbox().begin_anew();
        self.filled.notify_one();
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// The next thing to do, once there is one: never [`Take::Nothing`] nor [`Take::NotBefore`]. Loses nothing when it is dropped.
    pub(crate) async fn next(&self) -> Take {
        loop {
            let take = self.line.outbox().take(Instant::now());
            match take {
                Take::Nothing => self.line.filled.notified().await,
                Take::NotBefore(due) => tokio::select! {
                    () = tokio::time::sleep_until(due.into()) => {}
                    () = self.line.filled.notified() => {}
                },
                take => return take,
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut inner = self.hub.inner();
        let Some(channel) = inner.channels.get_mut(&self.channel) else { return };
        channel.listeners.retain(|(number, _)| *number != self.number);
        if channel.listeners.is_empty() && channel.history.is_none() {
            inner.channels.remove(&self.channel);
        }
    }
}
