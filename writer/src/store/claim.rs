//! Taking over partitions, or finding that they stand.

use std::time::Duration;

use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{Blocked, BlockedState, generation::SETTLE};
use crate::{
    ends::Ends,
    error::StoreError,
    topic_id::{self, TopicId},
};

/// What became of a claim.
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
    /// The partition stands until an operator or the log changes that; nobody owns it.
    Stands {
        /// The partition.
        partition: i32,
        /// How and why.
        blocked: Blocked,
    },
    /// Readers have only just left this generation; nobody owns the partition yet.
    Settles {
        /// The partition.
        partition: i32,
        /// For how much longer.
        left: Duration,
    },
}

const CREATE: &str = r#"
    insert into position (topic, partition, next_offset, epoch, owner, source_epoch, topic_id)
    values ($1, $2, $3, 0, $4, coalesce((select max(source_epoch) from position where topic = $1), 0), $5)
    on conflict (topic, partition) do nothing"#;

const LOCK: &str = r#"
    select next_offset, topic_id, blocked_state, blocked_offset, blocked_reason
    from position where topic = $1 and partition = $2 for update"#;

/// A wait goes on under the owner that began it. A partition that stood at a record stands in the eyes of operators until it
/// has moved on; what is stored next says so.
const TAKE: &str = r#"
    update position set epoch = epoch + 1, owner = $3, topic_id = coalesce($4, topic_id),
        blocked_offset = case when blocked_state = 'blocked' then blocked_offset end,
        blocked_reason = case when blocked_state = 'blocked' then blocked_reason end,
        blocked_state = case when blocked_state = 'blocked' then blocked_state end,
        waits_for = case when owner = $3 then waits_for end, waits_since = case when owner = $3 then waits_since end,
        updated_at = now()
    where topic = $1 and partition = $2
    returning epoch, source_epoch"#;

/// The epoch fences whoever may still hold the partition.
const STAND: &str = r#"
    update position set epoch = epoch + 1, owner = $3, blocked_offset = $4, blocked_state = $5, blocked_reason = $6,
        waits_for = null, waits_since = null, updated_at = now()
    where topic = $1 and partition = $2"#;

/// Asked once the row is locked: a switch that held it is seen.
const SETTLES: &str = r#"
    select extract(epoch from deactivated_at - clock_timestamp())::float8 + $1 as seconds_left
    from siteview.generation where 'view_g' || generation = current_schema()"#;

/// See [`super::Transaction::claim`]. Partitions are taken in ascending order, as everywhere.
pub(super) async fn claim(
    connection: &mut PgConnection,
    topic: &str,
    owner: &str,
    partitions: &[(i32, Ends)],
    topic_id: Option<&TopicId>,
) -> Result<Vec<Claim>, StoreError> {
    let mut partitions = partitions.to_vec();
    partitions.sort_unstable_by_key(|(partition, _)| *partition);
    let id = topic_id.map(TopicId::as_str);
    let mut claims = Vec::with_capacity(partitions.len());
    for (partition, ends) in partitions {
        let create = sqlx::query(CREATE).bind(topic).bind(partition).bind(ends.low).bind(owner).bind(id);
        create.execute(&mut *connection).await?;
        let row = sqlx::query(LOCK).bind(topic).bind(partition).fetch_one(&mut *connection).await?;
        let stored = Stored::new(&row)?;
        if let Some(left) = settles(connection).await? {
            claims.push(Claim::Settles { partition, left });
            continue;
        }
        claims.push(match stored.obstacle(ends, topic_id) {
            Some(blocked) => {
                if !stored.stands_so(&blocked) {
                    let stand = sqlx::query(STAND).bind(topic).bind(partition).bind(owner).bind(blocked.offset);
                    let stand = stand.bind(blocked.state.as_str()).bind(&blocked.reason);
                    stand.execute(&mut *connection).await?;
                }
                Claim::Stands { partition, blocked }
            }
            None => {
                let take = sqlx::query(TAKE).bind(topic).bind(partition).bind(owner).bind(id);
                let row = take.fetch_one(&mut *connection).await?;
                let (next_offset, epoch) = (stored.next_offset, row.try_get("epoch")?);
                Claim::Taken { partition, next_offset, epoch, source_epoch: row.try_get("source_epoch")? }
            }
        });
    }
    Ok(claims)
}

