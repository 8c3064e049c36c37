//! A letter that is edited before it goes back: what is changed, and what it was before. Pure.
//!
//! The edit stands in the redrive, and so in each of its steps; what was before stands in the step that moved the letter. Both
//! are kept for ever, and the letter itself stays as it was. The record says by a header which redrive edited it.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use messaging::{dead_letter::redrive_headers, record::RecordHeader};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    letter::Raw,
    redaction::{HIDDEN, Redaction, Shown},
};

/// Bytes of an edit's key, value and headers together. With as much of what was before, a step stays below the megabyte that
/// brokers take, however much JSON has to escape of it.
pub(crate) const EDIT_BYTES_MAX: usize = 64 << 10;
/// On a record that was edited: the id of the redrive that did it last.
pub(crate) const EDITED: &str = "dlq-edited";
const REDRIVE_COUNT: &str = "dlq-redrive-count";

/// What of a record can be edited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Its key; the partition stays.
    Key,
    /// Its value.
    Value,
    /// Its own headers, all of them: not those that make it a letter, nor those of redrives.
    Headers,
}

/// What a record is to have instead; what is not named stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Content>,
    /// Its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Content>,
    /// All its headers, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Vec<(String, Content)>>,
}

/// Bytes as JSON: `"none"`, `{"text": …}`, `{"base64": …}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// There are none: a tombstone, no key, a header without a value.
    None,
    /// UTF-8.
    Text(String),
    /// Anything else.
    Base64(String),
}

/// What was before: whole, or, where that is long, what proves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Kept {
    /// All of it.
    Whole(Content),
    /// It stands in the letter.
    Hash {
        /// Its length.
        bytes: usize,
        /// Of it, hexadecimal.
        sha256: String,
    },
}

/// The parts that were changed, as they were.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// The key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Kept>,
    /// The value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Kept>,
    /// All headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Vec<(String, Kept)>>,
}

/// A letter as it may be edited here.
#[derive(Debug, Serialize)]
pub(crate) struct Editable {
    pub(crate) edit: Edit,
    /// Why a part is not shown; it can be replaced without being seen.
    pub(crate) left_out: BTreeMap<Part, &'static str>,
}

impl Edit {
    /// Refuses what cannot be kept, or cannot be meant.
    pub(crate) fn check(&self) -> Result<(), String> {
        let names = self.headers.iter().flatten().map(|(name, _)| name.as_str());
        if let Some(name) = names.clone().find(|name| name.is_empty() || [EDITED, REDRIVE_COUNT].contains(name)) {
            return Err(format!("edit: `{name}` is no header that can be set"));
        }
        let mut bytes: usize = names.map(str::len).sum();
        for content in self.contents() {
            let content = content.bytes()?.unwrap_or_default();
            if content.windows(HIDDEN.len()).any(|part| part == HIDDEN.as_bytes()) {
                return Err(format!("edit: `{HIDDEN}` stands for what is hidden; write what is meant"));
            }
            bytes += content.len();
        }
        match bytes > EDIT_BYTES_MAX {
            true => Err(format!("edit: {bytes} bytes, more than the {EDIT_BYTES_MAX} that may be")),
            false => Ok(()),
        }
    }

    /// Without what the letter has already; `None` when nothing is left.
    pub(crate) fn changes(self, letter: &Raw) -> Option<Self> {
        let differs = |content: &Content, now: &Option<Bytes>| content.bytes().ok().as_ref() != Some(now);
        let now = own_headers(letter);
        let same_headers = |all: &Vec<(String, Content)>| {
            let same = |((name, content), (key, value)): (&(String, Content), &RecordHeader)| {
                name.as_bytes() == key.as_ref() && !differs(content, value)
            };
            all.len() == now.len() && all.iter().zip(&now).all(same)
        };
        let left = Self {
            key: self.key.filter(|key| differs(key, &letter.key)),
            value: self.value.filter(|value| differs(value, &letter.value)),
            headers: self.headers.filter(|headers| !same_headers(headers)),
        };
        (!left.parts().is_empty()).then_some(left)
    }

    /// What it changes.
    pub(crate) fn parts(&self) -> BTreeSet<Part> {
        let named = [
            (Part::Key, self.key.is_some()),
            (Part::Value, self.value.is_some()),
            (Part::Headers, self.headers.is_some()),
        ];
        named.into_iter().filter(|(_, is_named)| *is_named).map(|(part, _)| part).collect()
    }

