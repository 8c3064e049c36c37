//! A record as Debezium's Postgres connector writes it with plain JSON converters: key, envelope, partition.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::model::Site;

/// What Debezium sends for a large value that did not change.
pub(crate) const UNAVAILABLE: &str = "__debezium_unavailable_value";
/// Some moment; nothing may depend on it.
const TS_MS: i64 = 1_700_000_000_000;

/// One record of the topic, and the state of its site behind it.
#[derive(Debug, Clone)]
pub struct Record {
    /// Where it is produced to.
    pub partition: i32,
    /// JSON of the key.
    pub key: String,
    /// JSON of the value; none in a tombstone.
    pub value: Option<String>,
    /// Name and value of each header.
    pub headers: Vec<(&'static str, String)>,
    /// Whose record it is.
    pub site_id: String,
    /// The site once this record has been applied; none when it is deleted.
    pub after: Option<Arc<Site>>,
}

/// The value of a record: what was, what is, and where in the source's log.
pub(crate) fn envelope(before: Value, after: Value, op: &str, lsn: u64) -> String {
    let source = json!({
        "version": "3.7.0.Final", "connector": "postgresql", "name": "metasite", "ts_ms": TS_MS,
        "snapshot": if op == "r" { "true" } else { "false" }, "db": "metasite",
        "schema": "public", "table": "meta_site", "lsn": lsn,
    });
    json!({"before": before, "after": after, "source": source, "op": op, "ts_ms": TS_MS}).to_string()
}

/// The key of a site's records.
pub(crate) fn key(site_id: &str) -> String {
    json!({"site_id": site_id}).to_string()
}

/// The partition of a site: FNV-1a of its id, modulo.
pub fn partition_of(site_id: &str, partitions: i32) -> i32 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = site_id.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    i32::try_from(hash % u64::from(partitions.unsigned_abs())).expect("less than the number of partitions")
}