/// For how much longer the generation stays where readers left it.
async fn settles(connection: &mut PgConnection) -> Result<Option<Duration>, StoreError> {
    let asked = sqlx::query_scalar::<_, Option<f64>>(SETTLES).bind(SETTLE.as_secs_f64());
    let seconds = asked.fetch_optional(connection).await?.flatten().filter(|seconds| *seconds > 0.0);
    Ok(seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()))
}

/// What a position says before it is claimed.
struct Stored {
    next_offset: i64,
    topic_id: Option<String>,
    blocked: Option<Blocked>,
}

impl Stored {
    fn new(row: &PgRow) -> Result<Self, sqlx::Error> {
        let state: Option<String> = row.try_get("blocked_state")?;
        let next_offset = row.try_get("next_offset")?;
        let blocked = match state.as_deref().and_then(BlockedState::of) {
            Some(state) => Some(Blocked {
                state,
                offset: row.try_get::<Option<i64>, _>("blocked_offset")?.unwrap_or(next_offset),
                reason: row.try_get::<Option<String>, _>("blocked_reason")?.unwrap_or_default(),
            }),
            None => None,
        };
        Ok(Self { next_offset, topic_id: row.try_get("topic_id")?, blocked })
    }

    /// What forbids to go on from here. A brake is released by operators only; a plain block is tried again; the others hold
    /// as long as topic and log say so.
    fn obstacle(&self, ends: Ends, topic_id: Option<&TopicId>) -> Option<Blocked> {
        let at = |state, reason| Some(Blocked { state, offset: self.next_offset, reason });
        if let Some(braked) = self.blocked.as_ref().filter(|blocked| blocked.state == BlockedState::Braked) {
            return Some(braked.clone());
        }
        if topic_id::differ(self.topic_id.as_deref(), topic_id) {
            let (old, new) = (self.topic_id.as_deref().unwrap_or_default(), topic_id.map_or("", TopicId::as_str));
            let reason =
                format!("the topic was deleted and made anew: the position is of topic id {old}, now it is {new}");
            return at(BlockedState::TopicChanged, reason);
        }
        if !ends.hold(self.next_offset) {
            return at(BlockedState::OutOfRange, format!("the log holds {} to {}", ends.low, ends.high));
        }
        None
    }

    /// The log's ends, which the reason may name, move on; that is no news.
    fn stands_so(&self, blocked: &Blocked) -> bool {
        let stands = self.blocked.as_ref().map(|blocked| (blocked.state, blocked.offset));
        stands == Some((blocked.state, blocked.offset))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_a_partition_is_decided_by_brake_topic_and_log_in_this_order() {
        let ends = Ends { low: 10, high: 20 };
        let (here, there) = (TopicId::of_bits(1, 1).expect("an id"), TopicId::of_bits(1, 2).expect("an id"));
        let stored = |next_offset, id: Option<&TopicId>, state: Option<BlockedState>| Stored {
            next_offset,
            topic_id: id.map(|id| id.as_str().to_owned()),
            blocked: state.map(|state| Blocked { state, offset: next_offset, reason: String::new() }),
        };
        use BlockedState::{Blocked as Plain, Braked, OutOfRange, TopicChanged};
        for (next_offset, id, state, expected) in [
            (15, Some(&here), None, None),
            (10, Some(&here), None, None),
            (20, Some(&here), None, None),
            (15, None, None, None),
            (9, Some(&here), None, Some(OutOfRange)),
            (21, Some(&here), None, Some(OutOfRange)),
            (15, Some(&there), None, Some(TopicChanged)),
            (21, Some(&there), Some(OutOfRange), Some(TopicChanged)),
            (15, Some(&here), Some(Plain), None),
            (15, Some(&here), Some(OutOfRange), None),
            (15, Some(&here), Some(TopicChanged), None),
            (9, Some(&here), Some(Plain), Some(OutOfRange)),
            (15, Some(&here), Some(Braked), Some(Braked)),
            (15, Some(&there), Some(Braked), Some(Braked)),
        ] {
            let found = stored(next_offset, id, state).obstacle(ends, Some(&here)).map(|blocked| blocked.state);
            assert_eq!(found, expected, "{next_offset} of {id:?}, {state:?}");
        }
        assert_eq!(stored(15, Some(&there), None).obstacle(ends, None), None, "an unknown topic id changes nothing");
    }
}
