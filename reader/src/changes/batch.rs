//! A stretch of the log as subscribers share it: rendered once, sent to thousands.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::cursor::{Cursor, Place};
use super::page::Stretch;
use super::token::token;

/// What a server-sent event has around its token and its data.
const AROUND_BYTES: usize = 16;

/// Changes between two cursors.
///
/// Whoever has read everything up to `from` has, with these, read everything up to `to`; whoever has not has missed some.
/// Between `from` and `at` there was nothing to tell; the tokens of the events go on from `at`.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) from: Arc<Cursor>,
    pub(crate) at: Arc<Cursor>,
    /// Its generation is the one that the changes were read of.
    pub(crate) to: Arc<Cursor>,
    /// In the order in which they are told.
    pub(crate) changes: Vec<Change>,
    /// All of them as server-sent events.
    text: Bytes,
}

/// One change of one site.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) partition: i32,
    pub(crate) place: Place,
    pub(crate) site_id: Box<str>,
    pub(crate) app_ids: Vec<String>,
    /// Of the batch's text.
    frame: Range<usize>,
    event: Range<usize>,
}

impl Batch {
    /// Renders the rows that have an event; the stretch was read after `at`.
    pub(crate) fn new(from: Arc<Cursor>, at: Arc<Cursor>, stretch: Stretch) -> Self {
        let mut told = Told { cursor: (*at).clone(), text: Vec::new() };
        told.cursor.generation = stretch.to.generation;
        let mut changes = Vec::with_capacity(stretch.rows.len());
        for row in stretch.rows {
            told.cursor.advance(row.partition, row.place);
            let Some(event) = row.event else { continue };
            let (frame, event) = told.write(event.as_bytes());
            let (site_id, app_ids) = (row.site_id.into_boxed_str(), row.app_ids);
            changes.push(Change { partition: row.partition, place: row.place, site_id, app_ids, frame, event });
        }
        let to = Arc::new(stretch.to);
        Self { from, at, to, changes, text: told.text.into() }
    }

    /// The same changes for somebody who is elsewhere: those that are new to him, with his own tokens.
    pub(crate) fn for_reader_at(&self, cursor: &Arc<Cursor>) -> Self {
        let mut told = Told { cursor: (**cursor).clone(), text: Vec::new() };
        let mut changes = Vec::new();
        for change in &self.changes {
            if change.place > told.cursor.place(change.partition) {
                told.cursor.advance(change.partition, change.place);
                let (frame, event) = told.write(self.event(change));
                changes.push(Change { frame, event, ..change.clone() });
            }
        }
        let mut to = told.cursor;
        to.join(&self.to);
        let (from, at) = (cursor.clone(), cursor.clone());
        Self { from, at, to: Arc::new(to), changes, text: told.text.into() }
    }

    /// The change's JSON.
    pub(crate) fn event(&self, change: &Change) -> &[u8] {
        &self.text[change.event.clone()]
    }

    /// The change as a server-sent event.
    pub(crate) fn frame(&self, change: &Change) -> Bytes {
        self.text.slice(change.frame.clone())
    }

    /// All changes as server-sent events.
    pub(crate) fn frames(&self) -> Bytes {
        self.text.clone()
    }
}

/// What was told so far, and how far it goes.
struct Told {
    cursor: Cursor,
    text: Vec<u8>,
}

impl Told {
    /// Appends an event under the token of the cursor.
    fn write(&mut self, event: &[u8]) -> (Range<usize>, Range<usize>) {
        let start = self.text.len();
        let token = token(&self.cursor);
        self.text.reserve(AROUND_BYTES + token.len() + event.len());
        self.text.extend_from_slice(b"id: ");
        self.text.extend_from_slice(token.as_bytes());
        self.text.extend_from_slice(b"\ndata: ");
        let data = self.text.len();
        // A line end would end the data. In JSON it can only stand between tokens, where a space says the same.
        let in_one_line = |byte: &u8| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte };
        self.text.extend(event.iter().map(in_one_line));
        let event = data..self.text.len();
        self.text.extend_from_slice(b"\n\n");
        (start..self.text.len(), event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queries::changes::ChangeRow;

    fn row(partition: i32, offset: i64, event: Option<&str>) -> ChangeRow {
        let place = Place { offset, ordinal: 0 };
        let event = event.map(str::to_owned);
        ChangeRow { partition, place, written_micros: 0, site_id: "s".into(), app_ids: vec![], event }
    }

    fn at(places: &[(i32, i64)]) -> Cursor {
        Cursor::new(1, places.iter().map(|(partition, offset)| (*partition, Place { offset: *offset, ordinal: 0 })))
    }

    fn batch() -> Batch {
        let rows = vec![row(0, 3, Some("{\"n\":1}")), row(1, 7, None), row(1, 8, Some("{\"n\":\n2}"))];
        let to = at(&[(0, 9), (1, 8)]);
        let start = Arc::new(at(&[(0, 1), (1, 5)]));
        Batch::new(start.clone(), start, Stretch { rows, to, is_last: true })
    }

    #[test]
    fn an_event_has_the_token_behind_it_and_stands_on_one_line() {
        let batch = batch();
        let want = format!(
            "id: {}\ndata: {{\"n\":1}}\n\nid: {}\ndata: {{\"n\": 2}}\n\n",
            token(&at(&[(0, 3), (1, 5)])),
            token(&at(&[(0, 3), (1, 8)]))
        );
        assert_eq!(batch.frames(), want);
        assert!(want.ends_with(std::str::from_utf8(&batch.frame(&batch.changes[1])).unwrap()));
        assert_eq!(batch.event(&batch.changes[1]), b"{\"n\": 2}");
    }

    #[test]
    fn somebody_who_is_ahead_elsewhere_gets_the_rest_under_his_own_tokens() {
        let batch = batch().for_reader_at(&Arc::new(at(&[(0, 20), (1, 7)])));
        assert_eq!(batch.frames(), format!("id: {}\ndata: {{\"n\": 2}}\n\n", token(&at(&[(0, 20), (1, 8)]))));
        assert_eq!(*batch.to, at(&[(0, 20), (1, 8)]));
    }
}
