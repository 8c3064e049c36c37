//! `writer migrate`: schemas, tables and roles of the view. Safe to start several times at once: one works, the others wait
//! and find nothing to do.

use anyhow::Context as _;
use sqlx::{AssertSqlSafe, Executor, PgConnection, migrate::Migrator};

use crate::config::Config;

static CONTROL: Migrator = sqlx::migrate!("../migrations/control");
static GENERATION: Migrator = sqlx::migrate!("../migrations/generation");
const GRANTS: &str = include_str!("../../migrations/grants.sql");

/// The group roles. Logins are made members of one; `siteview_owner` is for the one that migrates.
const ROLES: [&str; 3] = ["siteview_owner", "siteview_writer", "siteview_reader"];
/// SQLSTATEs of a role that another migration made at the same moment, and of one that may not be made.
const ROLE_EXISTS: [&str; 2] = ["42710", "23505"];
const NOT_PERMITTED: &str = "42501";
/// Key of the advisory lock under which one migration at a time works; any constant would do.
const LOCK: i64 = 0x5349_5445_5649_4557;

/// Applies what is missing and prints it: names on lines, or `{"applied":[…]}` with `--json`.
///
/// Errors: Postgres cannot be reached, or refuses a statement; what was applied until then stays and is continued by the next
/// call.
pub async fn run(config: &Config) -> anyhow::Result<()> {
    let database = config.database.clone().application_name("siteview-migrate").disable_statement_logging();
    let mut connection = database.connect().await.context("the view's database cannot be reached")?;
    let applied = migrate(&mut connection).await?;
    print(&applied, config.json);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a verb answers on standard output")]
fn print(applied: &[String], json: bool) {
    if json {
        println!("{}", serde_json::json!({ "applied": applied }));
    } else if applied.is_empty() {
        println!("nothing to apply");
    } else {
        applied.iter().for_each(|name| println!("applied {name}"));
    }
}

/// Brings the database to the newest schema: control tables, the first generation where there is none, each generation's
/// tables, roles and grants. Gives the names of what was applied.
pub async fn migrate(connection: &mut PgConnection) -> anyhow::Result<Vec<String>> {
    // Held until the connection ends; the migrator's own lock covers one set of migrations, not all of them.
    connection.execute("set client_min_messages to warning").await?;
    lock(connection).await?;
    let mut applied = Vec::new();
    apply(connection, "siteview", &CONTROL, &mut applied).await?;
    let first =
        "insert into siteview.generation (generation, state, activation, newest_served) select 1, 'active', 1, 1
                 where not exists (select from siteview.generation)";
    connection.execute(first).await?;
    let generations: Vec<(i32, bool)> =
        sqlx::query_as("select generation, state = 'active' from siteview.generation order by generation")
            .fetch_all(&mut *connection)
            .await?;
    let roles = make_roles(connection).await?;
    for (generation, active) in generations {
        let schema = format!("view_g{generation}");
        let before = applied.len();
        apply(connection, &schema, &GENERATION, &mut applied).await?;
        if active && applied.len() > before {
            sqlx::query("select siteview.point_view($1)").bind(generation).execute(&mut *connection).await?;
        }
        if roles {
            grant(connection, generation).await?;
        }
    }
    Ok(applied)
}

/// Makes schema and tables of one generation, without grants. Inside the caller's transaction all of it commits or none.
pub(crate) async fn make_generation(connection: &mut PgConnection, generation: i32) -> anyhow::Result<()> {
    apply(connection, &format!("view_g{generation}"), &GENERATION, &mut Vec::new()).await
}

/// Grants what the group roles may do with a generation and with the views of the active one, where the roles exist.
pub(crate) async fn grant_if_roles_exist(connection: &mut PgConnection, generation: i32) -> anyhow::Result<()> {
    let existing = "select count(*) from pg_roles where rolname = any($1)";
    let existing: i64 = sqlx::query_scalar(existing).bind(&ROLES[..]).fetch_one(&mut *connection).await?;
    match existing == ROLES.len() as i64 {
        true => grant(connection, generation).await,
        false => Ok(()),
    }
}

async fn grant(connection: &mut PgConnection, generation: i32) -> anyhow::Result<()> {
    let grants = GRANTS.replace("{schema}", &format!("view_g{generation}"));
    sqlx::raw_sql(AssertSqlSafe(grants)).execute(&mut *connection).await?;
    Ok(())
}

/// Waits until no other migration and no other verb that changes generations is at work, and keeps them out until the
/// connection ends.
pub(crate) async fn lock(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("select pg_advisory_lock($1)").bind(LOCK).execute(connection).await?;
    Ok(())
}

/// Applies one set of migrations with `schema` first in the search path; its record of them lies in the same schema.
async fn apply(
    connection: &mut PgConnection,
    schema: &str,
    migrations: &Migrator,
    applied: &mut Vec<String>,
) -> anyhow::Result<()> {
    let prepare = format!("create schema if not exists {schema}; set search_path to {schema}");
    sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut *connection).await?;
    let recorded = "select to_regclass('_sqlx_migrations') is not null";
    let known: Vec<i64> = match sqlx::query_scalar(recorded).fetch_one(&mut *connection).await? {
        true => sqlx::query_scalar("select version from _sqlx_migrations").fetch_all(&mut *connection).await?,
        false => Vec::new(),
    };
    migrations.run(&mut *connection).await.with_context(|| format!("schema {schema}"))?;
    let new = migrations.iter().filter(|migration| !known.contains(&migration.version));
    applied.extend(new.map(|migration| format!("{schema}/{:04}_{}", migration.version, migration.description)));
    Ok(())
}

/// Makes the group roles where that is allowed, else prints the SQL for somebody who may. Gives whether all are there.
async fn make_roles(connection: &mut PgConnection) -> anyhow::Result<bool> {
    let existing: Vec<String> = sqlx::query_scalar("select rolname::text from pg_roles where rolname = any($1)")
        .bind(&ROLES[..])
        .fetch_all(&mut *connection)
        .await?;
    let mut all = true;
    for role in ROLES.iter().filter(|role| !existing.iter().any(|name| name == *role)) {
        let create = format!("create role {role} nologin");
        let made = sqlx::raw_sql(AssertSqlSafe(create.clone())).execute(&mut *connection).await;
        let sqlstate = made.as_ref().err().and_then(|error| error.as_database_error()).and_then(|error| error.code());
        match (made.is_ok(), sqlstate.as_deref()) {
            (true, _) => {}
            (false, Some(code)) if ROLE_EXISTS.contains(&code) => {}
            (false, Some(NOT_PERMITTED)) => {
                all = false;
                tracing::warn!(
                    "this login may not make roles; have a superuser run: {create}; and run `migrate` again for its grants"
                );
            }
            (false, _) => return made.map(|_| all).with_context(|| create),
        }
    }
    Ok(all)
}