    /// Makes of a letter the record that goes back, and says what was before. `id` names the redrive.
    pub(crate) fn apply(&self, letter: Raw, redrive_count: u64, id: &str) -> (Raw, Before) {
        let own = own_headers(&letter);
        let before = Before {
            key: self.key.as_ref().map(|_| Kept::of(letter.key.as_ref())),
            value: self.value.as_ref().map(|_| Kept::of(letter.value.as_ref())),
            headers: self.headers.as_ref().map(|_| own.iter().map(kept_header).collect()),
        };
        let bytes = |content: &Content| content.bytes().expect("it was checked");
        let new_header = |(name, content): &(String, Content)| (Bytes::from(name.clone()), bytes(content));
        let headers = self.headers.as_ref().map_or(own, |headers| headers.iter().map(new_header).collect());
        let marks = [(REDRIVE_COUNT, (redrive_count + 1).to_string()), (EDITED, id.to_owned())]
            .map(|(name, value)| (Bytes::from_static(name.as_bytes()), Some(Bytes::from(value))));
        let record = Raw {
            key: self.key.as_ref().map_or(letter.key, bytes),
            value: self.value.as_ref().map_or(letter.value, bytes),
            headers: headers.into_iter().chain(marks).collect(),
            ..letter
        };
        (record, before)
    }

    fn contents(&self) -> impl Iterator<Item = &Content> {
        let headers = self.headers.iter().flatten().map(|(_, content)| content);
        self.key.iter().chain(&self.value).chain(headers)
    }
}

impl Editable {
    /// What of a letter may be seen and is short enough to be changed by hand.
    pub(crate) fn of(redaction: &Redaction, topic: &str, letter: &Raw) -> Self {
        let mut editable = Self { edit: Edit::default(), left_out: BTreeMap::new() };
        let own = own_headers(letter);
        let is_hidden =
            |(name, _): &RecordHeader| redaction.header(topic, &String::from_utf8_lossy(name), String::new()) == HIDDEN;
        let length = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
        let all_headers = own.iter().map(|(name, value)| name.len() + length(value)).sum();
        for (part, hidden, bytes) in [
            (Part::Key, redaction.key(topic, String::new()) == HIDDEN, length(&letter.key)),
            (
                Part::Value,
                letter.value.as_deref().is_some_and(|value| hides(redaction, topic, value)),
                length(&letter.value),
            ),
            (Part::Headers, own.iter().any(is_hidden), all_headers),
        ] {
            let edit = &mut editable.edit;
            match (part, hidden, bytes > EDIT_BYTES_MAX) {
                (_, true, _) => drop(editable.left_out.insert(part, "hidden")),
                (_, _, true) => drop(editable.left_out.insert(part, "too-long")),
                (Part::Key, ..) => edit.key = Some(Content::of(letter.key.as_ref())),
                (Part::Value, ..) => edit.value = Some(Content::of(letter.value.as_ref())),
                (Part::Headers, ..) => {
                    let header = |(name, value): &RecordHeader| {
                        (String::from_utf8_lossy(name).into_owned(), Content::of(value.as_ref()))
                    };
                    edit.headers = Some(own.iter().map(header).collect());
                }
            }
        }
        editable
    }
}

/// Whether the rules hide anything of a value.
fn hides(redaction: &Redaction, topic: &str, value: &[u8]) -> bool {
    match redaction.value(topic, value) {
        Shown::Hidden => true,
        Shown::Json(shown) => serde_json::from_slice::<serde_json::Value>(value).ok() != Some(shown),
        Shown::Bytes(_) => false,
    }
}

/// The headers that a letter's record had in its source topic, but for the marks of redrives.
fn own_headers(letter: &Raw) -> Vec<RecordHeader> {
    let is_mark = |name: &[u8]| [EDITED.as_bytes(), REDRIVE_COUNT.as_bytes()].contains(&name);
    redrive_headers(&letter.headers, 0).into_iter().filter(|(name, _)| !is_mark(name)).collect()
}

fn kept_header((name, value): &RecordHeader) -> (String, Kept) {
    (String::from_utf8_lossy(name).into_owned(), Kept::of(value.as_ref()))
}

impl Content {
    fn of(bytes: Option<&Bytes>) -> Self {
        match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
            None => Self::None,
            Some((_, Ok(text))) => Self::Text(text.to_owned()),
            Some((bytes, Err(_))) => Self::Base64(BASE64_STANDARD.encode(bytes)),
        }
    }

    /// The bytes that are meant.
    pub(crate) fn bytes(&self) -> Result<Option<Bytes>, String> {
        match self {
            Self::None => Ok(None),
            Self::Text(text) => Ok(Some(Bytes::from(text.clone()))),
            Self::Base64(text) => {
                let bytes = BASE64_STANDARD.decode(text).map_err(|error| format!("edit: base64: {error}"))?;
                Ok(Some(bytes.into()))
            }
        }
    }
}

