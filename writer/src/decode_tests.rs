use super::*;

type Pairs<'a> = &'a [(&'a str, &'a str)];

struct Named<'a>(Pairs<'a>);

impl Headers for Named<'_> {
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().rev().find(|(header, _)| *header == name).map(|(_, value)| value.as_bytes())
    }
}

const LIMITS: Limits = Limits { value_bytes_max: 400, site_apps_max: 3 };

fn read(key: Option<&[u8]>, value: Option<&[u8]>, headers: Pairs<'_>) -> Result<Option<Event>, Rejection> {
    decode(&Raw { key, value, headers: Named(headers) }, &Projection::default(), LIMITS, &mut SchemaHead::default())
}

/// The event of a record with the key `s`.
fn event(value: &str) -> Event {
    read(Some(b"s"), Some(value.as_bytes()), &[]).expect("valid").expect("an event")
}

fn reason(key: Option<&str>, value: &str) -> Option<Reason> {
    read(key.map(str::as_bytes), Some(value.as_bytes()), &[]).err().map(|rejection| rejection.reason)
}

fn create(row: &str) -> String {
    format!(r#"{{"before":null,"after":{row},"source":{{"lsn":7,"ts_ms":5}},"op":"c"}}"#)
}

fn site(id: &str) -> SiteId {
    SiteId::new(id).expect("an id")
}

fn apps_of(event: &Event) -> Option<&str> {
    match &event.kind {
        Kind::Write { apps: Told::Value(apps), .. } => Some(&apps.json),
        _ => None,
    }
}

fn version_of(event: &Event) -> &Told<Option<i64>> {
    match &event.kind {
        Kind::Write { version, .. } => version,
        other => panic!("{other:?} has no version"),
    }
}

#[test]
fn a_write_tells_site_apps_version_and_place_in_the_source() {
    let event = event(&create(r#"{"site_id":"s","version":3,"installed_apps":"[{\"appDefId\":\"a\"}]"}"#));
    assert_eq!((event.site_id.as_str(), event.committed_at_ms), ("s", Some(5)));
    assert_eq!(event.source_position, Some(SourcePosition::Lsn(7)));
    assert_eq!(apps_of(&event), Some(r#"[{"app_id":"a"}]"#));
    assert!(matches!(event.kind, Kind::Write { version: Told::Value(Some(3)), old_key: None, .. }));
}

#[test]
fn each_rejection_has_its_reason() {
    let with_apps = |apps: &str| create(&format!(r#"{{"site_id":"s","installed_apps":{apps}}}"#));
    let four = with_apps(r#"[{"appDefId":"a"},{"appDefId":"b"},{"appDefId":"c"},{"appDefId":"d"}]"#);
    for (value, expected) in [
        ("{", Reason::InvalidJson),
        ("", Reason::InvalidJson),
        ("{\"site_id\":\"s\",\"installed_apps\":[}", Reason::InvalidJson),
        ("{\"site_id\":\"s\",\"name\":\"a\0b\"}", Reason::InvalidJson),
        ("[]", Reason::InvalidRow),
        ("7", Reason::InvalidRow),
        (r#"{"op":"u","after":null,"source":{}}"#, Reason::InvalidRow),
        (r#"{"op":"u","after":"text","source":{}}"#, Reason::InvalidRow),
        (r#"{"op":"u","after":{"site_id":"s"},"source":{"lsn":"x"}}"#, Reason::InvalidRow),
        (&create(r#"{"site_id":"s","version":"one","installed_apps":[]}"#), Reason::InvalidRow),
        (&create(r#"{"site_id":"other","installed_apps":[]}"#), Reason::InvalidKey),
        (&with_apps("{}"), Reason::InvalidApps),
        (&with_apps("\"text\""), Reason::InvalidApps),
        (&with_apps("[7]"), Reason::InvalidApp),
        (&with_apps("[{}]"), Reason::InvalidApp),
        (&with_apps(r#"[{"appDefId":"a/b"}]"#), Reason::InvalidId),
        (&with_apps(r#"[{"appDefId":"a\u0000b"}]"#), Reason::InvalidId),
        (r#"{"op":"x","after":{"site_id":"s"},"source":{}}"#, Reason::UnknownOperation),
        (r#"{"site_id":"s","installed_apps":[],"__op":"x"}"#, Reason::UnknownOperation),
        (r#"{"op":"t","before":null,"after":null,"source":{"lsn":7}}"#, Reason::Truncate),
        (&create(&format!(r#"{{"site_id":"s","name":"{}"}}"#, "x".repeat(400))), Reason::TooLarge),
        (&four, Reason::TooManyApps),
    ] {
        assert_eq!(reason(Some("s"), value), Some(expected), "{value}");
    }
    assert_eq!(
        reason(Some("a/b"), &with_apps("{}")),
        Some(Reason::InvalidId),
        "a key that names no site is told first"
    );
    let not_utf8 = read(Some(b"s"), Some(b"{\"site_id\":\"\xff\"}"), &[]).expect_err("not UTF-8");
    assert_eq!(not_utf8.reason, Reason::InvalidJson);
}

#[test]
fn limits_are_reached_before_they_are_exceeded() {
    let row = |name: usize| create(&format!(r#"{{"site_id":"s","name":"{}"}}"#, "x".repeat(name)));
    let longest = LIMITS.value_bytes_max - row(0).len();
    assert_eq!(reason(Some("s"), &row(longest)), None);
    assert_eq!(reason(Some("s"), &row(longest + 1)), Some(Reason::TooLarge));
    let apps = |count: usize| {
        let apps: Vec<_> = (0..count).map(|n| format!(r#"{{"appDefId":"{n}"}}"#)).collect();
        create(&format!(r#"{{"site_id":"s","installed_apps":[{}]}}"#, apps.join(",")))
    };
    assert_eq!(reason(Some("s"), &apps(3)), None);
    assert_eq!(reason(Some("s"), &apps(4)), Some(Reason::TooManyApps));
}

#[test]
fn the_key_names_the_site_in_every_form() {
    for (key, id) in [
        (r#"{"site_id":"s-1"}"#, "s-1"),
        (r#"{"schema":{"type":"struct"},"payload":{"site_id":"s-1"}}"#, "s-1"),
        (r#"{"tenant":1,"site_id":42}"#, "42"),
        (r#"{"id":"the only one"}"#, "the only one"),
        (r#""quoted""#, "quoted"),
        ("42", "42"),
        ("plain", "plain"),
    ] {
        let event = read(Some(key.as_bytes()), None, &[]).expect("valid").expect("an event");
        assert_eq!((event.site_id.as_str(), &event.kind), (id, &Kind::Tombstone), "{key}");
    }
}

#[test]
fn a_key_that_names_no_site_is_rejected() {
    let long = "x".repeat(129);
    for (key, expected) in [
        (None, Reason::InvalidKey),
        (Some("null"), Reason::InvalidKey),
        (Some(r#"{"schema":{},"payload":null}"#), Reason::InvalidKey),
        (Some(r#"{"a":1,"b":2}"#), Reason::InvalidKey),
        (Some(r#"{"site_id":null}"#), Reason::InvalidKey),
        (Some("[1]"), Reason::InvalidKey),
        (Some("a/b"), Reason::InvalidId),
        (Some(r#""a\u0000b""#), Reason::InvalidId),
        (Some(r#"{"site_id":""}"#), Reason::InvalidId),
        (Some(long.as_str()), Reason::InvalidId),
    ] {
        for value in [None, Some(r#"{"op":"d","before":{"site_id":"s"},"after":null,"source":{"lsn":1}}"#)] {
            let rejection = read(key.map(str::as_bytes), value.map(str::as_bytes), &[]).expect_err("no site");
            assert_eq!(rejection.reason, expected, "{key:?} with {value:?}");
        }
        assert!(reason(key, &create(r#"{"installed_apps":[]}"#)) == Some(expected), "{key:?} with a row");
    }
    assert_eq!(read(Some(b"\xff"), None, &[]).expect_err("not UTF-8").reason, Reason::InvalidKey);
}

#[test]
fn key_and_row_agree_as_text_or_the_key_alone_decides() {
    for (key, id) in [("42", "42"), (r#""42""#, "42"), (r#"{"site_id":"42"}"#, r#""42""#), ("true", "true")] {
        assert_eq!(reason(Some(key), &create(&format!(r#"{{"site_id":{id}}}"#))), None, "{key} {id}");
    }
    for (key, id) in [("42", "43"), ("0042", "42"), ("s", r#""S""#), ("s", r#""s ""#)] {
        assert_eq!(
            reason(Some(key), &create(&format!(r#"{{"site_id":{id}}}"#))),
            Some(Reason::InvalidKey),
            "{key} {id}"
        );
    }
    assert_eq!(event(&create(r#"{"installed_apps":[]}"#)).site_id, site("s"), "a row need not name its id");
}

#[test]
fn a_deletes_fillers_are_no_data() {
    let before = r#""site_id":"another","version":"x","installed_apps":"{""#;
    let enveloped = format!(r#"{{"before":{{{before}}},"after":null,"source":{{"lsn":7}},"op":"d"}}"#);
    let flat = format!(r#"{{{before},"__op":"d","__deleted":"true","__lsn":7}}"#);
    for value in [enveloped, flat] {
        let event = event(&value);
        assert_eq!((event.kind, event.source_position), (Kind::Delete, Some(SourcePosition::Lsn(7))), "{value}");
    }
}

#[test]
fn a_null_value_is_a_tombstone_unless_a_header_says_delete() {
    for value in [None, Some(&b"null"[..]), Some(br#"{"schema":{},"payload":null}"#)] {
        let read = |headers| read(Some(b"s"), value, headers).expect("valid").expect("an event");
        assert_eq!((read(&[]).kind, read(&[]).source_position), (Kind::Tombstone, None));
        assert_eq!((read(&[("__op", "d")]).kind, read(&[("__op", "d")]).source_position), (Kind::Delete, None));
        let placed = read(&[("__op", "d"), ("__source_lsn", "9")]);
        assert_eq!((placed.kind, placed.source_position), (Kind::Delete, Some(SourcePosition::Lsn(9))));
    }
}

#[test]
fn a_version_may_be_a_number_a_text_null_or_missing() {
    for (version, told) in [
        (r#","version":7"#, Told::Value(Some(7))),
        (r#","version":"7""#, Told::Value(Some(7))),
        (r#","version":-9223372036854775808"#, Told::Value(Some(i64::MIN))),
        (r#","version":null"#, Told::Value(None)),
        ("", Told::Absent),
    ] {
        let event = event(&create(&format!(r#"{{"site_id":"s","installed_apps":[]{version}}}"#)));
        assert_eq!(version_of(&event), &told, "{version}");
    }
    for version in ["9223372036854775808", "1.5", "\"\"", "\"x\"", "true", "[]", "{}"] {
        let value = create(&format!(r#"{{"site_id":"s","installed_apps":[],"version":{version}}}"#));
        assert_eq!(reason(Some("s"), &value), Some(Reason::InvalidRow), "{version}");
    }
}

#[test]
fn a_version_that_is_not_mapped_is_none() {
    let projection = Projection::parse("[site]\nid = '/site_id'\napps = '/installed_apps'\n[app]\nid = '/appDefId'");
    let value = create(r#"{"site_id":"s","installed_apps":[],"version":"not read"}"#);
    let raw = Raw { key: Some(&b"s"[..]), value: Some(value.as_bytes()), headers: Named(&[]) };
    let event = decode(&raw, &projection.expect("valid"), LIMITS, &mut SchemaHead::default())
        .expect("valid")
        .expect("an event");
    assert_eq!(version_of(&event), &Told::Value(None));
}

#[test]
fn absent_apps_are_not_null_and_not_empty() {
    for (apps, told) in [
        (r#","installed_apps":"__debezium_unavailable_value""#, None),
        ("", None),
        (r#","installed_apps":null"#, Some("[]")),
        (r#","installed_apps":"null""#, Some("[]")),
        (r#","installed_apps":"[]""#, Some("[]")),
    ] {
        let event = event(&create(&format!(r#"{{"site_id":"s"{apps}}}"#)));
        assert_eq!(apps_of(&event), told, "{apps}");
        assert_eq!(matches!(event.kind, Kind::Write { apps: Told::Absent, .. }), told.is_none(), "{apps}");
    }
}

#[test]
fn the_placeholder_is_text_in_every_other_place() {
    let placeholder = "__debezium_unavailable_value";
    let row = format!(
        r#"{{"site_id":"s","name":"{placeholder}","installed_apps":[{{"appDefId":"a","version":"{placeholder}"}}]}}"#
    );
    let expected = format!(r#"[{{"app_id":"a","version":"{placeholder}"}}]"#);
    assert_eq!(apps_of(&event(&create(&row))), Some(expected.as_str()));
    // A row whose id is this text, under the key of another site.
    let contradicts = create(&format!(r#"{{"site_id":"{placeholder}","installed_apps":[]}}"#));
    assert_eq!(reason(Some(placeholder), &contradicts), None);
    assert_eq!(reason(Some("s"), &contradicts), Some(Reason::InvalidKey));
}

#[test]
fn the_create_of_a_key_change_names_the_old_key_in_every_form() {
    let value = create(r#"{"site_id":"s","installed_apps":[]}"#);
    for old in [r#"{"site_id":"old"}"#, r#"{"schema":{},"payload":{"site_id":"old"}}"#, r#""old""#, "old"] {
        let event =
            read(Some(b"s"), Some(value.as_bytes()), &[(OLD_KEY_HEADER, old)]).expect("valid").expect("an event");
        assert!(matches!(event.kind, Kind::Write { old_key: Some(ref key), .. } if *key == site("old")), "{old}");
    }
    for (old, expected) in [("null", Reason::InvalidKey), ("a/b", Reason::InvalidId)] {
        let rejection = read(Some(b"s"), Some(value.as_bytes()), &[(OLD_KEY_HEADER, old)]).expect_err("no old key");
        assert_eq!(rejection.reason, expected, "{old}");
    }
}

#[test]
fn a_truncate_has_no_key_and_is_told_as_what_it_is() {
    for value in [r#"{"op":"t","before":null,"after":null,"source":{}}"#, r#"{"__op":"t"}"#] {
        assert_eq!(reason(None, value), Some(Reason::Truncate), "{value}");
    }
    assert_eq!(reason(None, r#"{"op":"x","source":{}}"#), Some(Reason::UnknownOperation));
    assert_eq!(reason(None, "{"), Some(Reason::InvalidJson));
}

#[test]
fn records_that_are_no_rows_are_skipped_whatever_their_key() {
    for value in [
        r#"{"ts_ms":1}"#,
        r#"{"schema":{},"payload":{"ts_ms":1}}"#,
        r#"{"op":"m","ts_ms":1,"source":{"lsn":1},"message":{"prefix":"p","content":"AA=="}}"#,
        r#"{"status":"BEGIN","id":"1:2","event_count":null,"data_collections":null,"ts_ms":1}"#,
        r#"{"source":{},"ts_ms":1,"databaseName":"d","ddl":"create table x()","tableChanges":[]}"#,
    ] {
        for key in [None, Some(&b"null"[..]), Some(b"\xff"), Some(br#"{"serverName":"s"}"#), Some(b"a/b")] {
            assert_eq!(read(key, Some(value.as_bytes()), &[]), Ok(None), "{value} with {key:?}");
        }
    }
}

#[test]
fn a_row_with_a_column_named_like_a_member_of_other_records_is_a_row() {
    for column in [r#""event_count":7"#, r#""ddl":"x""#, r#""tableChanges":[]"#, r#""op":"x","message":"y""#] {
        let value =
            format!(r#"{{"site_id":"s","installed_apps":[],{column},"__op":"u","__deleted":"false","__lsn":7}}"#);
        let read = read(Some(b"s"), Some(value.as_bytes()), &[]);
        assert!(matches!(&read, Ok(Some(event)) if apps_of(event) == Some("[]")), "{column}: {read:?}");
    }
}
