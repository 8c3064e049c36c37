//! One Kafka record to one event of the view, or the reason why not. Pure: bytes in, event out.

use std::sync::Arc;

use serde_json::value::RawValue;
use shared::{
    envelope::{
        Column, Envelope, EnvelopeError, Headers, OLD_KEY_HEADER, Operation, SchemaHead, SourcePosition, key_id,
        scalar_text, select,
    },
    ids::SiteId,
};

use crate::{
    apps::InstalledApps,
    nesting,
    projection::Projection,
    rejection::{Reason, Rejection},
};

/// Limits of one record; beyond them it is rejected by name.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest value in bytes.
    pub value_bytes_max: usize,
    /// Most elements in a site's array of apps.
    pub site_apps_max: usize,
}

/// What a record says about one site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The site, from the record's key.
    pub site_id: SiteId,
    /// What happened to it.
    pub kind: Kind,
    /// Where the change stands in the source's log, if it tells.
    pub source_position: Option<SourcePosition>,
    /// When the source committed, in milliseconds since the Unix epoch.
    pub committed_at_ms: Option<i64>,
}

/// What happened to a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The row now is as told.
    Write {
        /// The MetaSite version.
        version: Told<Option<i64>>,
        /// The installed apps.
        apps: Told<Arc<InstalledApps>>,
        /// The key that the row had before, when this is the create of a key change.
        old_key: Option<SiteId>,
    },
    /// The row was deleted.
    Delete,
    /// The row does not exist.
    Tombstone,
}

/// A value that a record tells, or leaves as it was. Absent is not null.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told<T> {
    /// The record tells it.
    Value(T),
    /// The record does not: an unchanged large value, or a column that is not there.
    Absent,
}

/// A record, its bytes borrowed from the batch.
pub struct Raw<'a, H> {
    /// Key, as it was on the wire.
    pub key: Option<&'a [u8]>,
    /// Value, as it was on the wire.
    pub value: Option<&'a [u8]>,
    /// Headers.
    pub headers: H,
}

/// Reads a record. `Ok(None)` is a record that says nothing about a row (heartbeat, logical message, transaction marker). `head`
/// goes from record to record.
pub fn decode(
    record: &Raw<'_, impl Headers>,
    projection: &Projection,
    limits: Limits,
    head: &mut SchemaHead,
) -> Result<Option<Event>, Rejection> {
    let value_bytes = record.value.map_or(0, <[u8]>::len);
    if value_bytes > limits.value_bytes_max {
        let limit = limits.value_bytes_max;
        let detail = format!("the value has {value_bytes} bytes; WRITER_VALUE_MAX_BYTES allows {limit}");
        return Err(Rejection::new(Reason::TooLarge, detail));
    }
    nesting::check(record.value.unwrap_or_default())?;
    let envelope = Envelope::read(record.value, &record.headers, head)?;
    let site_id = || site_id(record.key, projection);
    let (site_id, kind) = match envelope.operation {
        Operation::None => return Ok(None),
        Operation::Truncate => {
            return Err(Rejection::new(Reason::Truncate, "the source table was truncated".to_owned()));
        }
        Operation::Delete => (site_id()?, Kind::Delete),
        Operation::Tombstone => (site_id()?, Kind::Tombstone),
        Operation::Write => {
            let (site_id, row) = (site_id()?, envelope.row.expect("a write has a row"));
            let kind = decode_row(row, &site_id, &record.headers, projection, limits)?;
            (site_id, kind)
        }
    };
    Ok(Some(Event { site_id, kind, source_position: envelope.position, committed_at_ms: envelope.committed_at_ms }))
}

fn site_id(key: Option<&[u8]>, projection: &Projection) -> Result<SiteId, Rejection> {
    let id =
        key_id(key, projection.key_member()).map_err(|error| Rejection::new(Reason::InvalidKey, error.to_string()))?;
    SiteId::new(id.into_owned()).map_err(Rejection::invalid_id)
}

fn decode_row(
    row: &str,
    site_id: &SiteId,
    headers: &impl Headers,
    projection: &Projection,
    limits: Limits,
) -> Result<Kind, Rejection> {
    let mut found = [None; 3];
    select(row, &projection.site, &mut found)
        .map_err(|error| Rejection::new(Reason::InvalidJson, error.to_string()))?;
    let column = |n: usize| Column::new(found[n], &projection.unavailable_value);
    agree(site_id, found[0], projection)?;
    let apps = match column(1) {
        Column::Absent => Told::Absent,
        Column::Present(json) => {
            Told::Value(Arc::new(InstalledApps::decode(json.get(), projection, limits.site_apps_max)?))
        }
    };
    let old_key = match headers.get(OLD_KEY_HEADER) {
        Some(key) => Some(self::site_id(Some(key), projection)?),
        None => None,
    };
    Ok(Kind::Write { version: version(column(2), projection)?, apps, old_key })
}

/// The key decides; a row that names another id contradicts it.
fn agree(key: &SiteId, row: Option<&RawValue>, projection: &Projection) -> Result<(), Rejection> {
    let Some(json) = row else { return Ok(()) };
    let id = scalar_text(json)
        .ok_or_else(|| Rejection::new(Reason::InvalidRow, format!("`{}` is no scalar", projection.key_member())))?;
    if id == key.as_str() {
        return Ok(());
    }
    Err(Rejection::new(Reason::InvalidKey, format!("the key names {key:?}, the row another id", key = key.as_str())))
}

fn version(column: Column<'_>, projection: &Projection) -> Result<Told<Option<i64>>, Rejection> {
    let mapped = projection.site.len() > 2;
    match column {
        Column::Absent if mapped => Ok(Told::Absent),
        Column::Absent => Ok(Told::Value(None)),
        Column::Present(json) if json.get() == "null" => Ok(Told::Value(None)),
        Column::Present(json) => scalar_text(json)
            .and_then(|text| text.parse().ok())
            .map(|version| Told::Value(Some(version)))
            .ok_or_else(|| Rejection::new(Reason::InvalidRow, "the version is no 64-bit integer".to_owned())),
    }
}

impl From<EnvelopeError> for Rejection {
    fn from(error: EnvelopeError) -> Self {
        let reason = match error {
            EnvelopeError::InvalidJson(_) => Reason::InvalidJson,
            EnvelopeError::InvalidRow(_) => Reason::InvalidRow,
            EnvelopeError::UnknownOperation(_) => Reason::UnknownOperation,
        };
        Self::new(reason, error.to_string())
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