impl Kept {
    fn of(bytes: Option<&Bytes>) -> Self {
        match bytes {
            Some(bytes) if bytes.len() > EDIT_BYTES_MAX => {
                let sha256 = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
                Self::Hash { bytes: bytes.len(), sha256 }
            }
            bytes => Self::Whole(Content::of(bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn letter(value: &[u8], headers: &[(&str, &str)]) -> Raw {
        let of_letter = [("kafka_dlt-original-topic", "t"), ("dlq-reason", "r"), ("dlq-redrive-count", "1")];
        let header =
            |(name, value): &(&str, &str)| (Bytes::from(name.to_string()), Some(Bytes::from(value.to_string())));
        Raw {
            partition: 0,
            offset: 7,
            timestamp_ms: None,
            key: Some(Bytes::from("k")),
            value: Some(Bytes::copy_from_slice(value)),
            headers: headers.iter().chain(&of_letter).map(header).collect(),
        }
    }

    fn edit(json: serde_json::Value) -> Edit {
        serde_json::from_value(json).expect("an edit")
    }

    fn texts(headers: &[RecordHeader]) -> Vec<(String, String)> {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        headers.iter().map(|(name, value)| (text(name), value.as_ref().map(text).unwrap_or_default())).collect()
    }

    #[test]
    fn only_what_is_named_changes_and_what_was_before_is_kept() {
        let before = letter(b"old", &[("own", "1"), (EDITED, "earlier")]);
        let (record, kept) = edit(json!({"value": {"text": "new"}})).apply(before.clone(), 1, "id");
        assert_eq!((record.key.as_deref(), record.value.as_deref()), (Some(&b"k"[..]), Some(&b"new"[..])));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(texts(&record.headers), [pair("own", "1"), pair("dlq-redrive-count", "2"), pair(EDITED, "id")]);
        assert_eq!(json!(kept), json!({"value": {"text": "old"}}));

        let all = edit(json!({"key": "none", "value": {"base64": "/w=="}, "headers": [["a", "none"]]}));
        let (record, kept) = all.apply(before, 1, "id");
        assert_eq!((record.key, record.value.as_deref()), (None, Some(&b"\xff"[..])));
        assert_eq!(texts(&record.headers)[0], pair("a", ""));
        assert_eq!(
            json!(kept),
            json!({"key": {"text": "k"}, "value": {"text": "old"}, "headers": [["own", {"text": "1"}]]})
        );
    }

    #[test]
    fn a_long_value_is_kept_by_its_hash() {
        let long = vec![b'x'; EDIT_BYTES_MAX + 1];
        let (_, kept) = edit(json!({"value": {"text": "short"}})).apply(letter(&long, &[]), 0, "id");
        assert_eq!(json!(kept)["value"]["bytes"], EDIT_BYTES_MAX + 1);
        assert_eq!(serde_json::from_value::<Before>(json!(kept)).unwrap(), kept);
    }

    #[test]
    fn what_the_letter_has_already_is_no_change() {
        let of = letter(b"v", &[("own", "1")]);
        let same = json!({"key": {"text": "k"}, "value": {"base64": "dg=="}, "headers": [["own", {"text": "1"}]]});
        assert_eq!(edit(same.clone()).changes(&of), None);
        let mut other = same;
        other["headers"][0][1] = json!({"text": "2"});
        assert_eq!(edit(other).changes(&of).unwrap().parts(), [Part::Headers].into());
        assert_eq!(edit(json!({"key": "none"})).changes(&of).unwrap().parts(), [Part::Key].into());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (json, why) in [
            (json!({"value": {"text": format!("a {HIDDEN} b")}}), "hidden"),
            (json!({"value": {"base64": "#"}}), "base64"),
            (json!({"value": {"text": "x".repeat(EDIT_BYTES_MAX + 1)}}), "more than"),
            (json!({"headers": [["dlq-redrive-count", {"text": "0"}]]}), "no header"),
            (json!({"headers": [["", "none"]]}), "no header"),
        ] {
            let refused = edit(json).check().unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
        assert!(serde_json::from_value::<Edit>(json!({"partition": 1})).is_err());
        assert_eq!(edit(json!({"value": {"text": "x".repeat(EDIT_BYTES_MAX)}})).check(), Ok(()));
    }

    #[test]
    fn what_is_hidden_is_left_out_of_what_may_be_edited() {
        let rules = "[[rule]]\ntopics = ['t']\nfields = ['/card']\nheaders = ['own']\n";
        let rules: Redaction = toml::from_str(rules).unwrap();
        let of = |redaction: &Redaction, value: &[u8]| {
            json!(Editable::of(redaction, "t-g-dlq", &letter(value, &[("own", "1")])))
        };
        let hidden = of(&rules, br#"{"card": 1}"#);
        assert_eq!(
            hidden,
            json!({"edit": {"key": {"text": "k"}}, "left_out": {"value": "hidden", "headers": "hidden"}})
        );
        let shown = of(&Redaction::default(), br#"{"card":  1}"#);
        let expected =
            json!({"key": {"text": "k"}, "value": {"text": "{\"card\":  1}"}, "headers": [["own", {"text": "1"}]]});
        assert_eq!(shown, json!({"edit": expected, "left_out": {}}), "to the byte");
        assert_eq!(of(&rules, br#"{"other": 1}"#)["edit"]["value"], json!({"text": "{\"other\": 1}"}));
    }
}
