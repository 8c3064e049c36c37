//! The poison: one record of each kind that has harmed somebody, with what must become of it.

use acceptance::RawRecord;

/// What must become of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// One dead letter for this reason.
    Dead(&'static str),
    /// The site `id_of(number)` exists, with version 1 and without apps.
    Applied,
    /// Nothing: it is about no row.
    Skipped,
}

use Expected::{Applied, Dead, Skipped};

/// A record of the corpus.
pub struct Poison {
    pub name: &'static str,
    pub record: RawRecord,
    pub expected: Expected,
}

/// A version that the test's constraint forbids.
pub const FORBIDDEN_VERSION: i64 = 666;
const DEEP: usize = 10_000;
const MIB: usize = 1 << 20;

pub fn id_of(number: usize) -> String {
    format!("poison-{number}")
}

/// Collects; each record has headers that are easily lost: bytes that are no text, a null, a name that stands twice.
struct Corpus {
    partitions: i32,
    all: Vec<Poison>,
}

impl Corpus {
    fn add(&mut self, expected: Expected, name: &'static str, key: Option<&[u8]>, value: Option<Vec<u8>>) {
        let header = |key: &str, value: Option<&[u8]>| (key.to_owned(), value.map(<[u8]>::to_vec));
        let headers =
            vec![header("trace", Some(b"\x00\xff")), header("none", None), header("trace", Some(name.as_bytes()))];
        let partition = i32::try_from(self.all.len()).expect("a few") % self.partitions;
        let (key, offset, timestamp_ms) = (key.map(<[u8]>::to_vec), 0, 0);
        let record = RawRecord { partition, offset, key, value, headers, timestamp_ms };
        self.all.push(Poison { name, record, expected });
    }

    /// The id that the next record is to have.
    fn id(&self) -> String {
        id_of(self.all.len())
    }

