//! What a redrive changed of its letter, read back from the steps, and shown redacted.

use std::collections::BTreeMap;

use bytes::Bytes;
use messaging::settings::Settings;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Before, Edit, Kept, Part, RedriveError, Selection, Step, ledger::Ledger, plan};
use crate::{records::shown_value, redaction::Redaction};

/// An edited letter: where it stands, who changed it and why, and how.
#[derive(Debug, Serialize)]
pub(crate) struct Difference {
    topic: String,
    partition: i32,
    offset: i64,
    at: String,
    by: String,
    reason: String,
    parts: BTreeMap<Part, Change>,
}

#[derive(Debug, Serialize)]
struct Change {
    before: Value,
    after: Value,
}

/// The difference that a redrive made; `Refused` when there is none (yet).
pub(crate) async fn difference(
    settings: &Settings,
    redaction: &Redaction,
    id: &str,
) -> Result<Difference, RedriveError> {
    let (settings, redaction, id) = (settings.clone(), redaction.clone(), id.to_owned());
    plan::blocking(move || {
        let mut found = None;
        let each = |step: Step| {
            if step.redrive.id == id && step.before.is_some() {
                found = Some(step);
            }
        };
        Ledger::read(&settings, "", None, each)?;
        let shown = found.and_then(|step| shown(&redaction, step));
        shown.ok_or_else(|| RedriveError::Refused(format!("the redrive {id} has moved no edited letter")))
    })
    .await
}

fn shown(redaction: &Redaction, step: Step) -> Option<Difference> {
    let (before, edit, topic) = (step.before?, step.redrive.edit?, step.redrive.dead_letter_topic);
    let Selection::Letter { partition, offset } = step.redrive.selection else { return None };
    let parts = changes(redaction, &topic, &before, &edit);
    Some(Difference { topic, partition, offset, at: step.at, by: step.by, reason: step.reason, parts })
}

fn changes(redaction: &Redaction, topic: &str, before: &Before, edit: &Edit) -> BTreeMap<Part, Change> {
    let key = |key: Option<Bytes>| json!(key.map(|key| redaction.key(topic, text(&key))));
    let value = |value: Option<Bytes>| json!(shown_value(redaction, topic, value.as_deref()));
    let header =
        |name: &str, value: Option<Bytes>| json!(value.map(|value| redaction.header(topic, name, text(&value))));
    let mut parts = BTreeMap::new();
    if let (Some(was), Some(is)) = (&before.key, &edit.key) {
        parts.insert(Part::Key, Change { before: kept(was, key), after: key(is.bytes().ok().flatten()) });
    }
    if let (Some(was), Some(is)) = (&before.value, &edit.value) {
        parts.insert(Part::Value, Change { before: kept(was, value), after: value(is.bytes().ok().flatten()) });
    }
    if let (Some(was), Some(is)) = (&before.headers, &edit.headers) {
        let was = was.iter().map(|(name, was)| json!([name, kept(was, |bytes| header(name, bytes))]));
        let is = is.iter().map(|(name, is)| json!([name, header(name, is.bytes().ok().flatten())]));
        parts.insert(Part::Headers, Change { before: was.collect(), after: is.collect() });
    }
    parts
}

/// A hash tells nothing to those who do not have what it is of.
fn kept(kept: &Kept, show: impl Fn(Option<Bytes>) -> Value) -> Value {
    match kept {
        Kept::Whole(content) => show(content.bytes().ok().flatten()),
        Kept::Hash { .. } => json!(kept),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_shown_redacted_on_both_sides() {
        let rules = "[[rule]]\ntopics = ['t']\nfields = ['/card']\nheaders = ['own']\nkey = true\n";
        let rules: Redaction = toml::from_str(rules).unwrap();
        let before = json!({"key": {"text": "ann"}, "value": {"text": r#"{"card":1,"n":1}"#}, "headers": [["own", {"text": "1"}]]});
        let edit = json!({"key": {"text": "bob"}, "value": {"text": r#"{"card":2,"n":2}"#}, "headers": [["own", {"text": "2"}], ["o", "none"]]});
        let (before, edit) = (serde_json::from_value(before).unwrap(), serde_json::from_value(edit).unwrap());
        let open = json!(changes(&Redaction::default(), "t-g-dlq", &before, &edit));
        assert_eq!(open["value"]["before"]["json"], json!({"card": 1, "n": 1}));
        assert_eq!(open["headers"]["after"], json!([["own", "2"], ["o", null]]));
        let hidden = json!(changes(&rules, "t-g-dlq", &before, &edit));
        assert_eq!(hidden["key"], json!({"before": "•••", "after": "•••"}));
        assert_eq!(hidden["value"]["before"]["json"], json!({"card": "•••", "n": 1}));
        assert_eq!(hidden["value"]["after"]["json"], json!({"card": "•••", "n": 2}));
        assert_eq!(hidden["headers"]["before"], json!([["own", "•••"]]));
    }
}
