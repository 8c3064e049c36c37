//! Taking over partitions.

use sqlx::{PgConnection, Row};

use super::{Blocked, BlockedState};
use crate::error::StoreError;

/// A partition that has been taken, or that stands, or the knowledge that nobody has stored a position for it yet.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// The brake has stopped the partition, and it stands until an operator ends that; a claim alone does not.
    Braked {
        /// The partition.
        partition: i32,
        /// Where and why it stands.
        blocked: Blocked,
    },
    /// There is no position, and the caller named no start.
    NoPosition(i32),
}

/// A partition that stood at a record stands in the eyes of operators until it has moved on; the next stored batch says so.
const CLAIM: &str = r#"
    update position set epoch = epoch + 1, owner = $3,
        blocked_offset = case when blocked_state in ('blocked', 'braked') then blocked_offset end,
        blocked_reason = case when blocked_state in ('blocked', 'braked') then blocked_reason end,
        blocked_state = case when blocked_state in ('blocked', 'braked') then blocked_state end,
        updated_at = now()
    where topic = $1 and partition = $2
    returning next_offset, epoch, source_epoch, blocked_state, blocked_offset, blocked_reason"#;

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
            Some(row) if row.try_get::<Option<&str>, _>("blocked_state")? == Some(BlockedState::Braked.as_str()) => {
                let next_offset = row.try_get("next_offset")?;
                let offset = row.try_get::<Option<i64>, _>("blocked_offset")?.unwrap_or(next_offset);
                let reason = row.try_get::<Option<String>, _>("blocked_reason")?.unwrap_or_default();
                Claim::Braked { partition, blocked: Blocked { state: BlockedState::Braked, offset, reason } }
            }
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
