//! Writing to the view beside its writers: for a repair, which has no record.
//!
//! The writers' own rule holds: who writes a partition's rows has taken the partition. [`Transaction::take_over`] locks the
//! positions of all partitions, so no batch is under way, and raises their epochs, so whatever a running writer has in hand
//! or in memory is abandoned; it claims anew and goes on from the same offsets. A key's records may stand in several
//! partitions (keys move when partitions are added), hence all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;
use shared::ids::{AppId, InstanceId, SiteId};
use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{SiteSeen, Transaction};
use crate::{
    error::StoreError,
    plan::{ChangeRow, Membership},
};

/// Owner and what the partition stands at stay: nobody else takes it for good.
const TAKE_OVER: &str = r#"
    update position p set epoch = p.epoch + 1, updated_at = now()
    from (select partition from position where topic = $1 order by partition for update) as locked
    where p.topic = $1 and p.partition = locked.partition
    returning p.partition, p.next_offset, p.source_epoch"#;

/// Behind everything that the partition's records have said so far, before everything that they will say.
const CHANGE: &str = r#"
    insert into change (partition, "offset", ordinal, site_id, app_ids, event)
    select $1, $2, coalesce(max(ordinal), 0) + 1, $3, $4, $5 from change where partition = $1 and "offset" = $2"#;

const AUDIT: &str = "insert into siteview.audit (action, reason, detail) values ($1, $2, $3::text::jsonb)";

const MEMBERSHIPS: &str = "select app_id, site_id, instance_id from app_site where site_id = any($1)";

const LAST_CHANGED: &str = r#"
    select distinct on (site_id) site_id, partition from change where site_id = any($1) order by site_id, written_at desc"#;

/// A partition that has been taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Offset of the next record; everything before it is in the view.
    pub next_offset: i64,
    /// The source epoch that holds.
    pub source_epoch: i32,
}

impl Transaction<'_> {
    /// Takes all partitions of the topic until the transaction ends, by partition.
    pub async fn take_over(&mut self) -> Result<BTreeMap<i32, Taken>, StoreError> {
        let rows = sqlx::query(TAKE_OVER).bind(&*self.topic).fetch_all(&mut *self.inner).await?;
        let taken = |row: &PgRow| {
            let taken = Taken { next_offset: row.try_get(1)?, source_epoch: row.try_get(2)? };
            Ok((row.try_get(0)?, taken))
        };
        rows.iter().map(taken).collect()
    }

    /// The rows of these keys as they are served, markers too.
    pub async fn seen(&mut self, keys: &[String]) -> Result<Vec<SiteSeen>, StoreError> {
        SiteSeen::of_keys(&mut self.inner, keys).await
    }

    /// Writes changes that no record has made, in this order.
    pub async fn write_changes_without_record(&mut self, changes: &[ChangeRow]) -> Result<(), StoreError> {
        for change in changes {
            let app_ids: Vec<&str> = change.app_ids.iter().map(AppId::as_str).collect();
            sqlx::query(CHANGE)
                .bind(change.partition)
                .bind(change.offset)
                .bind(change.site_id.as_str())
                .bind(app_ids)
                .bind(&change.event)
                .execute(&mut *self.inner)
                .await?;
        }
        Ok(())
    }

    /// Writes down what an operator has done, and why.
    pub async fn audit(&mut self, action: &str, reason: &str, detail: &Value) -> Result<(), StoreError> {
        let audit = sqlx::query(AUDIT).bind(action).bind(reason).bind(detail.to_string());
        audit.execute(&mut *self.inner).await?;
        Ok(())
    }
}

/// How long a read of a whole table may take.
const WHOLE_TABLE_MAX: &str = "set statement_timeout = '1h'";

/// The rows of `app_site` of these sites. No index leads there: the whole table is read once, however many the sites are.
pub async fn memberships(
    connection: &mut PgConnection,
    site_ids: &[&str],
) -> Result<HashMap<SiteId, BTreeSet<Membership>>, StoreError> {
    sqlx::raw_sql(WHOLE_TABLE_MAX).execute(&mut *connection).await?;
    let mut found: HashMap<SiteId, BTreeSet<Membership>> = HashMap::new();
    for row in sqlx::query(MEMBERSHIPS).bind(site_ids).fetch_all(&mut *connection).await? {
        let invalid = |error: shared::ids::InvalidId| sqlx::Error::Decode(error.into());
        let instance_id: String = row.try_get(2)?;
        let instance_id = if instance_id.is_empty() { None } else { Some(instance_id) };
        let site_id = SiteId::new(row.try_get::<String, _>(1)?).map_err(invalid)?;
        let membership = Membership {
            app_id: AppId::new(row.try_get::<String, _>(0)?).map_err(invalid)?,
            site_id: site_id.clone(),
            instance_id: instance_id.map(InstanceId::new).transpose().map_err(invalid)?,
        };
        found.entry(site_id).or_default().insert(membership);
    }
    Ok(found)
}

/// The partition of the newest change of each of these sites, as far as the change log still has one. Reads the whole log.
pub async fn last_partitions(
    connection: &mut PgConnection,
    site_ids: &[&str],
) -> Result<HashMap<String, i32>, StoreError> {
    let rows = sqlx::query(LAST_CHANGED).bind(site_ids).fetch_all(connection).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
