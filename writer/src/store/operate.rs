//! What operators change: positions and the audit table, in one transaction.

use sqlx::{Connection, PgConnection, Postgres, Transaction};

use super::PositionRow;
use crate::{error::StoreError, topic_id::TopicId};

/// A verb waits for a lane's lock longer than lanes wait for each other: a frozen writer loses its transaction after
/// `IDLE_TRANSACTION_MAX`.
const LOCK_WAIT: &str = "set local lock_timeout = '30s'";

const LOCK: &str = r#"
    select partition from position where topic = $1 and ($2::int[] is null or partition = any($2))
    order by partition for update"#;

/// `as_of` says what is certainly contained: not any more what lies behind a position that goes back.
const SET: &str = r#"
    insert into position as p (topic, partition, next_offset, epoch, owner, source_epoch, topic_id)
    values ($1, $2, $3, 0, $4, coalesce((select max(source_epoch) from position where topic = $1), 0), $5)
    on conflict (topic, partition) do update set next_offset = excluded.next_offset, epoch = p.epoch + 1,
        topic_id = coalesce(excluded.topic_id, p.topic_id),
        as_of = case when excluded.next_offset >= p.next_offset
                      and coalesce(excluded.topic_id, p.topic_id) is not distinct from p.topic_id then p.as_of end,
        blocked_offset = null, blocked_state = null, blocked_reason = null, waits_for = null, waits_since = null,
        updated_at = now()"#;

const UNBLOCK: &str = r#"
    update position set next_offset = coalesce($3, next_offset), epoch = epoch + 1, blocked_offset = null,
        blocked_state = null, blocked_reason = null, waits_for = null, waits_since = null, updated_at = now()
    where topic = $1 and partition = $2"#;

const RAISE: &str = "update position set source_epoch = $2, epoch = epoch + 1, updated_at = now() where topic = $1";

/// Positions by partition: what `before` and `after` say of a verb in the audit table.
const SNAPSHOT: &str = r#"
    select coalesce(jsonb_object_agg(partition, jsonb_strip_nulls(jsonb_build_object(
               'next_offset', next_offset, 'epoch', epoch, 'source_epoch', source_epoch, 'topic_id', topic_id,
               'state', blocked_state, 'blocked_offset', blocked_offset, 'reason', blocked_reason))), '{}')::text
    from position where topic = $1 and ($2::int[] is null or partition = any($2))"#;

const AUDIT: &str = r#"
    insert into siteview.audit (action, reason, detail)
    values ($1, $2, jsonb_build_object('generation', $3::int, 'topic', $4::text, 'by', $5::text, 'arguments', $6::text,
                                       'before', $7::jsonb, 'after', $8::jsonb))"#;

/// Whether the newest audit row that touches this partition is this very call.
const REPEATED: &str = r#"
    select coalesce((select action = $3 and reason = $4 and detail ->> 'arguments' = $5 from siteview.audit
        where detail -> 'generation' = to_jsonb($1::int) and detail ->> 'topic' = $2 and detail -> 'after' ? $6
        order by audit_id desc limit 1), false)"#;

/// Whether no position has moved since the source epoch was raised last.
const RAISED: &str = r#"
    select coalesce((
        select not exists (
            select from position p where p.topic = $2
                and (detail -> 'after' -> p.partition::text -> 'next_offset' is distinct from to_jsonb(p.next_offset)
                     or detail -> 'after' -> p.partition::text -> 'source_epoch' is distinct from to_jsonb(p.source_epoch)))
        from siteview.audit
        where action = $3 and detail -> 'generation' = to_jsonb($1::int) and detail ->> 'topic' = $2
        order by audit_id desc limit 1), false)"#;

/// What is written beside the change.
#[derive(Debug, Clone, Copy)]
pub struct Audit<'a> {
    /// The verb.
    pub action: &'a str,
    /// Its arguments but for the reason, as text.
    pub arguments: &'a str,
    /// The operator's words.
    pub reason: &'a str,
    /// Host and process; the database adds the login.
    pub by: &'a str,
}

