//! What a comparison with the source reads of the view.

use sqlx::PgConnection;

use crate::error::StoreError;

/// A row of `site_apps` as it is served.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct SiteSeen {
    /// The key.
    pub site_id: String,
    /// Whether the site exists; a marker does not.
    pub alive: bool,
    /// The MetaSite version at which the apps last changed.
    pub version: Option<i64>,
    /// JSON text of the document; empty for a marker without one.
    pub document: String,
    /// Its tag.
    pub etag: String,
    /// Partition of the record that wrote the row.
    pub partition: i32,
    /// Offset of that record.
    pub offset: i64,
}

/// The sites that exist, in the order of their keys' bytes.
const NEXT: &str = r#"
    select site_id, deleted_at is null as alive, version, coalesce(document, '') as document, etag, partition, "offset"
    from site_apps where site_id > $1 and deleted_at is null order by site_id limit $2"#;

/// With the markers.
const OF_KEYS: &str = r#"
    select site_id, deleted_at is null as alive, version, coalesce(document, '') as document, etag, partition, "offset"
    from site_apps where site_id = any($1)"#;

impl SiteSeen {
    /// The next sites behind this key; fewer than `limit` at the end.
    pub async fn next(connection: &mut PgConnection, after: &str, limit: usize) -> Result<Vec<Self>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        Ok(sqlx::query_as(NEXT).bind(after).bind(limit).fetch_all(connection).await?)
    }

    /// The rows of these keys, markers too.
    pub async fn of_keys(connection: &mut PgConnection, keys: &[String]) -> Result<Vec<Self>, StoreError> {
        Ok(sqlx::query_as(OF_KEYS).bind(keys).fetch_all(connection).await?)
    }
}