    /// A value under a good key.
    fn value(&mut self, expected: Expected, name: &'static str, value: impl Into<Vec<u8>>) {
        let key = format!(r#"{{"site_id":"{}"}}"#, self.id());
        self.add(expected, name, Some(key.as_bytes()), Some(value.into()));
    }

    /// A create whose row has these members beside the id.
    fn row(&mut self, expected: Expected, name: &'static str, members: &str) {
        let row = format!(r#"{{"site_id":"{}",{members}}}"#, self.id());
        self.value(expected, name, create(&row));
    }

    /// A create with this column of apps.
    fn apps(&mut self, expected: Expected, name: &'static str, apps: &str) {
        self.row(expected, name, &format!(r#""version":1,"installed_apps":{apps}"#));
    }

    /// A create without an id in its row, under this key.
    fn key(&mut self, expected: Expected, name: &'static str, key: Option<&[u8]>) {
        self.add(expected, name, key, Some(create(r#"{"version":1,"installed_apps":[]}"#).into_bytes()));
    }
}

fn create(row: &str) -> String {
    format!(r#"{{"before":null,"after":{row},"source":{{"lsn":7}},"op":"c"}}"#)
}

fn nested(open: &str, close: &str) -> String {
    open.repeat(DEEP) + &close.repeat(DEEP)
}

/// All of it, over all partitions.
pub fn corpus(partitions: i32) -> Vec<Poison> {
    let mut corpus = Corpus { partitions, all: Vec::new() };
    values(&mut corpus);
    keys(&mut corpus);
    rows(&mut corpus);
    apps(&mut corpus);
    limits(&mut corpus);
    harmless(&mut corpus);
    corpus.all
}

fn values(c: &mut Corpus) {
    let json = Dead("invalid-json");
    c.value(json, "unreadable", r#"{"op":"c","after":{not json"#);
    c.value(json, "empty", "");
    c.value(json, "blanks", "  \n");
    c.value(json, "cut off", &create(r#"{"site_id":"x","installed_apps":[]}"#)[..40]);
    c.value(json, "two values", "{} {}");
    c.value(json, "invalid utf-8", *b"{\"op\":\"c\",\"after\":{\"site_id\":\"\xff\xfe\"}}");
    c.value(json, "a bare NUL", create("{\"name\":\"a\0b\"}"));
    c.value(json, "a number that is none", create(r#"{"version":0x1f}"#));
    for (name, value) in [("a number", "7"), ("an array", "[]"), ("a text", r#""text""#), ("true", "true")] {
        c.value(Dead("invalid-row"), name, value);
    }
    c.value(Dead("invalid-row"), "payload is an array", r#"{"schema":{},"payload":[1]}"#);
    c.value(
        Dead("invalid-row"),
        "an envelope within an envelope",
        r#"{"schema":{},"payload":{"schema":{},"payload":{"op":"c"}}}"#,
    );
    c.value(Dead("unknown-operation"), "op x", r#"{"op":"x","after":{"site_id":"x"},"source":{}}"#);
    c.value(Dead("unknown-operation"), "op is an object", r#"{"op":{},"after":{"site_id":"x"},"source":{}}"#);
    c.value(
        Dead("unknown-operation"),
        "op x with schema",
        r#"{"schema":{},"payload":{"op":"x","after":{},"source":{}}}"#,
    );
    c.value(Dead("unknown-operation"), "flattened op x", r#"{"site_id":"x","__op":"x"}"#);
    let truncate = br#"{"op":"t","before":null,"after":null,"source":{"lsn":7}}"#;
    c.add(Dead("truncate"), "truncate", None, Some(truncate.to_vec()));
}

fn keys(c: &mut Corpus) {
    let (key, id) = (Dead("invalid-key"), Dead("invalid-id"));
    c.key(key, "null key", None);
    c.add(key, "null key of a tombstone", None, None);
    c.key(key, "key is JSON null", Some(b"null"));
    c.key(key, "key with a null payload", Some(br#"{"schema":{},"payload":null}"#));
    c.key(key, "key is an array", Some(b"[1]"));
    c.key(key, "key with two strange members", Some(br#"{"a":1,"b":2}"#));
    c.key(key, "key is no utf-8", Some(b"\xff\xfe"));
    c.key(key, "key is a lone surrogate", Some(br#"{"site_id":"\ud800"}"#));
    c.add(
        key,
        "key contradicts the row",
        Some(b"one"),
        Some(create(r#"{"site_id":"two","installed_apps":[]}"#).into()),
    );
    c.key(id, "empty key", Some(b""));
    c.key(id, "empty id", Some(br#"{"site_id":""}"#));
    c.key(id, "id with a slash", Some(b"a/b"));
    c.key(id, "id with a NUL", Some(br#"{"site_id":"a\u0000b"}"#));
    c.key(id, "id with a newline", Some(br#"{"site_id":"a\nb"}"#));
    c.key(id, "id of 129 bytes", Some("x".repeat(129).as_bytes()));
    c.add(id, "tombstone of an id with a slash", Some(b"a/b"), None);
}

fn rows(c: &mut Corpus) {
    let row = Dead("invalid-row");
    c.value(row, "create without after", r#"{"op":"c","before":null,"source":{"lsn":7}}"#);
    c.value(row, "update with null after", r#"{"op":"u","before":null,"after":null,"source":{"lsn":7}}"#);
    c.value(row, "after is a text", create(r#""text""#));
    c.value(row, "after is an array", create("[]"));
    c.value(row, "id is an object", create(r#"{"site_id":{},"installed_apps":[]}"#));
    c.value(row, "lsn is a word", r#"{"op":"c","after":{"installed_apps":[]},"source":{"lsn":"x"}}"#);
    c.value(
        row,
        "lsn beyond 64 bits",
        r#"{"op":"c","after":{"installed_apps":[]},"source":{"lsn":18446744073709551616}}"#,
    );
    for (name, version) in [
        ("version is a word", r#""one""#),
        ("version is a fraction", "1.5"),
        ("version beyond 64 bits", "9223372036854775808"),
        ("version 1e400", "1e400"),
        ("version is an array", "[1]"),
    ] {
        c.row(row, name, &format!(r#""version":{version},"installed_apps":[]"#));
    }
    let incomplete = Dead("incomplete-row");
    c.row(incomplete, "apps left out", r#""version":1"#);
    c.apps(incomplete, "placeholder for an unknown site", r#""__debezium_unavailable_value""#);
    for name in ["refused by Postgres", "refused by Postgres once more"] {
        c.row(Dead("rejected-by-database"), name, &format!(r#""version":{FORBIDDEN_VERSION},"installed_apps":[]"#));
    }
}

fn apps(c: &mut Corpus) {
    for (name, apps) in [
        ("apps are an object", "{}"),
        ("apps are a number", "7"),
        ("apps are a word", r#""text""#),
        ("apps are a text that is cut off", r#""[{\"appDefId\":\"a\"}""#),
        ("apps are a text with more behind", r#""[] []""#),
        ("apps are a lone surrogate", r#""\ud800""#),
    ] {
        c.apps(Dead("invalid-apps"), name, apps);
    }
    for (name, app) in [
        ("app is a number", "7"),
        ("app is null", "null"),
        ("app is an array", "[]"),
        ("app without an id", r#"{"status":"INSTALLED"}"#),
        ("app id is null", r#"{"appDefId":null}"#),
        ("app id is an object", r#"{"appDefId":{}}"#),
        ("app id is a lone surrogate", r#"{"appDefId":"\udc00"}"#),
        ("app instance is an array", r#"{"appDefId":"a","instanceId":[1]}"#),
        ("app version is an object", r#"{"appDefId":"a","version":{}}"#),
    ] {
        c.apps(Dead("invalid-app"), name, &format!(r#"[{{"appDefId":"good"}},{app}]"#));
    }
    for (name, app) in [
        ("app id is empty", r#"{"appDefId":""}"#),
        ("app id with a NUL", r#"{"appDefId":"a\u0000b"}"#),
        ("instance id with a slash", r#"{"appDefId":"a","instanceId":"a/b"}"#),
    ] {
        c.apps(Dead("invalid-id"), name, &format!("[{app}]"));
    }
}

fn limits(c: &mut Corpus) {
    let json = Dead("invalid-json");
    c.row(json, "deep arrays in a column", &format!(r#""document":{},"installed_apps":[]"#, nested("[", "]")));
    c.apps(json, "deep arrays as apps", &nested("[", "]"));
    c.apps(json, "deep arrays in the text of the apps", &format!(r#""{}""#, nested("[", "]")));
    c.value(json, "deep objects", nested(r#"{"a":"#, "}").replacen("{\"a\":}", "{}", 1));
    let many: Vec<String> = (0..10_001).map(|number| format!(r#"{{"appDefId":"{number}"}}"#)).collect();
    c.apps(Dead("too-many-apps"), "10,001 apps", &format!("[{}]", many.join(",")));
    for (name, bytes) in [("17 MB", 17 * MIB), ("64 MB", 64 * MIB)] {
        c.row(Dead("too-large"), name, &format!(r#""document":"{}","installed_apps":[]"#, "x".repeat(bytes)));
    }
}

/// Odd, and no reason to refuse it: nobody looks at what is odd, or JSON says what it means.
fn harmless(c: &mut Corpus) {
    let good = r#""version":1,"installed_apps":[]"#;
    c.row(Applied, "a huge number in a column", &format!(r#"{good},"n":1e400"#));
    c.row(Applied, "a lone surrogate in a column", &format!(r#"{good},"name":"\ud800""#));
    c.row(Applied, "an escaped NUL in a column", &format!(r#"{good},"name":"a\u0000b""#));
    c.row(Applied, "a member twice", r#""version":"one","installed_apps":7,"version":1,"installed_apps":[]"#);
    c.row(Applied, "a version as text", r#""version":"1","installed_apps":"null""#);
    let wrapped = format!(r#"{{"schema":null,"payload":{}}}"#, create(&format!("{{{good}}}")));
    c.value(Applied, "wrapped in a null schema", wrapped);
    c.add(Skipped, "a heartbeat", None, Some(br#"{"ts_ms":7}"#.to_vec()));
    c.add(Skipped, "a logical message", None, Some(br#"{"op":"m","source":{"lsn":7},"message":{}}"#.to_vec()));
}
