//! Every metric of the notifier, by name. Labels are kinds and reasons, never an id.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

const CONNECTIONS: &str = "notifier_connections";
const FRAMES: &str = "notifier_frames_total";
const GAPS: &str = "notifier_gaps_total";
const CLOSED: &str = "notifier_closed_total";
const REFUSED: &str = "notifier_refused_total";
const CHANNELS_MADE: &str = "notifier_channels_made_total";
const HISTORY_CHANNELS: &str = "notifier_history_channels";
const HISTORY_BYTES: &str = "notifier_history_bytes";
const HISTORY_DROPPED: &str = "notifier_history_dropped_total";
const RECEIVED: &str = "notifier_notifications_total";
const DELAY_SECONDS: &str = "notifier_delay_seconds";
const UNREADABLE: &str = "notifier_unreadable_total";

/// Once, at start; what is counted rarely is there from the beginning, as zero.
pub(crate) fn describe() {
    describe_gauge!(CONNECTIONS, "clients that listen, by transport: websocket, events");
    describe_counter!(FRAMES, "frames sent to clients, by transport");
    describe_counter!(GAPS, "times that a client was told that something may be missing");
    describe_counter!(
        CLOSED,
        "connections that were closed from here, by reason: slow, silent, talkative, expired, restart"
    );
    describe_counter!(REFUSED, "requests and connections that were refused, by reason");
    describe_counter!(CHANNELS_MADE, "channels made");
    describe_gauge!(HISTORY_CHANNELS, "channels of which something is kept or which somebody listens to");
    describe_gauge!(HISTORY_BYTES, "estimated memory of what is kept");
    describe_counter!(HISTORY_DROPPED, "channels whose history was dropped for want of room");
    describe_counter!(RECEIVED, "notifications read from the topic");
    describe_histogram!(DELAY_SECONDS, "time from a notification's record to its being handed to connections");
    describe_counter!(UNREADABLE, "notifications that cannot be read");
    counter!(GAPS).absolute(0);
    counter!(HISTORY_DROPPED).absolute(0);
    counter!(UNREADABLE).absolute(0);
}

pub(crate) fn received(timestamp_ms: Option<i64>) {
    counter!(RECEIVED).increment(1);
    let now_ms = jiff::Timestamp::now().as_millisecond();
    // A clock that jumps gives a wrong figure, and nothing else.
    if let Some(delay) = timestamp_ms.and_then(|then| u64::try_from(now_ms - then).ok()) {
        histogram!(DELAY_SECONDS).record(delay as f64 / 1000.0);
    }
}

pub(crate) fn unreadable() {
    counter!(UNREADABLE).increment(1);
}

pub(crate) fn kept(channels: usize, bytes: usize) {
    gauge!(HISTORY_CHANNELS).set(channels as f64);
    gauge!(HISTORY_BYTES).set(bytes as f64);
}

pub(crate) fn dropped_for_room() {
    counter!(HISTORY_DROPPED).increment(1);
}

pub(crate) fn channel_made() {
    counter!(CHANNELS_MADE).increment(1);
}

pub(crate) fn refused(reason: &'static str) {
    counter!(REFUSED, "reason" => reason).increment(1);
}

/// Counts a client for as long as it lives.
pub(crate) struct Listening(&'static str);

impl Listening {
    pub(crate) fn by(transport: &'static str) -> Self {
        gauge!(CONNECTIONS, "transport" => transport).increment(1);
        Self(transport)
    }

    pub(crate) fn sent(&self) {
        counter!(FRAMES, "transport" => self.0).increment(1);
    }

    pub(crate) fn gap(&self) {
        counter!(GAPS).increment(1);
    }

    pub(crate) fn closed(&self, reason: &'static str) {
        counter!(CLOSED, "reason" => reason).increment(1);
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        gauge!(CONNECTIONS, "transport" => self.0).decrement(1);
    }
}
