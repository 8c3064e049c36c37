//! Upkeep of what a batch leaves behind: the change log's floor and parts, and expired delete markers.
//!
//! Each function here is one short transaction of its own. Those of the change log begin with an advisory lock that one
//! writer at a time holds; another finds it taken and leaves the work to the holder. The sweep of markers needs none: it runs
//! under the claim of its partition, as a batch does.

use std::{sync::Arc, time::Duration};

use sqlx::{PgConnection, postgres::types::PgInterval};

use super::Store;
use crate::{batch::Tenure, error::StoreError};

/// First key of the advisory lock; the second is the generation.
const LOCK: i32 = 0x5550;
/// How long DDL waits for its lock: batches and readers queue behind it meanwhile.
const DDL_LOCK_WAIT_MAX: &str = "set local lock_timeout = '200ms'";

/// A position that was set back takes its marks and its floor along.
const FORGET_MARKS: &str = "
    delete from change_mark m using position p
    where p.topic = $1 and m.partition = p.partition and m.next_offset > p.next_offset";
const LOWER_FLOOR: &str = r#"
    update change_floor f set "offset" = p.next_offset, at = now() from position p
    where p.topic = $1 and f.partition = p.partition and f."offset" > p.next_offset"#;

/// Marks the positions that have moved since their last mark, no more often than each `$2`. The clock is read after the
/// statement has begun to see the positions, so nothing below them is younger.
const MARK: &str = "
    insert into change_mark (partition, at, next_offset)
    select p.partition, clock_timestamp(), p.next_offset
    from position p left join lateral
        (select m.at, m.next_offset from change_mark m where m.partition = p.partition order by m.at desc limit 1) last
        on true
    where p.topic = $1 and (last is null or (p.next_offset > last.next_offset and last.at <= now() - $2))
    on conflict do nothing";

/// What was marked before the retention began becomes the floor. The newest mark of a partition stays, so that one that does
/// not move is not marked again and again.
const RAISE_FLOOR: &str = r#"
    with expired as (
        select m.partition, m.at, m.next_offset, rank() over (partition by m.partition order by m.at desc) as newest
        from position p join change_mark m on m.partition = p.partition and m.at <= now() - $2
        where p.topic = $1
    ), dropped as (
        delete from change_mark m using expired e where e.newest > 1 and m.partition = e.partition and m.at = e.at
    )
    insert into change_floor as f (partition, "offset")
    select partition, next_offset from expired where newest = 1
    on conflict (partition) do update set "offset" = excluded."offset", at = now() where f."offset" < excluded."offset""#;

/// Rows that no part has taken in, a chunk at a time; the floor rises over them.
const EXPIRE_DEFAULT: &str = r#"
    with gone as (
        delete from change_default where ctid = any(array(
            select ctid from change_default where written_at < now() - $1 order by partition, "offset" limit $2))
        returning partition, "offset"
    ), raised as (
        insert into change_floor as f (partition, "offset") select partition, max("offset") + 1 from gone group by partition
        on conflict (partition) do update set "offset" = excluded."offset", at = now() where f."offset" < excluded."offset"
    )
    select count(*) from gone"#;

/// `written_at` too: a marker that a later delete has renewed begins its time anew.
const SWEEP_MARKERS: &str = "
    delete from site_apps where site_id = any(array(
        select site_id from site_apps
        where deleted_at < now() - $1 and written_at < now() - $1 and partition = any($2)
        order by deleted_at limit $3)) and deleted_at < now() - $1";

/// The part of a change log's upkeep that is due, and its outcome for the metric and the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parts {
    /// Parts made.
    pub made: i32,
    /// Parts dropped.
    pub dropped: i32,
    /// Rows removed one by one, because no part had taken them in.
    pub expired_rows: i64,
}

