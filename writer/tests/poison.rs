//! Values made to harm: each is rejected (or read) like any other, in little stack and in one pass. A test binary of its own,
//! as a stack that overflows ends the whole process.

use shared::envelope::{Headers, SchemaHead};
use writer::{
    decode::{Limits, Raw, decode},
    projection::Projection,
    rejection::Reason,
};

struct NoHeaders;

impl Headers for NoHeaders {
    fn get(&self, _: &str) -> Option<&[u8]> {
        None
    }
}

/// A depth that has been seen, and the stack of a worker thread of tokio.
const DEPTH: usize = 10_000;
const STACK_BYTES: usize = 2 << 20;

fn nested(open: &str, inner: &str, close: &str) -> String {
    open.repeat(DEPTH) + inner + &close.repeat(DEPTH)
}

fn create(row: &str) -> String {
    format!(r#"{{"before":null,"after":{row},"source":{{"lsn":7}},"op":"c"}}"#)
}

fn reason(key: String, value: String) -> Option<Reason> {
    let read = move || {
        let raw = Raw { key: Some(key.as_bytes()), value: Some(value.as_bytes()), headers: NoHeaders };
        let limits = Limits { value_bytes_max: 16 << 20, site_apps_max: 10 };
        decode(&raw, &Projection::default(), limits, &mut SchemaHead::default()).err().map(|rejection| rejection.reason)
    };
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(read).expect("a thread");
    thread.join().expect("no panic")
}

/// What is nested deeper than the limit is rejected wherever it stands, in the value or in the text of the apps.
#[test]
fn arrays_and_objects_nested_deep_are_rejected_and_take_no_stack() {
    let (arrays, objects) = (nested("[", "", "]"), nested(r#"{"a":"#, "1", "}"));
    let key = || "s".to_owned();
    for value in [
        create(&format!(r#"{{"site_id":"s","name":{objects},"installed_apps":[]}}"#)),
        create(&format!(r#"{{"site_id":"s","installed_apps":[{{"appDefId":"a","permissions":{arrays}}}]}}"#)),
        create(&format!(r#"{{"site_id":"s","installed_apps":"[{{\"appDefId\":\"a\",\"permissions\":{arrays}}}]"}}"#)),
        create(&format!(r#"{{"site_id":"s","installed_apps":{arrays}}}"#)),
        create(&format!(r#"{{"site_id":"s","installed_apps":{objects}}}"#)),
        create(&format!(r#"{{"site_id":{objects},"installed_apps":[]}}"#)),
        arrays.clone(),
    ] {
        assert_eq!(reason(key(), value.clone()), Some(Reason::InvalidJson), "{}…", &value[..80]);
    }
    assert_eq!(reason(arrays, create("{}")), Some(Reason::InvalidKey));
}

#[test]
fn an_envelope_in_an_envelope_is_no_row() {
    // Read level by level it would take a stack frame and a pass over the rest for each of them.
    let nested_envelopes = |depth: usize| r#"{"schema":0,"payload":"#.repeat(depth) + "1" + &"}".repeat(depth);
    assert_eq!(reason("s".to_owned(), nested_envelopes(900)), Some(Reason::InvalidRow));
    assert_eq!(reason("s".to_owned(), nested_envelopes(DEPTH)), Some(Reason::InvalidJson));
    let key = nested(r#"{"schema":0,"payload":"#, "1", "}");
    assert_eq!(reason(key, create("{}")), Some(Reason::InvalidKey));
}
