//! The generations: rows of `siteview.generation`, and what decides which of them is served.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection};

/// For so long a generation that was served stays where the switch found it. A reader that has not seen the switch yet then
/// serves nothing that the new one lacks: it asks by no sample that is older than `READER_REPLICA_SILENCE_MAX`, 2 s by default.
pub const SETTLE: Duration = Duration::from_secs(5);

const ALL: &str = r#"
    select g.generation, g.state,
           to_char(g.created_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as created_at,
           g.projection, g.activation, g.newest_served, g.rolled_back,
           extract(epoch from clock_timestamp() - g.deactivated_at)::float8 as inactive_seconds
    from siteview.generation g order by g.generation"#;

/// A row of `siteview.generation`.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Generation {
    /// Its number; its tables stand in the schema `view_g<N>`.
    pub generation: i32,
    /// `building`, `ready`, `active` or `retired`.
    pub state: String,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// Text of the mapping it was created with; `None`: that of its writers.
    pub projection: Option<String>,
    /// Rises with each switch; the greatest is the active one's.
    pub activation: Option<i64>,
    /// The highest number served until this one became active.
    pub newest_served: Option<i32>,
    /// Whether it became active by a rollback.
    pub rolled_back: bool,
    /// Seconds since it was active; `None` when it is, or never was.
    pub inactive_seconds: Option<f64>,
}

impl Generation {
    /// All generations, by number.
    pub async fn all(connection: &mut PgConnection) -> Result<Vec<Self>, sqlx::Error> {
        sqlx::query_as(ALL).fetch_all(connection).await
    }

    /// Whether readers are served by it.
    pub fn is_active(&self) -> bool {
        self.state == "active"
    }
}

/// Who may change generations, and whether this session may.
#[derive(Debug, sqlx::FromRow)]
pub struct Ownership {
    /// The login of this session.
    pub login: String,
    /// The role that owns the control tables: whoever migrated first.
    pub owner: String,
    /// Whether the login is that role, or may act as it.
    pub is_owner: bool,
    /// Whether the login may make schemas in this database.
    pub makes_schemas: bool,
}

impl Ownership {
    /// `None` when the database is not migrated.
    pub async fn of(connection: &mut PgConnection) -> Result<Option<Self>, sqlx::Error> {
        let statement = "select current_user::text as login, pg_get_userbyid(relowner)::text as owner,
                pg_has_role(relowner, 'usage') as is_owner,
                has_database_privilege(current_database(), 'create') as makes_schemas
            from pg_class where oid = to_regclass('siteview.generation')";
        sqlx::query_as(statement).fetch_optional(connection).await
    }
}

/// Gives the next number and makes its row; what belongs to it is made in the same transaction.
pub async fn insert(connection: &mut PgConnection, projection: Option<&str>) -> Result<i32, sqlx::Error> {
    let statement = "insert into siteview.generation (generation, state, projection)
                     values (nextval('siteview.generation_number'), 'building', $1) returning generation";
    sqlx::query_scalar(statement).bind(projection).fetch_one(connection).await
}

/// Whether this number was given once.
pub async fn was_given(connection: &mut PgConnection, generation: i32) -> Result<bool, sqlx::Error> {
    let statement = "select $1 between 1 and last_value from siteview.generation_number";
    sqlx::query_scalar(statement).bind(generation).fetch_one(connection).await
}

/// Makes `to` the active generation and gives the one that was active its new state. Readers see both or neither.
pub async fn switch(
    connection: &mut PgConnection,
    from: Option<(i32, &str)>,
    to: i32,
    rolled_back: bool,
) -> Result<(), sqlx::Error> {
    if let Some((from, state)) = from {
        let deactivate = "update siteview.generation set state = $2, rolled_back = false,
                          deactivated_at = clock_timestamp() where generation = $1";
        sqlx::query(deactivate).bind(from).bind(state).execute(&mut *connection).await?;
    }
    let activate = "update siteview.generation set state = 'active', rolled_back = $2, deactivated_at = null,
            activation = (select coalesce(max(activation), 0) + 1 from siteview.generation),
            newest_served = (select greatest(max(newest_served), $1) from siteview.generation)
        where generation = $1";
    sqlx::query(activate).bind(to).bind(rolled_back).execute(&mut *connection).await?;
    sqlx::query("select siteview.point_view($1)").bind(to).execute(connection).await?;
    Ok(())
}

/// Takes a generation away, schema and row. Its positions are locked before the rest, as every batch of a writer begins with
/// them: batches under way are waited for, and none is met in the middle, where each would wait for the other.
pub async fn remove(connection: &mut PgConnection, generation: i32) -> Result<(), sqlx::Error> {
    let batches = format!("lock table view_g{generation}.position in access exclusive mode");
    sqlx::raw_sql(AssertSqlSafe(batches)).execute(&mut *connection).await?;
    let schema = format!("drop schema if exists view_g{generation} cascade");
    sqlx::raw_sql(AssertSqlSafe(schema)).execute(&mut *connection).await?;
    let row = "delete from siteview.generation where generation = $1";
    sqlx::query(row).bind(generation).execute(connection).await?;
    Ok(())
}

