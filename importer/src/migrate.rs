//! `importer migrate`: the tables of contacts and jobs. Safe to start several times at once: one works, the others wait and find nothing
//! to do.

use anyhow::Context as _;
use sqlx::{ConnectOptions as _, PgConnection, migrate::Migrator};

use crate::config::Config;

static IMPORT: Migrator = sqlx::migrate!("../migrations/import");
/// Beside the tables, under a name that no other program has for its own.
const RECORD: &str = "import_migration";

/// Applies what is missing and prints it: names on lines, or `{"applied":[…]}` with `--json`.
///
/// Errors: Postgres cannot be reached, or refuses a statement; what was applied until then stays.
pub async fn run(config: &Config) -> anyhow::Result<()> {
    let database = config.database.as_ref().context("DATABASE_URL is required")?;
    let mut connection = database.connect().await.context("the database cannot be reached")?;
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

/// Brings the database to the newest tables; gives the names of what was applied.
async fn migrate(connection: &mut PgConnection) -> anyhow::Result<Vec<String>> {
    let mut migrations = Migrator { migrations: IMPORT.migrations.clone(), ..Migrator::DEFAULT };
    migrations.dangerous_set_table_name(RECORD);
    let before = recorded(connection).await?;
    migrations.run(&mut *connection).await?;
    let new = migrations.iter().filter(|migration| !before.contains(&migration.version));
    Ok(new.map(|migration| format!("import/{:04}_{}", migration.version, migration.description)).collect())
}

async fn recorded(connection: &mut PgConnection) -> anyhow::Result<Vec<i64>> {
    let exists = "select to_regclass('import_migration') is not null";
    match sqlx::query_scalar(exists).fetch_one(&mut *connection).await? {
        true => Ok(sqlx::query_scalar("select version from import_migration").fetch_all(&mut *connection).await?),
        false => Ok(Vec::new()),
    }
}