/// An operator's open transaction on the positions of a topic. Dropped without [`Operation::commit`] nothing has happened.
pub struct Operation<'c> {
    inner: Transaction<'c, Postgres>,
    generation: i32,
    topic: &'c str,
    before: Option<(Option<Vec<i32>>, String)>,
}

impl<'c> Operation<'c> {
    /// Begins it.
    pub async fn begin(
        connection: &'c mut PgConnection,
        generation: i32,
        topic: &'c str,
    ) -> Result<Operation<'c>, StoreError> {
        let mut inner = connection.begin().await?;
        sqlx::query(LOCK_WAIT).execute(&mut *inner).await?;
        Ok(Self { inner, generation, topic, before: None })
    }

    /// Locks these positions, or all of the topic, and reads them; by partition. What they are now is the audit's `before`.
    pub async fn lock(&mut self, partitions: Option<&[i32]>) -> Result<Vec<PositionRow>, StoreError> {
        sqlx::query(LOCK).bind(self.topic).bind(partitions).execute(&mut *self.inner).await?;
        self.before = Some((partitions.map(<[i32]>::to_vec), self.snapshot(partitions).await?));
        match partitions {
            Some(partitions) => PositionRow::of(&mut self.inner, self.topic, partitions).await,
            None => PositionRow::all(&mut self.inner, self.topic).await,
        }
    }

    /// Moves a position, or makes it, and ends what it stood for.
    pub async fn set(
        &mut self,
        partition: i32,
        to: i64,
        by: &str,
        topic_id: Option<&TopicId>,
    ) -> Result<(), StoreError> {
        let set = sqlx::query(SET).bind(self.topic).bind(partition).bind(to).bind(by);
        set.bind(topic_id.map(TopicId::as_str)).execute(&mut *self.inner).await?;
        Ok(())
    }

    /// Ends what a partition stands for; it goes on where it stands, or at `skip_to`.
    pub async fn unblock(&mut self, partition: i32, skip_to: Option<i64>) -> Result<(), StoreError> {
        sqlx::query(UNBLOCK).bind(self.topic).bind(partition).bind(skip_to).execute(&mut *self.inner).await?;
        Ok(())
    }

    /// Gives all partitions of the topic this source epoch.
    pub async fn raise(&mut self, source_epoch: i32) -> Result<(), StoreError> {
        sqlx::query(RAISE).bind(self.topic).bind(source_epoch).execute(&mut *self.inner).await?;
        Ok(())
    }

    /// Whether the last thing done to the partition was this very call.
    pub async fn is_repeated(&mut self, partition: i32, audit: Audit<'_>) -> Result<bool, StoreError> {
        let repeated = sqlx::query_scalar(REPEATED).bind(self.generation).bind(self.topic).bind(audit.action);
        let repeated = repeated.bind(audit.reason).bind(audit.arguments).bind(partition.to_string());
        Ok(repeated.fetch_one(&mut *self.inner).await?)
    }

    /// Whether nothing has been applied since the source epoch was raised last.
    pub async fn is_raised(&mut self, audit: Audit<'_>) -> Result<bool, StoreError> {
        let raised = sqlx::query_scalar(RAISED).bind(self.generation).bind(self.topic).bind(audit.action);
        Ok(raised.fetch_one(&mut *self.inner).await?)
    }

    /// Writes down what was done, and makes both durable.
    pub async fn commit(mut self, audit: Audit<'_>) -> Result<(), StoreError> {
        let (partitions, before) = self.before.take().expect("an operation locks what it changes");
        let after = self.snapshot(partitions.as_deref()).await?;
        let note = sqlx::query(AUDIT).bind(audit.action).bind(audit.reason).bind(self.generation).bind(self.topic);
        let note = note.bind(audit.by).bind(audit.arguments).bind(before).bind(after);
        note.execute(&mut *self.inner).await?;
        Ok(self.inner.commit().await?)
    }

    async fn snapshot(&mut self, partitions: Option<&[i32]>) -> Result<String, StoreError> {
        let snapshot = sqlx::query_scalar(SNAPSHOT).bind(self.topic).bind(partitions);
        Ok(snapshot.fetch_one(&mut *self.inner).await?)
    }
}
