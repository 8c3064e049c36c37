//! What frames promise, over any number of connections (correctness 18): nothing is missing, nothing is twice, nothing goes back.

use std::collections::HashMap;

use anyhow::{Result, ensure};

use super::Frame;

/// Everything that a browser has heard.
#[derive(Debug, Default)]
pub(super) struct Story {
    /// Frames about imports, in their order.
    pub(super) frames: Vec<Frame>,
    /// Of the last frame.
    pub(super) cursor: String,
    pub(super) connections: usize,
    awaits_hello: bool,
    place: Option<(i64, i64)>,
    /// The last frame of each import.
    last: HashMap<String, Frame>,
}

impl Story {
    /// Another connection begins.
    pub(super) fn connect(&mut self) {
        self.connections += 1;
        self.awaits_hello = true;
    }

    /// Adds a frame, or says what is wrong with it here.
    pub(super) fn add(&mut self, frame: Frame) -> Result<()> {
        if std::mem::take(&mut self.awaits_hello) {
            ensure!(
                frame.kind == "hello" && frame.recovered,
                "a connection begins with a hello that misses nothing: {frame:?}"
            );
            return Ok(());
        }
        let place = frame.place()?;
        let follows = self.place.is_none_or(|(partition, offset)| place.0 == partition && place.1 > offset);
        ensure!(follows, "{frame:?} behind {:?}", self.place);
        match self.last.get(&frame.import) {
            None => ensure!(frame.kind == "accepted", "an import begins with {frame:?}"),
            Some(last) => {
                ensure!(frame.kind == "progress" || frame.is_end(), "{frame:?} behind {last:?}");
                ensure!(!last.is_end(), "{frame:?} behind its end {last:?}");
                let goes_on = frame.jobs.1 > last.jobs.1 && frame.counts.are_behind(last.counts);
                ensure!(goes_on && frame.jobs.0 == last.jobs.0, "{frame:?} goes back behind {last:?}");
            }
        }
        let is_whole = frame.jobs.0 == frame.jobs.1 && frame.rows == frame.counts.rows();
        ensure!(frame.kind != "completed" || is_whole, "{frame:?} is not whole");
        self.place = Some(place);
        self.cursor.clone_from(&frame.cursor);
        self.last.insert(frame.import.clone(), frame.clone());
        self.frames.push(frame);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::super::Counts;
    use super::*;

    fn frame(kind: &str, offset: u64, done: u64) -> Frame {
        Frame {
            kind: kind.to_owned(),
            cursor: format!("0-{offset}"),
            import: "i".to_owned(),
            jobs: (3, done),
            rows: 3,
            counts: Counts { imported: done, ..Counts::default() },
            recovered: true,
            at: Instant::now(),
        }
    }

    fn told(frames: &[Frame]) -> Result<()> {
        let mut story = Story::default();
        story.connect();
        story.add(frame("hello", 0, 0))?;
        frames.iter().cloned().try_for_each(|frame| story.add(frame))
    }

    #[test]
    fn a_story_without_gaps_doubles_and_steps_back_is_believed_and_no_other() {
        let accepted = frame("accepted", 1, 0);
        let whole = [accepted.clone(), frame("progress", 3, 1), frame("progress", 7, 2), frame("completed", 9, 3)];
        told(&whole).unwrap();
        let after = |frame: Frame| [&whole[..3], &[frame]].concat();
        for wrong in [
            after(frame("progress", 7, 3)),
            after(frame("progress", 8, 2)),
            after(frame("accepted", 8, 3)),
            after(frame("gap", 8, 3)),
            after(frame("completed", 9, 2)),
            after(Frame { counts: Counts::default(), ..frame("progress", 9, 3) }),
            after(Frame { cursor: "1-9".to_owned(), ..frame("progress", 9, 3) }),
            [&whole[..], &[frame("completed", 10, 3)]].concat(),
            vec![frame("progress", 1, 0)],
        ] {
            assert!(told(&wrong).is_err(), "{wrong:?}");
        }
        let mut story = Story::default();
        story.connect();
        assert!(story.add(Frame { recovered: false, ..frame("hello", 0, 0) }).is_err());
        let mut story = Story::default();
        story.connect();
        assert!(story.add(accepted).is_err(), "no hello");
    }
}
