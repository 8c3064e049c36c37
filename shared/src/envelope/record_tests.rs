use std::collections::BTreeMap;

use super::*;

type Pairs = BTreeMap<&'static str, &'static str>;

const NONE: Pairs = Pairs::new();

impl Headers for Pairs {
    fn get(&self, name: &str) -> Option<&[u8]> {
        BTreeMap::get(self, name).map(|value| value.as_bytes())
    }
}

fn read_with<'a>(value: &'a str, headers: &[(&'static str, &'static str)]) -> Envelope<'a> {
    Envelope::read(Some(value.as_bytes()), &headers.iter().copied().collect::<Pairs>(), &mut SchemaHead::default())
        .expect("readable")
}

fn read(value: &str) -> Envelope<'_> {
    read_with(value, &[])
}

fn error(value: &[u8]) -> EnvelopeError {
    Envelope::read(Some(value), &NONE, &mut SchemaHead::default()).expect_err("not readable")
}

#[test]
fn the_four_value_forms_are_told_apart() {
    let row = r#"{"site_id":"s"}"#;
    let plain = format!(r#"{{"before":null,"after":{row},"source":{{"lsn":7,"ts_ms":5}},"op":"u","ts_ms":1}}"#);
    let wrapped = format!(r#"{{"schema":{{"type":"struct","fields":[]}},"payload":{plain}}}"#);
    for value in [&plain, &wrapped] {
        let envelope = read(value);
        assert_eq!((envelope.operation, envelope.row), (Operation::Write, Some(row)));
        assert_eq!((envelope.position, envelope.committed_at_ms), (Some(SourcePosition::Lsn(7)), Some(5)));
    }
    let flat = r#"{"site_id":"s","__deleted":"false","__op":"u","__lsn":7,"__source_ts_ms":5}"#;
    let envelope = read(flat);
    assert_eq!((envelope.operation, envelope.row), (Operation::Write, Some(flat)));
    assert_eq!((envelope.position, envelope.committed_at_ms), (Some(SourcePosition::Lsn(7)), Some(5)));
    for tombstone in ["null", r#"{"schema":{},"payload":null}"#] {
        assert_eq!(read(tombstone).operation, Operation::Tombstone);
    }
    assert_eq!(
        Envelope::read(None, &NONE, &mut SchemaHead::default()).expect("readable").operation,
        Operation::Tombstone
    );
}

#[test]
fn a_flattened_row_may_have_its_fields_in_headers() {
    let envelope = read_with(r#"{"site_id":"s"}"#, &[("__op", "u"), ("__source_lsn", "9")]);
    assert_eq!((envelope.operation, envelope.position), (Operation::Write, Some(SourcePosition::Lsn(9))));
    let envelope = read_with(r#"{"site_id":"s"}"#, &[("__op", "\"d\""), ("__source_lsn", "9")]);
    assert_eq!((envelope.operation, envelope.row), (Operation::Delete, None));
    let headers: Pairs = [("__op", "d"), ("__source_lsn", "9")].into_iter().collect();
    let envelope = Envelope::read(None, &headers, &mut SchemaHead::default()).expect("readable");
    assert_eq!((envelope.operation, envelope.position), (Operation::Delete, Some(SourcePosition::Lsn(9))));
}

#[test]
fn operations_are_read_from_the_envelope() {
    for (op, operation) in [
        ("c", Operation::Write),
        ("u", Operation::Write),
        ("r", Operation::Write),
        ("d", Operation::Delete),
        ("t", Operation::Truncate),
        ("m", Operation::None),
    ] {
        let value = format!(r#"{{"before":null,"after":{{"site_id":"s"}},"source":{{"lsn":null}},"op":"{op}"}}"#);
        let envelope = read(&value);
        assert_eq!((envelope.operation, envelope.position), (operation, None), "{op}");
        assert_eq!(envelope.row.is_some(), operation == Operation::Write, "{op}: a delete's row is no data");
    }
    let unknown = error(br#"{"op":"x","after":{},"source":{}}"#);
    assert!(matches!(unknown, EnvelopeError::UnknownOperation(op) if op == "x"));
}

#[test]
fn records_that_are_no_rows_say_nothing() {
    for value in [
        r#"{"ts_ms":1}"#,
        r#"{"status":"BEGIN","id":"1:2","event_count":null,"data_collections":null,"ts_ms":1}"#,
        r#"{"source":{},"ts_ms":1,"databaseName":"d","ddl":"create table x()","tableChanges":[]}"#,
        r#"{"op":"m","ts_ms":1,"source":{"lsn":1},"message":{"prefix":"p","content":"AA=="}}"#,
    ] {
        assert_eq!(read(value).operation, Operation::None, "{value}");
    }
}

#[test]
fn mysql_positions_are_file_pos_and_row() {
    let value = r#"{"after":{"id":1},"op":"u","source":{"connector":"mysql","file":"mysql-bin.000003","pos":"154","row":2,"server_id":223344}}"#;
    let position = SourcePosition::Binlog { server_id: 223_344, file: 3, pos: 154, row: 2 };
    assert_eq!(read(value).position, Some(position));
    let flat = r#"{"id":1,"__source_file":"mysql-bin.000003","__source_pos":154,"__source_row":2,"__source_server_id":223344}"#;
    assert_eq!(read(flat).position, Some(position));
}

#[test]
fn what_cannot_be_read_is_told_by_kind() {
    for bad in [&b"{"[..], b"\xff{}", b"", b"{\"a\":1} x", b"{\"after\":{\"a\":tru},\"op\":\"c\"}"] {
        assert!(matches!(error(bad), EnvelopeError::InvalidJson(_)), "{bad:?}");
    }
    for bad in [&b"[]"[..], b"1", b"{\"op\":\"c\",\"after\":null}", b"{\"op\":\"c\",\"after\":[],\"source\":{}}"] {
        assert!(matches!(error(bad), EnvelopeError::InvalidRow(_)), "{bad:?}");
    }
    let bad_lsn = br#"{"op":"d","before":null,"source":{"lsn":"x"}}"#;
    assert!(matches!(error(bad_lsn), EnvelopeError::InvalidRow(_)));
}

#[test]
fn what_a_record_says_does_not_depend_on_those_before_it() {
    let row = r#"{"before":null,"after":{"site_id":"s"},"source":{"lsn":7},"op":"u"}"#;
    let values = [
        format!(r#"{{"schema":{{"a":1}},"payload":{row}}}"#),
        format!(r#"{{"schema":{{"a":1}},"payload":{}}}"#, row.replace('7', "8")),
        format!(r#" {{"schema":{{"a":1}}, "payload": {row} }} "#),
        format!(r#"{{"payload":{row},"schema":{{"a":1}}}}"#),
        format!(r#"{{"schema":{{"b":1}},"payload":{row}}}"#),
        format!(r#"{{"schema":{{"a":1}},"payload":{row},"payload":null}}"#),
        format!(r#"{{"schema":{{"a":1}},"payload":{row},"more":{{}}}}"#),
        format!(r#"{{"schema":{{"a":1}},"payload":{{"schema":{{"a":1}},"payload":{row}}}}}"#),
        format!(r#"{{"schema":{{"a":1}},"payload":{row}"#),
        format!(r#"{{"schema":{{"a":1}},"payload":{row}}}}}"#),
        r#"{"schema":{"a":1},"payload":null}"#.to_owned(),
        r#"{"schema":{"a":1},"payload":}"#.to_owned(),
        r#"{"schema":{"a":1},"payload":7}"#.to_owned(),
        r#"{"schema":{"a":1},"payload":{"site_id":"s"}}"#.to_owned(),
        row.to_owned(),
    ];
    let says =
        |value: &str, head: &mut SchemaHead| format!("{:?}", Envelope::read(Some(value.as_bytes()), &NONE, head));
    for first in &values {
        for second in &values {
            let mut head = SchemaHead::default();
            says(first, &mut head);
            assert_eq!(says(second, &mut head), says(second, &mut SchemaHead::default()), "{second} behind {first}");
        }
    }
}

#[test]
fn a_schema_is_read_once() {
    let mut head = SchemaHead::default();
    let value = r#"{"schema":{"a":1},"payload":{"site_id":"s"}}"#;
    Envelope::read(Some(value.as_bytes()), &NONE, &mut head).expect("readable");
    assert_eq!(head.payload_of(value), Some(r#"{"site_id":"s"}"#));
}
