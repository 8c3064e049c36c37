//! One record: which form its value has, what it says was done, and the row, borrowed from the value.

use std::sync::LazyLock;

use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::{
    position::SourcePosition,
    row::{Pointer, scalar_text, select},
    schema_head::SchemaHead,
};

/// The headers of a record, by name.
pub trait Headers {
    /// Value of the last header of this name; `None` when there is none or it has no value.
    fn get(&self, name: &str) -> Option<&[u8]>;
}

/// What a record says was done to the row of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// The row now is as told: inserted, updated, or read by a snapshot (`c`, `u`, `r`).
    Write,
    /// The row was deleted (`d`).
    Delete,
    /// A null value: the row does not exist, whatever came before. Debezium writes one after each delete.
    Tombstone,
    /// The whole table was emptied (`t`).
    Truncate,
    /// Nothing about a row: a logical message, heartbeat, transaction marker or schema change.
    None,
}

/// Why a value could not be read.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// The value is not JSON, or not UTF-8.
    #[error("the value is not JSON: {0}")]
    InvalidJson(String),
    /// The value is JSON, but neither an envelope nor a row.
    #[error("{0}")]
    InvalidRow(String),
    /// The envelope's `op` is none of those that Debezium documents.
    #[error("unknown operation {0:?}")]
    UnknownOperation(String),
}

/// A record's value, read as far as every projection needs it.
#[derive(Debug)]
pub struct Envelope<'a> {
    /// What was done.
    pub operation: Operation,
    /// JSON text of the row after the change, an object; present for [`Operation::Write`] only. A delete's row holds
    /// fillers, which are not data.
    pub row: Option<&'a str>,
    /// Where the change stands in the source's log; rows of an incremental snapshot have no position.
    pub position: Option<SourcePosition>,
    /// When the source committed, in milliseconds since the Unix epoch (`source.ts_ms`).
    pub committed_at_ms: Option<i64>,
}

/// Header with which Debezium marks the create of a key change; its value is the old key.
pub const OLD_KEY_HEADER: &str = "__debezium.oldkey";

const TOP: [&str; 8] = ["schema", "payload", "op", "before", "after", "source", "__op", "__deleted"];
const SOURCE: [&str; 6] = ["lsn", "file", "pos", "row", "server_id", "ts_ms"];

fn pointers<const N: usize>(names: [&str; N]) -> [Pointer; N] {
    names.map(Pointer::member)
}

static TOP_MEMBERS: LazyLock<[Pointer; 8]> = LazyLock::new(|| pointers(TOP));
/// What heartbeats, transaction markers and schema changes are made of.
const NO_ROW: [&str; 7] = ["ts_ms", "status", "event_count", "data_collections", "databaseName", "ddl", "tableChanges"];
static NO_ROW_MEMBERS: LazyLock<[Pointer; 7]> = LazyLock::new(|| pointers(NO_ROW));
static SOURCE_MEMBERS: LazyLock<[Pointer; 6]> = LazyLock::new(|| pointers(SOURCE));
static OP_AND_DELETED: LazyLock<[Pointer; 2]> = LazyLock::new(|| pointers(["__op", "__deleted"]));
/// `add.fields` names a member `__<field>`, or `__source_<field>` when it was asked for as `source.<field>`.
static FLAT_SOURCE: LazyLock<[[Pointer; 6]; 2]> =
    LazyLock::new(|| ["__", "__source_"].map(|prefix| SOURCE.map(|name| Pointer::member(&format!("{prefix}{name}")))));

impl<'a> Envelope<'a> {
    /// Reads a record's value; `None` is a null value. `head` goes from record to record.
    pub fn read(value: Option<&'a [u8]>, headers: &impl Headers, head: &mut SchemaHead) -> Result<Self, EnvelopeError> {
        let Some(bytes) = value else {
            return Ok(Self::without_value(headers));
        };
        let text = std::str::from_utf8(bytes).map_err(|error| EnvelopeError::InvalidJson(error.to_string()))?;
        let text = text.trim_ascii();
        match head.payload_of(text).map(|payload| Self::read_text(payload, headers, None)) {
            Some(Ok(envelope)) => Ok(envelope),
            // Also where it was no payload: the whole text says what is wrong.
            Some(Err(_)) | None => Self::read_text(text, headers, Some(head)),
        }
    }

