//! Frames, as browsers get them: JSON texts with a type and a cursor. Pure.

use axum::extract::ws::Utf8Bytes;
use serde_json::json;
use shared::import::{ImportId, Notification, NotificationKind};

use crate::cursor::{Cursor, Place};

/// One record of topic `notifications`, ready to be sent. Clones share the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) place: Place,
    pub(crate) kind: NotificationKind,
    pub(crate) import_id: ImportId,
    /// `{"cursor":…,"type":…,"import_id":…,…}`
    pub(crate) text: Utf8Bytes,
}

impl Frame {
    /// Reads a record's value. Its members go on to the browser as they are, those that this version does not know among them.
    pub(crate) fn read(place: Place, value: &[u8]) -> Result<Self, serde_json::Error> {
        let Notification { kind, import_id, .. } = serde_json::from_slice(value)?;
        let text = str::from_utf8(value).map_err(serde::de::Error::custom)?.trim_start();
        let members = text.strip_prefix('{').unwrap_or_default();
        let text = format!("{{\"cursor\":\"{}\",{members}", Cursor::At(place));
        Ok(Self { place, kind, import_id, text: text.into() })
    }

    /// Whether `later` says all that this one says, and more.
    pub(crate) fn is_superseded_by(&self, later: &Self) -> bool {
        self.kind.can_be_left_out() && self.import_id == later.import_id
    }
}

/// The first frame: from where the stream goes on, and whether everything after the client's cursor is in it.
pub(crate) fn hello(from: Cursor, recovered: bool) -> Utf8Bytes {
    json!({"type": "hello", "cursor": from.to_string(), "recovered": recovered}).to_string().into()
}

/// Something may be missing before what follows: the state of the import, asked for by HTTP, is the truth.
pub(crate) fn gap(from: Cursor) -> Utf8Bytes {
    json!({"type": "gap", "cursor": from.to_string()}).to_string().into()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A frame of the `import`-th import.
    pub(crate) fn frame(offset: i64, kind: NotificationKind, import: u8) -> Frame {
        let text = json!({"type": kind, "import_id": ImportId::of_digest([import; 16]), "state": "running", "jobs": 2,
            "jobs_done": 1, "rows": 3, "imported": 1, "updated": 0, "skipped": 0, "failed": 0});
        Frame::read(Place { partition: 0, offset }, text.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_frame_is_the_record_with_its_cursor() {
        let frame = frame(7, NotificationKind::Progress, 1);
        let read: serde_json::Value = serde_json::from_str(&frame.text).unwrap();
        assert_eq!((&read["cursor"], &read["type"], &read["rows"]), (&json!("0-7"), &json!("progress"), &json!(3)));
        for value in [&b""[..], b"[]", b"{}", b"{\"type\":\"other\"}", b"\xff"] {
            assert!(Frame::read(frame.place, value).is_err());
        }
    }
}
