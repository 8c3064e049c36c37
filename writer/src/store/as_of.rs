//! `as_of` without a batch: partitions that have reached the end of the log, all in one statement.

use std::sync::Arc;

use jiff::Timestamp;
use sqlx::Row;

use super::Store;
use crate::{batch::Tenure, error::StoreError};

/// Skips partitions that a batch has locked: it moves their `as_of` itself, and nobody waits. In lock order like all else.
const AS_OF: &str = "
    with held as (
        select * from unnest($2::int[], $3::bigint[], $4::bigint[], $5::text[]) as u (partition, epoch, next_offset, as_of)
    ), free as (
        select p.partition, p.epoch, p.next_offset from position p
        where p.topic = $1 and p.partition = any($2) order by p.partition for no key update skip locked
    ), moved as (
        update position p set as_of = h.as_of::timestamptz, updated_at = now()
        from free f join held h on h.partition = f.partition
        where p.topic = $1 and p.partition = f.partition and f.epoch = h.epoch and f.next_offset >= h.next_offset
            and (p.as_of is null or p.as_of < h.as_of::timestamptz)
    )
    select partition, epoch, next_offset from free";

/// A claim, as its owner knows it, and what it may say.
#[derive(Debug, Clone)]
pub struct Held {
    /// The claim.
    pub tenure: Arc<Tenure>,
    /// The position that the owner has stored.
    pub next_offset: i64,
    /// Changes up to this moment are contained; `None` only asks how the position stands.
    pub as_of: Option<Timestamp>,
}

/// A position as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stands {
    /// The partition.
    pub partition: i32,
    /// The epoch under which batches of it commit.
    pub epoch: i64,
    /// The position.
    pub next_offset: i64,
}

impl Store {
    /// Moves `as_of` of those partitions whose stored epoch and position are as held, never back, and gives how they all
    /// stand; those are left out that a batch has locked at this moment.
    pub async fn move_as_of(&mut self, held: &[Held]) -> Result<Vec<Stands>, StoreError> {
        let topic = Arc::clone(&self.topic);
        let rows = sqlx::query(AS_OF)
            .bind(&*topic)
            .bind(held.iter().map(|held| held.tenure.partition).collect::<Vec<_>>())
            .bind(held.iter().map(|held| held.tenure.epoch).collect::<Vec<_>>())
            .bind(held.iter().map(|held| held.next_offset).collect::<Vec<_>>())
            .bind(held.iter().map(|held| held.as_of.map(|as_of| as_of.to_string())).collect::<Vec<_>>())
            .fetch_all(self.connect().await?)
            .await?;
        let stands = |row: &sqlx::postgres::PgRow| {
            Ok(Stands { partition: row.try_get(0)?, epoch: row.try_get(1)?, next_offset: row.try_get(2)? })
        };
        rows.iter().map(stands).collect()
    }
}
