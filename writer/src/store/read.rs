//! What a batch needs to know of the view.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use shared::{envelope::SourcePosition, ids::SiteId};
use sqlx::{PgConnection, Row, postgres::PgRow};

use super::Read;
use crate::{
    apps::{InstalledApps, hash_of_etag},
    batch::Tenure,
    error::StoreError,
    fold::{Along, Content, Site},
    plan::Documents,
};

const LOCK_POSITIONS: &str = r#"
    select partition, next_offset, epoch from position
    where topic = $1 and partition = any($2) order by partition for update"#;

/// The hash of a row's apps is what its tag starts with.
const SITES: &str = r#"
    select s.site_id, s.version, s.partition, s."offset", s.etag, s.source_position, s.source_epoch,
           s.last_delete_partition, s.deleted_at is null as alive, s.document is not null as told,
           s.xmin::text as row_version, case when s.deleted_at is null and left(s.etag, 32) <> u.unless then s.document end as document
    from unnest($1::text[], $2::text[]) as u (site_id, unless) join site_apps s using (site_id)"#;

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
    wanted: &[(&SiteId, Along)],
    read: &mut Read,
) -> Result<HashMap<SiteId, Site>, StoreError> {
    let site_ids: Vec<&str> = wanted.iter().map(|(site_id, _)| site_id.as_str()).collect();
    let unless: Vec<Option<String>> = wanted.iter().map(|(_, along)| along.unless()).collect();
    let rows = sqlx::query(SITES).bind(site_ids).bind(unless).fetch_all(connection).await?;
    let mut sites = HashMap::with_capacity(rows.len());
    for row in &rows {
        let (site_id, site) = site(row)?;
        read.versions.insert(site_id.clone(), row.try_get("row_version")?);
        if let Some(document) = row.try_get::<Option<String>, _>("document")? {
            read.documents.insert(site_id.clone(), document);
        }
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

pub(super) async fn documents(
    connection: &mut PgConnection,
    site_ids: &BTreeSet<SiteId>,
    read: &mut Read,
) -> Result<Documents, StoreError> {
    let parsed = |site_id: &SiteId, document: &str| {
        let unreadable = |error| StoreError::Document { site_id: site_id.to_string(), error };
        InstalledApps::of_document(document).map_err(unreadable)
    };
    let (mut documents, mut others) = (HashMap::with_capacity(site_ids.len()), Vec::new());
    for site_id in site_ids {
        match read.documents.remove(site_id) {
            Some(document) => drop(documents.insert(site_id.clone(), parsed(site_id, &document)?)),
            None => others.push(site_id.as_str()),
        }
    }
    if others.is_empty() {
        return Ok(documents);
    }
    for row in sqlx::query(DOCUMENTS).bind(others).fetch_all(connection).await? {
        let site_id = SiteId::new(row.try_get::<String, _>("site_id")?);
        let site_id = site_id.map_err(|error| sqlx::Error::Decode(error.into()))?;
        let apps = parsed(&site_id, row.try_get("document")?)?;
        documents.insert(site_id, apps);
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
