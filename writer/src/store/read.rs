//! What a batch needs to know of the view.

use std::{collections::HashMap, sync::Arc};

use shared::{envelope::SourcePosition, ids::SiteId};
use sqlx::{PgConnection, Row, postgres::PgRow};

use super::RowVersions;
use crate::{
    apps::{InstalledApps, hash_of_etag},
    batch::Tenure,
    error::StoreError,
    fold::{Content, Site},
    plan::Documents,
};

const LOCK_POSITIONS: &str = r#"
    select partition, next_offset, epoch from position
    where topic = $1 and partition = any($2) order by partition for update"#;

const SITES: &str = r#"
    select site_id, version, partition, "offset", etag, source_position, source_epoch, last_delete_partition,
           deleted_at is null as alive, document is not null as told, xmin::text as row_version
    from site_apps where site_id = any($1)"#;

const DOCUMENTS: &str = "select site_id, document from site_apps where site_id = any($1) and document is not null";

const POSITIONS: &str = r#"
    select partition, next_offset, epoch, source_epoch, as_of::text as as_of, owner, topic_id, blocked_offset,
           blocked_state, coalesce(blocked_reason, waits_for) as reason,
           (case when blocked_state is null then waits_since else blocked_since end)::text as since
    from position where topic = $1 and ($2::int[] is null or partition = any($2)) order by partition"#;

pub(super) async fn lock_positions(
    connection: &mut PgConnection,
    topic: &str,
    tenures: &[Arc<Tenure>],
) -> Result<HashMap<i32, i64>, StoreError> {
    let partitions: Vec<i32> = tenures.iter().map(|tenure| tenure.partition).collect();
    let rows = sqlx::query(LOCK_POSITIONS).bind(topic).bind(&partitions).fetch_all(connection).await?;
    let mut stored = HashMap::with_capacity(rows.len());
    for row in rows {
        stored.insert(row.try_get::<i32, _>(0)?, (row.try_get::<i64, _>(1)?, row.try_get::<i64, _>(2)?));
    }
    let is_over = |tenure: &&Arc<Tenure>| stored.get(&tenure.partition).is_none_or(|(_, epoch)| *epoch != tenure.epoch);
    let over: Vec<i32> = tenures.iter().filter(is_over).map(|tenure| tenure.partition).collect();
    match over.is_empty() {
        true => Ok(stored.into_iter().map(|(partition, (next_offset, _))| (partition, next_offset)).collect()),
        false => Err(StoreError::ClaimsOver(over)),
    }
}

pub(super) async fn sites(
    connection: &mut PgConnection,
    site_ids: &[&str],
    read: &mut RowVersions,
) -> Result<HashMap<SiteId, Site>, StoreError> {
    let rows = sqlx::query(SITES).bind(site_ids).fetch_all(connection).await?;
    let mut sites = HashMap::with_capacity(rows.len());
    for row in &rows {
        let (site_id, site) = site(row)?;
        read.insert(site_id.clone(), row.try_get("row_version")?);
        sites.insert(site_id, site);
    }
    Ok(sites)
}

fn site(row: &PgRow) -> Result<(SiteId, Site), sqlx::Error> {
    let decode = |error: Box<dyn std::error::Error + Send + Sync>| sqlx::Error::Decode(error);
    let site_id = SiteId::new(row.try_get::<String, _>("site_id")?).map_err(|error| decode(error.into()))?;
    let position: Option<String> = row.try_get("source_position")?;
    let position =
        position.map(|text| text.parse::<SourcePosition>()).transpose().map_err(|error| decode(error.into()))?;
    let etag: &str = row.try_get("etag")?;
    let content = match (row.try_get("told")?, hash_of_etag(etag)) {
        (true, Some(hash)) => Content::Stored { of: site_id.clone(), hash },
        _ => Content::Nothing,
    };
    let site = Site {
        alive: row.try_get("alive")?,
        version: row.try_get("version")?,
        content,
        source_position: position,
        source_epoch: row.try_get("source_epoch")?,
        partition: row.try_get("partition")?,
        offset: row.try_get("offset")?,
        last_delete_partition: row.try_get("last_delete_partition")?,
    };
    Ok((site_id, site))
}

pub(super) async fn documents(connection: &mut PgConnection, site_ids: &[&str]) -> Result<Documents, StoreError> {
    let rows = sqlx::query(DOCUMENTS).bind(site_ids).fetch_all(connection).await?;
    let mut documents = HashMap::with_capacity(rows.len());
    for row in rows {
        let site_id: String = row.try_get("site_id")?;
        let unreadable = |error| StoreError::Document { site_id: site_id.clone(), error };
        let apps = InstalledApps::of_document(row.try_get("document")?).map_err(unreadable)?;
        documents.insert(SiteId::new(site_id).map_err(|error| sqlx::Error::Decode(error.into()))?, apps);
    }
    Ok(documents)
}

/// A row of `position`, for people and for lag.
#[derive(Debug, sqlx::FromRow)]
pub struct PositionRow {
    /// Partition of the topic.
    pub partition: i32,
    /// Offset of the next record to apply.
    pub next_offset: i64,
    /// Raised with each claim.
    pub epoch: i64,
    /// Changes up to this moment are contained.
    pub as_of: Option<String>,
    /// Positions of different source epochs are not compared.
    pub source_epoch: i32,
    /// Who took the partition last.
    pub owner: String,
    /// The topic that the position is of; unknown for brokers without topic ids.
    pub topic_id: Option<String>,
    /// Offset of the record at which the partition stands.
    pub blocked_offset: Option<i64>,
    /// How it stands; one of the texts of [`super::BlockedState`].
    pub blocked_state: Option<String>,
    /// Why it stands, or what it waits for.
    pub reason: Option<String>,
    /// Since when.
    pub since: Option<String>,
}

impl PositionRow {
    /// All positions of a topic, by partition.
    pub async fn all(connection: &mut PgConnection, topic: &str) -> Result<Vec<Self>, StoreError> {
        Self::read(connection, topic, None).await
    }

    /// The positions of these partitions, by partition; those without one are left out.
    pub async fn of(connection: &mut PgConnection, topic: &str, partitions: &[i32]) -> Result<Vec<Self>, StoreError> {
        Self::read(connection, topic, Some(partitions)).await
    }

    async fn read(
        connection: &mut PgConnection,
        topic: &str,
        partitions: Option<&[i32]>,
    ) -> Result<Vec<Self>, StoreError> {
        Ok(sqlx::query_as(POSITIONS).bind(topic).bind(partitions).fetch_all(connection).await?)
    }
}
