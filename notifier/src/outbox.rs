//! What one connection has still to be sent: bounded, in order, without repeats, and with progress that waits for its turn. Pure.
//!
//! Frames that say the whole state of an import stand for those before them, so a client that is slow gets fewer of them and never an
//! old one. What cannot be left out waits; more of it than `frames_max` is a loss, after which nothing more is sent: the client comes
//! back with its cursor.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{cursor::Cursor, frame::Frame};

/// The frames of one connection.
#[derive(Debug)]
pub(crate) struct Outbox {
    waiting: VecDeque<Frame>,
    /// Everything up to here was put in, or seen by the client before.
    last: Cursor,
    frames_max: usize,
    /// Between two frames of progress, at least.
    interval: Duration,
    progress_due: Option<Instant>,
    /// Where the stream begins anew, when something before it may be missing.
    gap: Option<Cursor>,
    is_lost: bool,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// Send these, in this order.
    Send(Vec<Frame>),
    /// Tell that something may be missing before what follows.
    Gap(Cursor),
    /// Only progress, whose turn comes then.
    NotBefore(Instant),
    /// Nothing waits.
    Nothing,
    /// The client was too slow for what can't be left out.
    Lost,
}

impl Outbox {
    /// For a client that has seen everything up to `seen`.
    pub(crate) fn new(seen: Cursor, frames_max: usize, interval: Duration) -> Self {
        Self {
            waiting: VecDeque::new(),
            last: seen,
            frames_max,
            interval,
            progress_due: None,
            gap: None,
            is_lost: false,
        }
    }

    /// A frame of the replay or of the live stream. One that was put in before, or seen, is dropped.
    pub(crate) fn put(&mut self, frame: Frame) {
        if self.is_lost || self.has_seen(&frame) {
            return;
        }
        self.last = Cursor::At(frame.place);
        self.waiting.retain(|waiting| !waiting.is_superseded_by(&frame));
        self.waiting.push_back(frame);
        if self.waiting.len() > self.frames_max {
            self.waiting.clear();
            self.is_lost = true;
        }
    }

    /// The topic is another one now: what waits is still told, then a gap; nothing of the new one counts as seen.
    pub(crate) fn begin_anew(&mut self) {
        (self.last, self.gap) = (Cursor::Start, Some(Cursor::Start));
        self.waiting.clear();
    }

    /// What to do now.
    pub(crate) fn take(&mut self, now: Instant) -> Take {
        if self.is_lost {
            return Take::Lost;
        }
        if let Some(from) = self.gap.take() {
            return Take::Gap(from);
        }
        let has_progress = self.waiting.iter().any(|frame| frame.kind.can_be_left_out());
        let may_wait = self.waiting.iter().all(|frame| frame.kind.can_be_left_out());
        match self.progress_due {
            _ if self.waiting.is_empty() => Take::Nothing,
            Some(due) if may_wait && now < due => Take::NotBefore(due),
            // Progress that stands before something urgent goes with it: a cursor stands for all frames before it.
            _ => {
                if has_progress {
                    self.progress_due = Some(now + self.interval);
                }
                Take::Send(self.waiting.drain(..).collect())
            }
        }
    }

    fn has_seen(&self, frame: &Frame) -> bool {
        matches!(self.last, Cursor::At(last) if last.partition == frame.place.partition && frame.place.offset <= last.offset)
    }
}

#[cfg(test)]
mod tests {
    use shared::import::NotificationKind::{Accepted, Completed, Progress};

    use super::*;
    use crate::{cursor::Place, frame::tests::frame};

    const INTERVAL: Duration = Duration::from_millis(250);

    fn outbox(frames_max: usize) -> Outbox {
        Outbox::new(Cursor::Start, frames_max, INTERVAL)
    }

    fn offsets(take: Take) -> Vec<i64> {
        match take {
            Take::Send(frames) => frames.iter().map(|frame| frame.place.offset).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn progress_waits_for_its_turn_and_only_the_latest_is_sent() {
        let (mut outbox, now) = (outbox(10), Instant::now());
        outbox.put(frame(0, Accepted, 1));
        outbox.put(frame(1, Progress, 1));
        assert_eq!(offsets(outbox.take(now)), [0, 1]);
        outbox.put(frame(2, Progress, 1));
        outbox.put(frame(3, Progress, 1));
        outbox.put(frame(4, Progress, 2));
        assert_eq!(outbox.take(now), Take::NotBefore(now + INTERVAL));
        assert_eq!(offsets(outbox.take(now + INTERVAL)), [3, 4]);
        assert_eq!(outbox.take(now + INTERVAL), Take::Nothing);
    }

    #[test]
    fn an_end_waits_for_nothing_and_stands_for_the_progress_before_it() {
        let (mut outbox, now) = (outbox(10), Instant::now());
        outbox.put(frame(0, Progress, 1));
        assert_eq!(offsets(outbox.take(now)), [0]);
        outbox.put(frame(1, Progress, 2));
        outbox.put(frame(2, Progress, 1));
        outbox.put(frame(3, Completed, 1));
        assert_eq!(offsets(outbox.take(now)), [1, 3], "of the other import too, or its cursor would be passed over");
    }

    #[test]
    fn what_was_seen_or_put_in_before_is_dropped() {
        let mut outbox = Outbox::new(Cursor::At(Place { partition: 0, offset: 5 }), 10, INTERVAL);
        for offset in [4, 5, 6, 6, 7, 6] {
            outbox.put(frame(offset, Completed, offset as u8));
        }
        assert_eq!(offsets(outbox.take(Instant::now())), [6, 7]);
        outbox.put(frame(7, Completed, 7));
        assert_eq!(outbox.take(Instant::now()), Take::Nothing);
    }

    #[test]
    fn more_than_fits_is_lost_and_said_so_but_progress_never_fills_it() {
        let mut outbox = outbox(3);
        (0..1000).for_each(|offset| outbox.put(frame(offset, Progress, (offset % 3) as u8)));
        assert_eq!(offsets(outbox.take(Instant::now())).len(), 3);
        (1000..1004).for_each(|offset| outbox.put(frame(offset, Accepted, offset as u8)));
        assert_eq!(outbox.take(Instant::now()), Take::Lost);
        outbox.put(frame(2000, Accepted, 9));
        assert_eq!(outbox.take(Instant::now()), Take::Lost, "nothing is sent behind a loss");
    }

    #[test]
    fn another_topic_is_told_as_a_gap_and_its_offsets_begin_anew() {
        let mut outbox = Outbox::new(Cursor::At(Place { partition: 0, offset: 50 }), 10, INTERVAL);
        outbox.begin_anew();
        outbox.put(frame(2, Completed, 1));
        assert_eq!(outbox.take(Instant::now()), Take::Gap(Cursor::Start));
        assert_eq!(offsets(outbox.take(Instant::now())), [2]);
    }
}
