//! The source's side: its table, read only, in the order of the view's key; how far its log reaches; Debezium's signal table.
//!
//! The keys are listed once, by a cursor that is held after its transaction: the server keeps them in a file of its own, so
//! that a long comparison holds back no vacuum at the source. The rows are then read by key, chunk by chunk. A uuid, or text
//! that is sorted by bytes, is listed by its index; other keys are sorted once by their text.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail, ensure};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, PgConnection, Row,
    postgres::{PgConnectOptions, PgRow},
};

use super::{Columns, Table};

/// How long the source works on one statement; the longest lists all keys.
const STATEMENT_MAX: Duration = Duration::from_secs(3600);
/// How long a statement waits for a lock, behind a migration of the source for instance.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(10);

/// A row of the source, not yet decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceRow {
    /// The key's text.
    pub site_id: String,
    /// JSON text of the mapped columns, as Debezium would write them into `after`.
    pub row: String,
}

/// A connection to the source and the statements for its table.
pub struct Source {
    connection: PgConnection,
    options: PgConnectOptions,
    statements: Statements,
    /// Rows of the table as its statistics estimate them; for the progress only.
    pub rows_estimated: u64,
}

struct Statements {
    list: String,
    fetch: String,
    rows: String,
}

const DESCRIBE: &str = r#"
    select a.attname::text, format_type(a.atttypid, -1), coalesce(k.collname::text, ''), greatest(c.reltuples, 0)::bigint
    from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid
    left join pg_collation k on k.oid = a.attcollation
    where n.nspname = $1 and c.relname = $2 and a.attnum > 0 and not a.attisdropped"#;

/// Logical slots feed Debezium; what all of them have confirmed has been written to Kafka.
const CONFIRMED: &str = r#"
    select coalesce(bool_and(confirmed_flush_lsn >= $1::pg_lsn), false)
    from pg_replication_slots where slot_type = 'logical' and database = current_database()"#;

impl Source {
    /// Connects and finds out how the key is read.
    ///
    /// Errors: the source cannot be reached, or has no such table or column; the text names it.
    pub async fn connect(
        url: &PgConnectOptions,
        table: &Table,
        columns: &Columns,
        chunk_rows: usize,
    ) -> anyhow::Result<Self> {
        let milliseconds = |limit: Duration| limit.as_millis().to_string();
        let options = url.clone().application_name("siteview-verify").disable_statement_logging().options([
            ("statement_timeout", milliseconds(STATEMENT_MAX)),
            ("lock_timeout", milliseconds(LOCK_WAIT_MAX)),
        ]);
        let reading = options.clone().options([("default_transaction_read_only", "on")]);
        let mut connection = reading.connect().await.context("the source's database cannot be reached")?;
        let described = sqlx::query(DESCRIBE).bind(&table.schema).bind(&table.name).fetch_all(&mut connection).await?;
        ensure!(!described.is_empty(), "the source has no table {table}, or this login may not see it");
        let rows_estimated: i64 = described[0].try_get(3)?;
        let names = described.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?;
        if let Some(missing) = columns.names().find(|name| !names.iter().any(|column| column == name)) {
            bail!("the table {table} has no column {missing:?}, which the projection names");
        }
        let key = described.iter().zip(&names).find(|(_, name)| **name == columns.key).expect("just found").0;
        let statements = Statements::new(table, columns, key.try_get(1)?, key.try_get(2)?, chunk_rows);
        Ok(Self { connection, options, statements, rows_estimated: rows_estimated.unsigned_abs() })
    }

    /// Lists the keys as they are now, for [`Self::next_keys`].
    pub async fn list_keys(&mut self) -> anyhow::Result<()> {
        // A held cursor is filled when its transaction commits.
        let mut transaction = self.connection.begin().await?;
        let list = AssertSqlSafe(self.statements.list.clone());
        sqlx::raw_sql(list).execute(&mut *transaction).await.context("the source's keys cannot be listed")?;
        Ok(transaction.commit().await?)
    }

    /// The next keys in the order of their bytes; none at the end.
    pub async fn next_keys(&mut self) -> anyhow::Result<Vec<String>> {
        let fetch = AssertSqlSafe(self.statements.fetch.clone());
        let rows = sqlx::query(fetch).persistent(false).fetch_all(&mut self.connection).await?;
        Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
    }

    /// The rows of these keys as they are now, in the order of their keys' bytes; keys without a row are left out.
    pub async fn rows(&mut self, keys: &[String]) -> anyhow::Result<Vec<SourceRow>> {
        let rows = sqlx::query(AssertSqlSafe(self.statements.rows.clone())).bind(keys);
        let rows = rows.fetch_all(&mut self.connection).await.context("the source's rows cannot be read")?;
        let row = |row: &PgRow| Ok(SourceRow { site_id: row.try_get(0)?, row: row.try_get(1)? });
        let mut rows = rows.iter().map(row).collect::<Result<Vec<_>, sqlx::Error>>()?;
        rows.sort_unstable_by(|a, b| a.site_id.cmp(&b.site_id));
        Ok(rows)
    }

    /// As [`Self::rows`], by key.
    pub async fn rows_by_key(&mut self, keys: &[String]) -> anyhow::Result<HashMap<String, SourceRow>> {
        Ok(self.rows(keys).await?.into_iter().map(|row| (row.site_id.clone(), row)).collect())
    }