    /// `head`: there where the text may be `{"schema":…,"payload":…}`, which stands outside once, never inside itself.
    fn read_text(text: &'a str, headers: &impl Headers, head: Option<&mut SchemaHead>) -> Result<Self, EnvelopeError> {
        if !text.starts_with('{') {
            return match serde_json::from_str::<IgnoredAny>(text) {
                Ok(_) if text == "null" => Ok(Self::without_value(headers)),
                Ok(_) => Err(EnvelopeError::InvalidRow("the value is no object".to_owned())),
                Err(error) => Err(invalid_json(error)),
            };
        }
        let mut found = [None; 8];
        let members = select(text, TOP_MEMBERS.iter(), &mut found).map_err(invalid_json)?;
        let [schema, payload, op, before, after, source, flat_op, flat_deleted] = found;
        let flattened = flat_op.or(flat_deleted).is_some() || header_text(headers, "__op").is_some();
        match (members, schema, payload) {
            (2, Some(_), Some(payload)) => match head {
                Some(head) => {
                    head.learn(text, payload.get());
                    Self::read_text(payload.get(), headers, None)
                }
                None => Err(EnvelopeError::InvalidRow("an envelope within an envelope".to_owned())),
            },
            _ if flattened => Self::flattened(text, headers),
            _ if op.is_some() && [before, after, source].iter().any(Option::is_some) => {
                Self::enveloped(op, after, source)
            }
            _ if is_no_row(text, members)? => Ok(Self::of(Operation::None)),
            _ => Self::flattened(text, headers),
        }
    }

    fn of(operation: Operation) -> Self {
        Self { operation, row: None, position: None, committed_at_ms: None }
    }

    /// A null value: a tombstone, unless a header says that it stands for a delete.
    fn without_value(headers: &impl Headers) -> Self {
        match header_text(headers, "__op") {
            Some("d") => Self { position: header_position(headers), ..Self::of(Operation::Delete) },
            _ => Self::of(Operation::Tombstone),
        }
    }

    fn enveloped(
        op: Option<&'a RawValue>,
        after: Option<&'a RawValue>,
        source: Option<&'a RawValue>,
    ) -> Result<Self, EnvelopeError> {
        let op = op.and_then(scalar_text).unwrap_or_default();
        let operation = match op.as_ref() {
            "c" | "u" | "r" => Operation::Write,
            "d" => Operation::Delete,
            "t" => Operation::Truncate,
            "m" => Operation::None,
            unknown => return Err(EnvelopeError::UnknownOperation(unknown.chars().take(64).collect())),
        };
        let row = match (operation, after.map(RawValue::get)) {
            (Operation::Write, Some(row)) if row.starts_with('{') => Some(row),
            (Operation::Write, _) => {
                return Err(EnvelopeError::InvalidRow(format!("op {op:?} without a row in `after`")));
            }
            _ => None,
        };
        let mut found = [None; 6];
        if let Some(source) = source.filter(|source| source.get().starts_with('{')) {
            select(source.get(), SOURCE_MEMBERS.iter(), &mut found).map_err(invalid_json)?;
        }
        Ok(Self { operation, row, position: position(&found)?, committed_at_ms: milliseconds(found[5])? })
    }

    fn flattened(text: &'a str, headers: &impl Headers) -> Result<Self, EnvelopeError> {
        let [plain, prefixed] = &*FLAT_SOURCE;
        let mut found = [None; 14];
        select(text, OP_AND_DELETED.iter().chain(plain).chain(prefixed), &mut found).map_err(invalid_json)?;
        let text_of = |member: Option<&'a RawValue>| member.and_then(scalar_text);
        let op = text_of(found[0]);
        let op = op.as_deref().or_else(|| header_text(headers, "__op"));
        let deleted = text_of(found[1]);
        let deleted = deleted.as_deref().or_else(|| header_text(headers, "__deleted"));
        let operation = match (op, deleted) {
            (_, Some("true")) | (Some("d"), _) => Operation::Delete,
            (Some("c" | "u" | "r") | None, _) => Operation::Write,
            (Some("t"), _) => Operation::Truncate,
            (Some(unknown), _) => return Err(EnvelopeError::UnknownOperation(unknown.chars().take(64).collect())),
        };
        let source: [_; 6] = std::array::from_fn(|n| present(found[2 + n]).or(present(found[8 + n])));
        Ok(Self {
            operation,
            row: (operation == Operation::Write).then_some(text),
            position: position(&source)?.or_else(|| header_position(headers)),
            committed_at_ms: milliseconds(present(found[13]))?,
        })
    }
}

