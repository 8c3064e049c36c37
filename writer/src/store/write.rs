//! What a batch writes: one statement per table (for sites two: rows that were read, and new ones), sorted by key, parameters as arrays
//! (bound in binary form).

use std::collections::HashMap;

use shared::ids::SiteId;
use sqlx::PgConnection;

use super::NextPosition;
use crate::{
    error::StoreError,
    plan::{ChangeRow, Membership, Plan, SiteRow},
};

/// Rows that were read, unless another transaction has written them since: two lanes or writers hold one site at once while its
/// key moves between partitions. `document` and `etag` null leave what is stored.
const SITES_READ: &str = r#"
    update site_apps s set
        version = u.version, partition = u.partition, "offset" = u."offset",
        document = coalesce(u.document, s.document), etag = coalesce(u.etag, s.etag),
        source_position = u.source_position, source_epoch = u.source_epoch,
        last_delete_partition = u.last_delete_partition, written_at = now(),
        deleted_at = case when u.alive then null else coalesce(s.deleted_at, now()) end
    from unnest($1::text[], $2::bigint[], $3::int[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::int[],
                $9::int[], $10::bool[], $11::text[])
      as u (site_id, version, partition, "offset", document, etag, source_position, source_epoch,
            last_delete_partition, alive, row_version)
    where s.site_id = u.site_id and s.xmin = u.row_version::xid"#;

/// Rows that were not there. One that another transaction has made since is a unique violation: to ask for a conflict first would
/// cost each row a look.
const SITES_NEW: &str = r#"
    insert into site_apps (site_id, version, partition, "offset", document, etag, source_position, source_epoch,
                           last_delete_partition, deleted_at)
    select u.site_id, u.version, u.partition, u."offset", u.document, coalesce(u.etag, ''), u.source_position,
           u.source_epoch, u.last_delete_partition, case when u.alive then null else now() end
    from unnest($1::text[], $2::bigint[], $3::int[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::int[],
                $9::int[], $10::bool[])
      as u (site_id, version, partition, "offset", document, etag, source_position, source_epoch,
            last_delete_partition, alive)"#;

const REMOVE_MEMBERSHIPS: &str = r#"
    delete from app_site a using unnest($1::text[], $2::text[], $3::text[]) as u (app_id, site_id, instance_id)
    where a.app_id = u.app_id and a.site_id = u.site_id and a.instance_id = u.instance_id"#;

/// The difference to the documents that were read, so no row is there yet; where one is, the tables do not agree, and the
/// batch is written once more by [`ADD_MISSING_MEMBERSHIPS`].
const ADD_MEMBERSHIPS: &str = r#"
    insert into app_site (app_id, site_id, instance_id) select * from unnest($1::text[], $2::text[], $3::text[])"#;

const ADD_MISSING_MEMBERSHIPS: &str = r#"
    insert into app_site (app_id, site_id, instance_id)
    select * from unnest($1::text[], $2::text[], $3::text[]) on conflict do nothing"#;

const APP_COUNT: &str = r#"
    insert into app_count as c (app_id, partition, sites) select * from unnest($1::text[], $2::int[], $3::bigint[])
    on conflict (app_id, partition) do update set sites = c.sites + excluded.sites"#;

/// A record touches one site, so (partition, offset) names a change already; the ordinal stays 0.
const CHANGE: &str = r#"
    insert into change (partition, "offset", ordinal, site_id, app_ids, event)
    select u.partition, u."offset", 0, u.site_id, string_to_array(u.app_ids, '/'), u.event
    from unnest($1::int[], $2::bigint[], $3::text[], $4::text[], $5::text[])
      as u (partition, "offset", site_id, app_ids, event)"#;

const POSITION: &str = r#"
    update position p set next_offset = u.next_offset, as_of = greatest(p.as_of, u.as_of::timestamptz),
        blocked_offset = u.blocked_offset, blocked_state = u.blocked_state, blocked_reason = u.blocked_reason,
        updated_at = now()
    from unnest($2::int[], $3::bigint[], $4::bigint[], $5::text[], $6::bigint[], $7::text[], $8::text[])
      as u (partition, epoch, next_offset, as_of, blocked_offset, blocked_state, blocked_reason)
    where p.topic = $1 and p.partition = u.partition and p.epoch = u.epoch"#;

pub(super) async fn plan(
    connection: &mut PgConnection,
    plan: &Plan,
    read: &HashMap<SiteId, String>,
    memberships_disagree: bool,
) -> Result<(), StoreError> {
    sites(connection, &plan.sites, read).await?;
    memberships(connection, REMOVE_MEMBERSHIPS, plan.memberships_removed.iter()).await?;
    let add = if memberships_disagree { ADD_MISSING_MEMBERSHIPS } else { ADD_MEMBERSHIPS };
    let added = memberships(connection, add, plan.memberships_added.iter()).await;
    added.map_err(|error| unless_there(error, StoreError::MembershipsDisagree))?;
    if !plan.counts.is_empty() {
        let app_ids: Vec<&str> = plan.counts.keys().map(|(app_id, _)| app_id.as_str()).collect();
        let partitions: Vec<i32> = plan.counts.keys().map(|(_, partition)| *partition).collect();
        let sites: Vec<i64> = plan.counts.values().copied().collect();
        sqlx::query(APP_COUNT).bind(app_ids).bind(partitions).bind(sites).execute(&mut *connection).await?;
    }
    changes(connection, &plan.changes).await
}

async fn sites(
    connection: &mut PgConnection,
    rows: &[SiteRow],
    read: &HashMap<SiteId, String>,
) -> Result<(), StoreError> {
    let (known, new): (Vec<&SiteRow>, Vec<&SiteRow>) = rows.iter().partition(|row| read.contains_key(&row.site_id));
    let mut written = 0;
    if !known.is_empty() {
        let versions: Vec<&str> = known.iter().map(|row| read[&row.site_id].as_str()).collect();
        written +=
            bind(sqlx::query(SITES_READ), &known).bind(versions).execute(&mut *connection).await?.rows_affected();
    }
    if !new.is_empty() {
        let made = bind(sqlx::query(SITES_NEW), &new).execute(&mut *connection).await;
        written += made.map_err(|error| unless_there(error, StoreError::WrittenMeanwhile))?.rows_affected();
    }
    match written == rows.len() as u64 {
        true => Ok(()),
        false => Err(StoreError::WrittenMeanwhile),
    }
}

type Bound<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn bind<'q>(query: Bound<'q>, rows: &[&'q SiteRow]) -> Bound<'q> {
    let source_position = |row: &&SiteRow| row.site.source_position.map(|position| position.to_string());
    query
        .bind(rows.iter().map(|row| row.site_id.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.site.version).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.site.partition).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.site.offset).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.document.as_ref().map(|(document, _)| document.as_str())).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.document.as_ref().map(|(_, etag)| etag.as_str())).collect::<Vec<_>>())
        .bind(rows.iter().map(source_position).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.site.source_epoch).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.site.last_delete_partition).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.site.alive).collect::<Vec<_>>())
}