impl Store {
    /// Moves the floor of the change log: marks where positions are now, at most once per `mark_interval`, and makes those
    /// marks the floor that are older than `retention`.
    pub async fn move_floor(
        &mut self,
        generation: i32,
        retention: Duration,
        mark_interval: Duration,
    ) -> Result<(), StoreError> {
        let topic = Arc::clone(&self.topic);
        let mut transaction = sqlx::Connection::begin(self.connect().await?).await?;
        if !try_lock(&mut transaction, generation).await? {
            return Ok(());
        }
        sqlx::query(FORGET_MARKS).bind(&*topic).execute(&mut *transaction).await?;
        sqlx::query(LOWER_FLOOR).bind(&*topic).execute(&mut *transaction).await?;
        sqlx::query(MARK).bind(&*topic).bind(interval(mark_interval)).execute(&mut *transaction).await?;
        sqlx::query(RAISE_FLOOR).bind(&*topic).bind(interval(retention)).execute(&mut *transaction).await?;
        Ok(transaction.commit().await?)
    }

    /// Makes the parts of the next `ahead`, each `width` wide, and drops those that are older than `retention`; removes up to
    /// `rows_max` expired rows of the default part. A lock that is not had at once is an error, and nothing has happened then.
    pub async fn change_parts(
        &mut self,
        generation: i32,
        (width, ahead): (Duration, Duration),
        retention: Duration,
        rows_max: i64,
    ) -> Result<Parts, StoreError> {
        let mut parts = Parts::default();
        let connection = self.connect().await?;
        let mut transaction = sqlx::Connection::begin(&mut *connection).await?;
        if !try_lock(&mut transaction, generation).await? {
            return Ok(parts);
        }
        sqlx::query(DDL_LOCK_WAIT_MAX).execute(&mut *transaction).await?;
        let make = sqlx::query_scalar("select siteview.change_parts_make($1, $2, $3)").bind(generation);
        parts.made = make.bind(interval(width)).bind(interval(ahead)).fetch_one(&mut *transaction).await?;
        let expire = sqlx::query_scalar(EXPIRE_DEFAULT).bind(interval(retention)).bind(rows_max);
        parts.expired_rows = expire.fetch_one(&mut *transaction).await?;
        transaction.commit().await?;
        // A transaction of its own: parts are made even while somebody's query keeps an old one from being dropped.
        let mut transaction = sqlx::Connection::begin(&mut *connection).await?;
        if try_lock(&mut transaction, generation).await? {
            sqlx::query(DDL_LOCK_WAIT_MAX).execute(&mut *transaction).await?;
            let drop = sqlx::query_scalar("select siteview.change_parts_drop($1, now() - $2)").bind(generation);
            parts.dropped = drop.bind(interval(retention)).fetch_one(&mut *transaction).await?;
            transaction.commit().await?;
        }
        Ok(parts)
    }

    /// Removes up to `rows_max` delete markers of these claims that are older than `retention`; gives how many. The claims'
    /// position rows are locked, so no batch of theirs is under way; errors as a batch does.
    pub async fn sweep_markers(
        &mut self,
        tenures: &[Arc<Tenure>],
        retention: Duration,
        rows_max: i64,
    ) -> Result<u64, StoreError> {
        let mut transaction = self.begin().await?;
        transaction.lock_positions(tenures).await?;
        let partitions: Vec<i32> = tenures.iter().map(|tenure| tenure.partition).collect();
        let sweep = sqlx::query(SWEEP_MARKERS).bind(interval(retention)).bind(partitions).bind(rows_max);
        let swept = sweep.execute(&mut *transaction.inner).await?.rows_affected();
        transaction.commit().await?;
        Ok(swept)
    }
}

async fn try_lock(connection: &mut PgConnection, generation: i32) -> Result<bool, StoreError> {
    let lock = "select pg_try_advisory_xact_lock($1, $2)";
    Ok(sqlx::query_scalar(lock).bind(LOCK).bind(generation).fetch_one(connection).await?)
}

fn interval(duration: Duration) -> PgInterval {
    // Retentions are bounded by the configuration, far below what 64 bits of microseconds hold.
    PgInterval { months: 0, days: 0, microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX) }
}
