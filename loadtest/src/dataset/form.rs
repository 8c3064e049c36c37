//! A change as a record: key and value bytes in each form that Debezium's users choose.
//!
//! The shapes, the members' order and the schemas are those of records captured from Debezium 3.7 with Kafka's JSON
//! converter (`schemas/*.json` are the captured schemas). A value without schema is about 2.3 KB, the schema adds 3.8 KB.

use std::fmt::Write;

use clap::ValueEnum;
use serde::Serialize;

use super::ids::{app_id, instance_id, owner_id, site_id};
use super::site::Site;
use super::{Change, Operation};

const KEY_SCHEMA: &str = include_str!("../../schemas/key.json");
const ENVELOPE_SCHEMA: &str = include_str!("../../schemas/envelope.json");
const ROW_SCHEMA: &str = include_str!("../../schemas/row.json");

/// Some moment; nothing depends on it. The source's clock moves a millisecond per event.
const TS_MS: u64 = 1_795_425_629_659;

/// The form of the values (and of the keys: with schema where the values have one).
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Envelope with schema (`schemas.enable=true`)
    EnvelopeSchema,
    /// Plain envelope
    Envelope,
    /// Flattened row (ExtractNewRecordState, `add.fields=op,lsn,source.ts_ms,table`, deletes rewritten)
    Flattened,
    /// Flattened row with schema and no added field
    FlattenedSchema,
}

impl Form {
    fn has_schema(self) -> bool {
        matches!(self, Self::EnvelopeSchema | Self::FlattenedSchema)
    }
}

/// Writes records of one form; its buffers are reused.
#[derive(Debug)]
pub struct Encoder {
    form: Form,
    /// Of the record written last.
    pub key: String,
    /// Of the record written last.
    pub value: String,
    text: String,
}

impl Encoder {
    /// An encoder of this form.
    pub fn new(form: Form) -> Self {
        Self { form, key: String::new(), value: String::new(), text: String::new() }
    }

    /// Writes a change into `key` and `value`.
    pub fn write(&mut self, change: &Change<'_>) {
        self.key.clear();
        self.value.clear();
        let id = site_id(change.site.number);
        match self.form.has_schema() {
            true => put(
                &mut self.key,
                format_args!(r#"{{"schema":{},"payload":{{"site_id":"{id}"}}}}"#, KEY_SCHEMA.trim_end()),
            ),
            false => put(&mut self.key, format_args!(r#"{{"site_id":"{id}"}}"#)),
        }
        match self.form {
            Form::EnvelopeSchema => self.with_schema(ENVELOPE_SCHEMA, |this| this.envelope(change)),
            Form::Envelope => self.envelope(change),
            Form::Flattened => self.flattened(change),
            Form::FlattenedSchema => self.with_schema(ROW_SCHEMA, |this| this.row(change.site, "")),
        }
    }

    fn with_schema(&mut self, schema: &str, payload: impl FnOnce(&mut Self)) {
        put(&mut self.value, format_args!(r#"{{"schema":{},"payload":"#, schema.trim_end()));
        payload(self);
        self.value.push('}');
    }

    fn envelope(&mut self, change: &Change<'_>) {
        self.value.push_str(r#"{"before":null,"after":"#);
        self.row(change.site, "");
        let (op, snapshot) = operation(change.operation);
        let (lsn, ts, tx) = (change.lsn, TS_MS + change.number, 1046 + change.number);
        put(
            &mut self.value,
            format_args!(
                concat!(
                    r#","source":{{"version":"3.7.0.Final","connector":"postgresql","name":"metasite","ts_ms":{ts},"#,
                    r#""snapshot":"{snapshot}","db":"metasite","sequence":"[\"{lsn}\",\"{lsn}\"]","ts_us":{ts}903,"#,
                    r#""ts_ns":{ts}903000,"schema":"public","table":"meta_site","txId":{tx},"lsn":{lsn},"xmin":null,"#,
                    r#""origin":null,"origin_lsn":null}},"transaction":null,"op":"{op}","ts_ms":{ts},"ts_us":{ts}315,"#,
                    r#""ts_ns":{ts}315472}}"#
                ),
                ts = ts,
                snapshot = snapshot,
                lsn = lsn,
                tx = tx,
                op = op
            ),
        );
    }

    fn flattened(&mut self, change: &Change<'_>) {
        let (op, _) = operation(change.operation);
        let (lsn, ts) = (change.lsn, TS_MS + change.number);
        let added =
            format!(r#","__deleted":"false","__op":"{op}","__lsn":{lsn},"__source_ts_ms":{ts},"__table":"meta_site""#);
        self.row(change.site, &added);
    }

    /// The row as an object, `added` before its closing brace.
    fn row(&mut self, site: &Site, added: &str) {
        let (number, id) = (site.number, site_id(site.number));
        put(
            &mut self.value,
            format_args!(
                concat!(
                    r#"{{"site_id":"{id}","owner_id":"{owner}","version":{version},"name":"Bakery {number} v{version}","#,
                    r#""display_url":"https://s{number}.example.com","published":true,"premium":{premium},"locale":"en","#,
                    r#""created_at":"2024-01-02T03:04:05.678901Z","updated_at":"2026-11-23T{hour:02}:{minute:02}:33.752341Z","#,
                    r#""installed_apps":"#
                ),
                id = id,
                owner = owner_id(number),
                version = site.version,
                number = number,
                premium = number % 3 == 0,
                hour = site.version % 24,
                minute = number % 60
            ),
        );
        self.apps(site);
        self.value.push_str(r#","document":"#);
        self.document(site);
        put(&mut self.value, format_args!("{added}}}"));
    }

    /// The array as Postgres prints a jsonb, in a JSON string.
    fn apps(&mut self, site: &Site) {
        self.text.clear();
        self.text.push('[');
        for (n, app) in site.apps.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            put(
                &mut self.text,
                format_args!(
                    concat!(
                        r#"{comma}{{"status": "{status}", "version": "{version}", "appDefId": "{app_id}", "#,
                        r#""instanceId": "{instance}", "installedAt": "{at}", "permissions": ["{permissions}"]}}"#
                    ),
                    comma = comma,
                    status = app.status(),
                    version = app.version_text(),
                    app_id = app_id(app.rank),
                    instance = instance_id(site.number, app.installation),
                    at = app.installed_at(),
                    permissions = app.permissions().join("\", \"")
                ),
            );
        }
        self.text.push(']');
        self.quote_text();
    }

    /// The column that no view needs.
    fn document(&mut self, site: &Site) {
        self.text.clear();
        put(
            &mut self.text,
            format_args!(
                concat!(
                    r#"{{"seo": {{"title": "Bakery {number}", "robots": ["index", "follow"], "description": "#,
                    r#""Bread, rolls and cakes, baked every morning in the old town"}}, "#,
                    r#""plan": {{"tier": "pro", "seats": {seats}}}, "domains": ["www.s{number}.example.com"]}}"#
                ),
                number = site.number,
                seats = 1 + site.number % 9
            ),
        );
        self.quote_text();
    }

    /// Appends `text` as a JSON string; there is nothing in it that needs another escape than quotes do.
    fn quote_text(&mut self) {
        self.value.push('"');
        let mut pieces = self.text.split('"');
        self.value.extend(pieces.next());
        for piece in pieces {
            self.value.push_str("\\\"");
            self.value.push_str(piece);
        }
        self.value.push('"');
    }
}

fn operation(operation: Operation) -> (&'static str, &'static str) {
    match operation {
        Operation::Read => ("r", "true"),
        Operation::Update => ("u", "false"),
    }
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a string takes every text");
}