/// Writes down what an operator did, and why, in the transaction that does it.
pub async fn audit(
    connection: &mut PgConnection,
    action: &str,
    reason: &str,
    detail: &Value,
) -> Result<(), sqlx::Error> {
    let statement = "insert into siteview.audit (action, reason, detail) values ($1, $2, $3::text::jsonb)";
    sqlx::query(statement).bind(action).bind(reason).bind(detail.to_string()).execute(connection).await?;
    Ok(())
}

/// How long a statement of this session waits for a lock.
pub async fn bound_locks(connection: &mut PgConnection, wait: Duration) -> Result<(), sqlx::Error> {
    let statement = "select set_config('lock_timeout', $1, false)";
    sqlx::query(statement).bind(format!("{}ms", wait.as_millis())).execute(connection).await?;
    Ok(())
}

/// Sites that a generation serves.
pub async fn count_sites(connection: &mut PgConnection, generation: i32) -> Result<i64, sqlx::Error> {
    let statement = format!("select count(*) from view_g{generation}.site_apps where deleted_at is null");
    sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(connection).await
}

/// Where a generation stands, by partition; empty while nobody has fed it.
pub async fn positions(
    connection: &mut PgConnection,
    generation: i32,
    topic: &str,
) -> Result<BTreeMap<i32, i64>, sqlx::Error> {
    let statement = format!("select partition, next_offset from view_g{generation}.position where topic = $1");
    let rows: Vec<(i32, i64)> = sqlx::query_as(AssertSqlSafe(statement)).bind(topic).fetch_all(connection).await?;
    Ok(rows.into_iter().collect())
}

/// As [`positions`], and keeps them where they are: writers of the generation wait until the transaction ends, and their
/// claims are over when it commits. The server ends the transaction when it has been idle for `frozen_max`.
pub async fn hold_positions(
    connection: &mut PgConnection,
    generation: i32,
    topic: &str,
    frozen_max: Duration,
) -> Result<BTreeMap<i32, i64>, sqlx::Error> {
    let limit = sqlx::query("select set_config('idle_in_transaction_session_timeout', $1, true)");
    limit.bind(format!("{}ms", frozen_max.as_millis())).execute(&mut *connection).await?;
    let lock = format!("select from view_g{generation}.position where topic = $1 order by partition for no key update");
    sqlx::query(AssertSqlSafe(lock)).bind(topic).execute(&mut *connection).await?;
    let end = format!(
        "update view_g{generation}.position set epoch = epoch + 1 where topic = $1 returning partition, next_offset"
    );
    let rows: Vec<(i32, i64)> = sqlx::query_as(AssertSqlSafe(end)).bind(topic).fetch_all(connection).await?;
    Ok(rows.into_iter().collect())
}

/// Whether some writer has moved a position of the generation, or its `as_of`, within this time.
pub async fn is_fed(connection: &mut PgConnection, generation: i32, within: Duration) -> Result<bool, sqlx::Error> {
    let statement = format!(
        "select exists (select from view_g{generation}.position
                        where updated_at > clock_timestamp() - make_interval(secs => $1))"
    );
    sqlx::query_scalar(AssertSqlSafe(statement)).bind(within.as_secs_f64()).fetch_one(connection).await
}

/// Makes a building generation ready if it has reached these ends, which must be those of all partitions. True when it
/// became ready by this call.
pub async fn mark_ready(
    connection: &mut PgConnection,
    generation: i32,
    topic: &str,
    ends: &BTreeMap<i32, i64>,
) -> Result<bool, sqlx::Error> {
    let (partitions, ends): (Vec<i32>, Vec<i64>) = ends.iter().unzip();
    sqlx::query_scalar("select siteview.mark_ready($1, $2, $3, $4)")
        .bind(generation)
        .bind(topic)
        .bind(partitions)
        .bind(ends)
        .fetch_one(connection)
        .await
}

/// Whether the last comparison of these two found them equal; `None` when there was none.
pub async fn last_verification(
    connection: &mut PgConnection,
    generation: i32,
    against: i32,
) -> Result<Option<bool>, sqlx::Error> {
    let statement = "select clean from siteview.verification where generation = $1 and against = $2
                     order by verification_id desc limit 1";
    sqlx::query_scalar(statement).bind(generation).bind(against).fetch_optional(connection).await
}

/// Writes down what a comparison found.
pub async fn record_verification(
    connection: &mut PgConnection,
    (generation, against): (i32, i32),
    clean: bool,
    detail: &Value,
) -> Result<(), sqlx::Error> {
    let statement = "insert into siteview.verification (generation, against, clean, detail)
                     values ($1, $2, $3, $4::text::jsonb)";
    let detail = detail.to_string();
    sqlx::query(statement).bind(generation).bind(against).bind(clean).bind(detail).execute(connection).await?;
    Ok(())
}

/// Records that a generation has not applied yet, given the ends of the topic's partitions as (oldest kept, end).
pub fn lag(positions: &BTreeMap<i32, i64>, ends: &BTreeMap<i32, (i64, i64)>) -> i64 {
    let of = |(partition, (low, high)): (&i32, &(i64, i64))| {
        (high - positions.get(partition).copied().unwrap_or(*low)).max(0)
    };
    ends.iter().map(of).sum()
}
