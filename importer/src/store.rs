//! Contacts, faults and the ledger in Postgres: all SQL but the migrations.
//!
//! A job is one transaction. Its entry in the ledger is written first: two that work the same job, a successor and one that was frozen and
//! woke up, meet in that row, and the second finds what the first has done. Locks on contacts are taken in the order of addresses; a
//! deadlock with another writer of the table is an error of the environment, and the job is tried again.

use std::{sync::Arc, time::Duration};

use shared::{
    admin::Condition,
    config::Invalid,
    import::{JobRecord, Mode, RowCounts},
};
use sqlx::{
    PgPool, Postgres, Transaction,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{
    config::Config,
    judge::{Contact, Fault, Judged},
};

/// How long a job waits for a connection.
const ACQUIRE_MAX: Duration = Duration::from_secs(60);
/// Pause before Postgres is asked again while it is away, or not migrated.
const RETRY: Duration = Duration::from_secs(1);
/// A session that is frozen in a transaction gives up its locks, so that its successor can work.
const IDLE_IN_TRANSACTION_MAX: (&str, &str) = ("idle_in_transaction_session_timeout", "20s");

/// False when the job has an entry already.
const BEGIN: &str = "insert into import_job (import_id, job, imported, updated, skipped, failed)
    values ($1::text::uuid, $2, 0, 0, 0, 0) on conflict do nothing";
const FOUND: &str =
    "select imported, updated, skipped, failed from import_job where import_id = $1::text::uuid and job = $2";
const END: &str = "update import_job set imported = $3, updated = $4, skipped = $5, failed = $6
    where import_id = $1::text::uuid and job = $2";
const FAULTS: &str = r#"insert into import_row_error (import_id, line, "column", code, message, "row")
    select $1::text::uuid, * from unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[])
    on conflict do nothing"#;
/// A row per contact that was written: whether it is new, and whether this job changed it. A column that the file does not have stays
/// as it is. An earlier line of the same import is not written, and of a contact that several jobs change one says so, whichever came first.
/// What another import of the owner wrote meanwhile is written over: its lines are of another file.
const CONTACTS: &str = "insert into contact as c (owner_id, email, name, phone, import_id, line, job)
    select $1, given.email, given.name, given.phone, $2::text::uuid, given.line, $3
        from unnest($4::text[], $5::text[], $6::text[], $7::bigint[]) as given (email, name, phone, line)
    on conflict (owner_id, email) do update set
        name = case when $8 then excluded.name else c.name end,
        phone = case when $9 then excluded.phone else c.phone end,
        job = case
            when c.import_id = excluded.import_id and c.job is not null then c.job
            when $8 and c.name is distinct from excluded.name then excluded.job
            when $9 and c.phone is distinct from excluded.phone then excluded.job
        end,
        updated_at = case
            when $8 and c.name is distinct from excluded.name then now()
            when $9 and c.phone is distinct from excluded.phone then now()
            else c.updated_at
        end,
        import_id = excluded.import_id,
        line = excluded.line
        where c.import_id <> excluded.import_id or c.line < excluded.line
    returning c.xmax = 0, c.job is not distinct from $3";
/// What `CONTACTS` would do: how many are new, how many would change.
const CHECK: &str = "select count(*) filter (where c.email is null),
        count(*) filter (where c.email is not null and
            (($5 and c.name is distinct from given.name) or ($6 and c.phone is distinct from given.phone)))
    from unnest($2::text[], $3::text[], $4::text[]) as given (email, name, phone)
    left join contact c on c.owner_id = $1 and c.email = given.email";

/// The database; clones share connections.
#[derive(Clone)]
pub(crate) struct Store {
    pool: PgPool,
    ready: Arc<Condition>,
}

/// What is to become of a job.
pub(crate) enum Order<'a> {
    /// Its rows, judged, take effect as its mode says.
    Settle(&'a Judged),
    /// Its rows are left out.
    Skip,
}