async fn memberships<'m>(
    connection: &mut PgConnection,
    statement: &'static str,
    rows: impl ExactSizeIterator<Item = &'m Membership> + Clone,
) -> Result<(), sqlx::Error> {
    if rows.len() == 0 {
        return Ok(());
    }
    let instance_id = |row: &'m Membership| row.instance_id.as_ref().map_or("", |id| id.as_str());
    sqlx::query(statement)
        .bind(rows.clone().map(|row| row.app_id.as_str()).collect::<Vec<_>>())
        .bind(rows.clone().map(|row| row.site_id.as_str()).collect::<Vec<_>>())
        .bind(rows.map(instance_id).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

/// The error, or what it means that a row is there of which the batch has read that it is not.
fn unless_there(error: sqlx::Error, there: StoreError) -> StoreError {
    match &error {
        sqlx::Error::Database(database) if database.is_unique_violation() => there,
        _ => error.into(),
    }
}

async fn changes(connection: &mut PgConnection, rows: &[ChangeRow]) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    // Postgres has no arrays of arrays of different lengths; ids hold no slash, so it can part them.
    let app_ids = |row: &ChangeRow| row.app_ids.iter().map(|id| id.as_str()).collect::<Vec<_>>().join("/");
    sqlx::query(CHANGE)
        .bind(rows.iter().map(|row| row.partition).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.offset).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.site_id.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(app_ids).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.event.as_str()).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn positions(
    connection: &mut PgConnection,
    topic: &str,
    positions: &[NextPosition],
) -> Result<(), StoreError> {
    let blocked = positions.iter().map(|position| position.blocked.as_ref());
    let moved = sqlx::query(POSITION)
        .bind(topic)
        .bind(positions.iter().map(|position| position.tenure.partition).collect::<Vec<_>>())
        .bind(positions.iter().map(|position| position.tenure.epoch).collect::<Vec<_>>())
        .bind(positions.iter().map(|position| position.next_offset).collect::<Vec<_>>())
        .bind(positions.iter().map(|position| position.as_of.map(|as_of| as_of.to_string())).collect::<Vec<_>>())
        .bind(blocked.clone().map(|blocked| blocked.map(|blocked| blocked.offset)).collect::<Vec<_>>())
        .bind(blocked.clone().map(|blocked| blocked.map(|blocked| blocked.state.as_str())).collect::<Vec<_>>())
        .bind(blocked.map(|blocked| blocked.map(|blocked| blocked.reason.as_str())).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    match moved.rows_affected() == positions.len() as u64 {
        true => Ok(()),
        false => Err(StoreError::ClaimsOver(positions.iter().map(|position| position.tenure.partition).collect())),
    }
}