/// Records that a topic may carry beside rows: a heartbeat has nothing but `ts_ms`; a transaction marker has `status`,
/// `event_count` and `data_collections`; a schema change has `databaseName` with `ddl` or `tableChanges`.
fn is_no_row(text: &str, members: usize) -> Result<bool, EnvelopeError> {
    let mut found = [None; 7];
    select(text, NO_ROW_MEMBERS.iter(), &mut found).map_err(invalid_json)?;
    let [ts_ms, status, event_count, data_collections, database, ddl, table_changes] =
        found.map(|member| member.is_some());
    let heartbeat = members == 1 && ts_ms;
    let transaction = status && event_count && data_collections;
    Ok(heartbeat || transaction || (database && (ddl || table_changes)))
}

fn invalid_json(error: serde_json::Error) -> EnvelopeError {
    EnvelopeError::InvalidJson(error.to_string())
}

fn present(member: Option<&RawValue>) -> Option<&RawValue> {
    member.filter(|value| value.get() != "null")
}

fn position(source: &[Option<&RawValue>; 6]) -> Result<Option<SourcePosition>, EnvelopeError> {
    if let Some(lsn) = integer("lsn", source[0])? {
        return Ok(Some(SourcePosition::Lsn(lsn)));
    }
    let file = source[1].and_then(scalar_text);
    let (Some(file), Some(pos)) = (file.as_deref().and_then(file_number), integer("pos", source[2])?) else {
        return Ok(None);
    };
    let row = integer("row", source[3])?.unwrap_or(0);
    let server_id = integer("server_id", source[4])?.unwrap_or(0);
    Ok(Some(SourcePosition::Binlog { server_id, file, pos, row }))
}

fn header_position(headers: &impl Headers) -> Option<SourcePosition> {
    let number = |name: &str| -> Option<u64> {
        let text =
            header_text(headers, &format!("__source_{name}")).or_else(|| header_text(headers, &format!("__{name}")));
        text?.parse().ok()
    };
    if let Some(lsn) = number("lsn") {
        return Some(SourcePosition::Lsn(lsn));
    }
    let file = header_text(headers, "__source_file").or_else(|| header_text(headers, "__file"))?;
    Some(SourcePosition::Binlog {
        server_id: number("server_id").unwrap_or(0),
        file: file_number(file)?,
        pos: number("pos")?,
        row: number("row").unwrap_or(0),
    })
}

/// A header's text; Connect's JSON converter puts strings in quotes, its simple one does not.
fn header_text<'h>(headers: &'h impl Headers, name: &str) -> Option<&'h str> {
    let text = std::str::from_utf8(headers.get(name)?).ok()?;
    Some(text.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')).unwrap_or(text))
}

/// The number at the end of a binlog file's name.
fn file_number(name: &str) -> Option<u64> {
    name.rsplit('.').next()?.parse().ok()
}

fn integer(name: &str, value: Option<&RawValue>) -> Result<Option<u64>, EnvelopeError> {
    let Some(value) = present(value) else { return Ok(None) };
    scalar_text(value)
        .and_then(|text| text.parse().ok())
        .map(Some)
        .ok_or_else(|| EnvelopeError::InvalidRow(format!("the source's `{name}` is no number")))
}

fn milliseconds(value: Option<&RawValue>) -> Result<Option<i64>, EnvelopeError> {
    Ok(integer("ts_ms", value)?.and_then(|ms| i64::try_from(ms).ok()))
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