    /// Where the source's log ends: everything that was read before is in it. The insert position, so that commits that do
    /// not wait for the disk (`synchronous_commit=off`) are below it too.
    pub async fn log_end(&mut self) -> anyhow::Result<String> {
        let end = sqlx::query_scalar("select pg_current_wal_insert_lsn()::text").fetch_one(&mut self.connection).await;
        end.context("the source does not tell where its log ends; the URL must be that of the primary")
    }

    /// Whether every logical slot of this database has confirmed the log up to here; false when there is none. Debezium
    /// confirms what Kafka has acknowledged.
    pub async fn has_confirmed(&mut self, log_end: &str) -> anyhow::Result<bool> {
        Ok(sqlx::query_scalar(CONFIRMED).bind(log_end).fetch_one(&mut self.connection).await?)
    }

    /// A connection that may write signals.
    pub async fn signals(&self, table: &Table) -> anyhow::Result<Signals> {
        Signals::connect(&self.options, table).await
    }
}

impl Statements {
    fn new(table: &Table, columns: &Columns, key_type: &str, key_collation: &str, chunk_rows: usize) -> Self {
        let (from, key) = (table.quoted(), quoted(&columns.key));
        let order = match (key_type, key_collation) {
            // Both sort as the bytes of their text do, and by their index.
            ("uuid", _) | (_, "C" | "POSIX") => key.clone(),
            _ => format!("{key}::text collate \"C\""),
        };
        let member = |name: &str| format!("'{}', r.{}", name.replace('\'', "''"), quoted(name));
        let members = columns.names().map(member).collect::<Vec<_>>().join(", ");
        Self {
            list: format!(
                "declare verified_keys no scroll cursor with hold for select {key}::text from {from} order by {order}"
            ),
            fetch: format!("fetch forward {chunk_rows} from verified_keys"),
            rows: format!(
                "select r.{key}::text, json_build_object({members})::text from {from} r \
                 where r.{key} = any($1::text[]::{key_type}[])"
            ),
        }
    }
}

/// Debezium's signal table, written to.
pub struct Signals {
    connection: PgConnection,
    insert: String,
    /// Longest text that its column `data` takes, in characters.
    pub data_max: usize,
}

/// Longest signal: Debezium keeps the ones that wait in its offsets, a Kafka record of at most 1 MB by default.
const SIGNAL_DATA_MAX: usize = 32 << 10;
const SIGNAL_COLUMN: &str = r#"
    select character_maximum_length::bigint from information_schema.columns
    where table_schema = $1 and table_name = $2 and column_name = 'data'"#;

impl Signals {
    async fn connect(options: &PgConnectOptions, table: &Table) -> anyhow::Result<Self> {
        let mut connection = options.connect().await.context("the source's database cannot be reached")?;
        let column = sqlx::query_scalar(SIGNAL_COLUMN).bind(&table.schema).bind(&table.name);
        let column: Option<Option<i64>> = column.fetch_optional(&mut connection).await?;
        let longest = column.with_context(|| {
            format!("the source has no signal table {table} (id, type, data); docs/operations.md says how it is made")
        })?;
        let longest = longest.and_then(|longest| usize::try_from(longest).ok()).unwrap_or(SIGNAL_DATA_MAX);
        let insert = format!("insert into {} (id, type, data) values ($1, $2, $3)", table.quoted());
        Ok(Self { connection, insert, data_max: longest.min(SIGNAL_DATA_MAX) })
    }

    /// Asks for rows by an incremental snapshot.
    pub async fn execute_snapshot(&mut self, data: &str) -> anyhow::Result<()> {
        self.send("execute-snapshot", data).await
    }

    /// Has Debezium write a line to its log.
    pub async fn note(&mut self, message: &str) -> anyhow::Result<()> {
        self.send("log", &serde_json::json!({ "message": message }).to_string()).await
    }

    async fn send(&mut self, kind: &str, data: &str) -> anyhow::Result<()> {
        // The table's key; new each time.
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = format!("siteview-{}-{}", since_epoch.as_nanos(), std::process::id());
        let insert = sqlx::query(AssertSqlSafe(self.insert.clone())).bind(id).bind(kind).bind(data);
        insert.execute(&mut self.connection).await.context("the signal table cannot be written")?;
        Ok(())
    }
}

/// A name in SQL.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_listed_by_an_index_where_it_sorts_as_bytes_do() {
        let table = Table { schema: "public".to_owned(), name: "odd\"name".to_owned() };
        let columns = Columns { key: "id".to_owned(), version: None, apps: "it's".to_owned() };
        let list = |kind, collation| Statements::new(&table, &columns, kind, collation, 10).list;
        for (kind, collation, order) in [
            ("uuid", "", "order by \"id\""),
            ("text", "C", "order by \"id\""),
            ("text", "default", "order by \"id\"::text collate \"C\""),
            ("bigint", "", "order by \"id\"::text collate \"C\""),
        ] {
            assert!(list(kind, collation).ends_with(order), "{kind} {collation}: {}", list(kind, collation));
        }
        let rows = Statements::new(&table, &columns, "uuid", "", 10).rows;
        assert!(rows.contains("from \"public\".\"odd\"\"name\" r") && rows.contains("'it''s', r.\"it's\""), "{rows}");
    }
}