impl Store {
    /// Connects when it is needed.
    pub(crate) fn new(config: &Config, ready: Condition) -> Result<Self, Invalid> {
        let database = config.database.clone().ok_or_else(|| Invalid::new("DATABASE_URL", "is required"))?;
        let database: PgConnectOptions = database.options([IDLE_IN_TRANSACTION_MAX]);
        let connections = u32::try_from(config.connections).unwrap_or(u32::MAX);
        let pool = PgPoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_MAX);
        Ok(Self { pool: pool.connect_lazy_with(database), ready: Arc::new(ready) })
    }

    /// Waits until the tables are there.
    pub(crate) async fn wait_until_migrated(&self) {
        let exists = "select to_regclass('import_row_error') is not null";
        loop {
            match sqlx::query_scalar(exists).fetch_one(&self.pool).await {
                Ok(true) => return self.ready.set(true, "the tables are there"),
                Ok(false) => self.ready.set(false, "the tables are missing; `importer migrate` makes them"),
                Err(error) => self.ready.set(false, error.to_string()),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Does a job, once: who comes second changes nothing. Gives what became of its rows, then or now.
    pub(crate) async fn carry_out(&self, job: &JobRecord, order: Order<'_>) -> Result<RowCounts, sqlx::Error> {
        let done = self.in_transaction(job, order).await;
        match &done {
            Ok(_) => self.ready.set(true, "the last job is committed"),
            Err(error) if error.as_database_error().is_none() => self.ready.set(false, error.to_string()),
            Err(_) => {}
        }
        done
    }

    async fn in_transaction(&self, job: &JobRecord, order: Order<'_>) -> Result<RowCounts, sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        let (import_id, number) = (job.import_id.to_string(), index(job));
        let begun = sqlx::query(BEGIN).bind(&import_id).bind(number).execute(&mut *transaction).await?;
        if begun.rows_affected() == 0 {
            return found(&mut transaction, &import_id, number).await;
        }
        let counts = match order {
            Order::Skip => RowCounts { skipped: job.rows.len() as u64, ..RowCounts::default() },
            Order::Settle(judged) => {
                write_faults(&mut transaction, &import_id, &judged.faults).await?;
                settle(&mut transaction, job, judged).await?
            }
        };
        let of = |count: u64| count.cast_signed();
        let end = sqlx::query(END).bind(&import_id).bind(number).bind(of(counts.imported)).bind(of(counts.updated));
        end.bind(of(counts.skipped)).bind(of(counts.failed)).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(counts)
    }

    /// Ends the connections.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

/// Jobs are numbered by jobs, far below this.
fn index(job: &JobRecord) -> i32 {
    i32::try_from(job.job).unwrap_or(i32::MAX)
}

async fn found(
    transaction: &mut Transaction<'_, Postgres>,
    import_id: &str,
    number: i32,
) -> Result<RowCounts, sqlx::Error> {
    let found = sqlx::query_as(FOUND).bind(import_id).bind(number).fetch_one(&mut **transaction).await?;
    let (imported, updated, skipped, failed): (i64, i64, i64, i64) = found;
    let [imported, updated, skipped, failed] = [imported, updated, skipped, failed].map(i64::cast_unsigned);
    Ok(RowCounts { imported, updated, skipped, failed })
}

async fn write_faults(
    transaction: &mut Transaction<'_, Postgres>,
    import_id: &str,
    faults: &[Fault],
) -> Result<(), sqlx::Error> {
    if faults.is_empty() {
        return Ok(());
    }
    let of = |text: fn(&Fault) -> &str| faults.iter().map(text).collect::<Vec<_>>();
    let lines: Vec<i64> = faults.iter().map(|fault| fault.line.cast_signed()).collect();
    let write = sqlx::query(FAULTS).bind(import_id).bind(lines).bind(of(|it| it.column)).bind(of(|it| it.code));
    write.bind(of(|it| &it.message)).bind(of(|it| &it.row)).execute(&mut **transaction).await?;
    Ok(())
}

/// Each row is in one of the counts.
async fn settle(
    transaction: &mut Transaction<'_, Postgres>,
    job: &JobRecord,
    judged: &Judged,
) -> Result<RowCounts, sqlx::Error> {
    let (imported, updated) = match (judged.contacts.is_empty(), job.mode) {
        (true, _) => (0, 0),
        (false, Mode::Import) => write_contacts(transaction, job, judged).await?,
        (false, Mode::Check) => check_contacts(transaction, job, judged).await?,
    };
    let skipped = judged.duplicates + judged.contacts.len() as u64 - imported - updated;
    Ok(RowCounts { imported, updated, skipped, failed: judged.failed })
}

async fn write_contacts(
    transaction: &mut Transaction<'_, Postgres>,
    job: &JobRecord,
    judged: &Judged,
) -> Result<(u64, u64), sqlx::Error> {
    let (emails, names, phones) = columns(judged);
    let lines: Vec<i64> = judged.contacts.values().map(|contact| contact.line.cast_signed()).collect();
    let write = sqlx::query_as(CONTACTS).bind(&job.owner_id).bind(job.import_id.to_string()).bind(index(job));
    let write = write.bind(emails).bind(names).bind(phones).bind(lines);
    let write = write.bind(job.columns.name.is_some()).bind(job.columns.phone.is_some());
    let written: Vec<(bool, bool)> = write.fetch_all(&mut **transaction).await?;
    let imported = written.iter().filter(|(is_new, _)| *is_new).count();
    let updated = written.iter().filter(|(is_new, is_changed)| !is_new && *is_changed).count();
    Ok((imported as u64, updated as u64))
}

async fn check_contacts(
    transaction: &mut Transaction<'_, Postgres>,
    job: &JobRecord,
    judged: &Judged,
) -> Result<(u64, u64), sqlx::Error> {
    let (emails, names, phones) = columns(judged);
    let check = sqlx::query_as(CHECK).bind(&job.owner_id).bind(emails).bind(names).bind(phones);
    let check = check.bind(job.columns.name.is_some()).bind(job.columns.phone.is_some());
    let (imported, updated): (i64, i64) = check.fetch_one(&mut **transaction).await?;
    Ok((imported.cast_unsigned(), updated.cast_unsigned()))
}

type Columns<'a> = (Vec<&'a str>, Vec<Option<&'a str>>, Vec<Option<&'a str>>);

/// In the order of addresses.
fn columns(judged: &Judged) -> Columns<'_> {
    let of = |text: fn(&Contact) -> &Option<String>| judged.contacts.values().map(|it| text(it).as_deref()).collect();
    (judged.contacts.keys().map(String::as_str).collect(), of(|it| &it.name), of(|it| &it.phone))
}
