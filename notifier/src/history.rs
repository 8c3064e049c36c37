//! What is kept of one channel, to be replayed. Pure.
//!
//! Of an import that is under way the latest progress is kept and what cannot be left out: three frames at most. So the history of a
//! channel is as long as its number of imports, not as their size.

use std::collections::VecDeque;

use crate::{
    cursor::{Cursor, Place},
    frame::Frame,
};

/// What a frame costs beside its text.
const FRAME_BYTES: usize = 128;

/// The recent frames of a channel, in their order.
#[derive(Debug)]
pub(crate) struct History {
    frames: VecDeque<Frame>,
    partition: i32,
    /// Frames up to this offset may have been there and be gone.
    floor: i64,
    /// Whether the first frame of the channel is here, or none was ever dropped.
    is_whole: bool,
    bytes: usize,
}

/// What follows a client's cursor.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Replay {
    /// In their order.
    pub(crate) frames: Vec<Frame>,
    /// Whether nothing is missing between the cursor and what follows.
    pub(crate) recovered: bool,
}

impl History {
    /// Of a channel about which nothing is known up to `floor` of its partition; `is_whole`: and of which nothing was dropped there.
    pub(crate) fn new(partition: i32, floor: i64, is_whole: bool) -> Self {
        Self { frames: VecDeque::new(), partition, floor, is_whole, bytes: 0 }
    }

    /// Adds the next frame; beyond `frames_max` the oldest goes.
    pub(crate) fn add(&mut self, frame: Frame, frames_max: usize) {
        // The topic has more partitions now, and the channel another one. Offsets of the two cannot be compared.
        if frame.place.partition != self.partition {
            *self = Self::new(frame.place.partition, frame.place.offset - 1, false);
        }
        self.frames.retain(|kept| !kept.is_superseded_by(&frame));
        self.frames.push_back(frame);
        while self.frames.len() > frames_max.max(1) {
            self.floor = self.frames.pop_front().map_or(self.floor, |dropped| dropped.place.offset);
            self.is_whole = false;
        }
        self.bytes = self.frames.iter().map(|frame| frame.text.as_str().len() + FRAME_BYTES).sum();
    }

    /// What a client that has seen `seen` has not.
    pub(crate) fn after(&self, seen: Cursor) -> Replay {
        let (is_news, recovered): (&dyn Fn(&Frame) -> bool, bool) = match seen {
            Cursor::Start => (&|_| true, self.is_whole),
            Cursor::At(at) if at.partition == self.partition => {
                (&move |frame| frame.place.offset > at.offset, at.offset >= self.floor)
            }
            Cursor::At(_) => (&|_| true, false),
        };
        Replay { frames: self.frames.iter().filter(|frame| is_news(frame)).cloned().collect(), recovered }
    }

    /// The last frame's place.
    pub(crate) fn last(&self) -> Option<Place> {
        self.frames.back().map(|frame| frame.place)
    }

    /// Estimate of the memory that its frames take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::import::NotificationKind::{self, Accepted, Completed, Progress};

    use super::*;
    use crate::frame::tests::frame;

    fn at(offset: i64) -> Cursor {
        Cursor::At(Place { partition: 0, offset })
    }

    fn history(frames: &[(i64, NotificationKind, u8)], frames_max: usize) -> History {
        let mut history = History::new(0, -1, true);
        frames.iter().for_each(|&(offset, kind, import)| history.add(frame(offset, kind, import), frames_max));
        history
    }

    fn replayed(history: &History, seen: Cursor) -> (Vec<i64>, bool) {
        let Replay { frames, recovered } = history.after(seen);
        (frames.iter().map(|frame| frame.place.offset).collect(), recovered)
    }

    #[test]
    fn what_is_behind_the_cursor_is_replayed_and_an_end_stays() {
        let frames = [(2, Accepted, 1), (3, Progress, 1), (5, Progress, 1), (6, Accepted, 2), (8, Completed, 1)];
        let history = history(&frames, 100);
        assert_eq!(replayed(&history, Cursor::Start), (vec![2, 6, 8], true));
        assert_eq!(replayed(&history, at(3)), (vec![6, 8], true));
        assert_eq!(replayed(&history, at(8)), (vec![], true));
    }

    #[test]
    fn what_was_dropped_is_known_to_be_missing() {
        let frames: Vec<_> = (0..10).map(|offset| (offset, Completed, offset as u8)).collect();
        let history = history(&frames, 4);
        assert_eq!(replayed(&history, Cursor::Start), (vec![6, 7, 8, 9], false));
        assert!(!replayed(&history, at(4)).1);
        assert_eq!(
            replayed(&history, at(5)),
            (vec![6, 7, 8, 9], true),
            "5 was seen, and it is the last that was dropped"
        );
    }

    #[test]
    fn a_cursor_of_another_partition_recovers_nothing() {
        let other = Cursor::At(Place { partition: 1, offset: 7 });
        assert_eq!(replayed(&history(&[(7, Accepted, 1)], 9), other), (vec![7], false));
    }

    proptest! {
        /// Whatever a client saw last: it gets every frame that it has not seen and that is not superseded, or is told.
        #[test]
        fn nothing_is_lost_in_silence(
            kinds in prop::collection::vec((0..3u8, 0..4u8), 1..60), seen in -1..60i64, frames_max in 1..20usize,
        ) {
            let kind = |number: u8| [Accepted, Progress, Completed][number as usize];
            let all: Vec<_> = kinds.iter().enumerate().map(|(at, &(number, import))| (at as i64, kind(number), import)).collect();
            let history = history(&all, frames_max);
            let (offsets, recovered) = replayed(&history, if seen < 0 { Cursor::Start } else { at(seen) });
            let is_superseded = |&(offset, kind, import): &(i64, NotificationKind, u8)| {
                kind == Progress && all.iter().any(|&(later, _, of)| later > offset && of == import)
            };
            let due: Vec<i64> = all.iter().filter(|it| it.0 > seen && !is_superseded(it)).map(|it| it.0).collect();
            if recovered {
                prop_assert_eq!(&offsets, &due);
            }
            prop_assert!(due.ends_with(&offsets));
        }
    }
}
