//! Taking over partitions.

use sqlx::{PgConnection, Row};

use crate::error::StoreError;

/// A partition that has been taken, or the knowledge that nobody has stored a position for it yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// This writer owns the partition under this epoch.
    Taken {
        /// The partition.
        partition: i32,
        /// Where to go on.
        next_offset: i64,
        /// The epoch of this claim.
        epoch: i64,
        /// The source epoch that holds.
        source_epoch: i32,
    },
    /// There is no position, and the caller named no start.
    NoPosition(i32),
}

const CLAIM: &str = r#"
    update position set epoch = epoch + 1, owner = $3, blocked_offset = null, blocked_state = null, blocked_reason = null,
        updated_at = now()
    where topic = $1 and partition = $2
    returning next_offset, epoch, source_epoch"#;

const CREATE: &str = r#"
    insert into position (topic, partition, next_offset, epoch, owner, source_epoch)
    values ($1, $2, $3, 1, $4, coalesce((select max(source_epoch) from position where topic = $1), 0))
    on conflict (topic, partition) do nothing"#;

/// See [`super::Transaction::claim`]. Partitions are taken in ascending order, as everywhere.
pub(super) async fn claim(
    connection: &mut PgConnection,
    topic: &str,
    owner: &str,
    starts: &[(i32, Option<i64>)],
) -> Result<Vec<Claim>, StoreError> {
    let mut starts = starts.to_vec();
    starts.sort_unstable();
    let mut claims = Vec::with_capacity(starts.len());
    for (partition, start) in starts {
        if let Some(start) = start {
            sqlx::query(CREATE).bind(topic).bind(partition).bind(start).bind(owner).execute(&mut *connection).await?;
        }
        let row = sqlx::query(CLAIM).bind(topic).bind(partition).bind(owner).fetch_optional(&mut *connection).await?;
        claims.push(match row {
            None => Claim::NoPosition(partition),
            Some(row) => Claim::Taken {
                partition,
                next_offset: row.try_get("next_offset")?,
                epoch: row.try_get("epoch")?,
                source_epoch: row.try_get("source_epoch")?,
            },
        });
    }
    Ok(claims)
}

/// The generation that is served; `None` before the first `writer migrate`.
pub async fn active_generation(connection: &mut PgConnection) -> Result<Option<i32>, StoreError> {
    let migrated: bool =
        sqlx::query_scalar("select to_regclass('siteview.generation') is not null").fetch_one(&mut *connection).await?;
    if !migrated {
        return Ok(None);
    }
    let active = "select generation from siteview.generation where state = 'active'";
    Ok(sqlx::query_scalar(active).fetch_optional(connection).await?)
}
