//! `writer generation …`: the view built anew beside the one that is served, compared, switched to, left again.
//!
//! ```text
//! create ─> building ─(a writer feeds it, and has caught up)─> ready ─ verify, promote ─> active ─ promote of another ─> retired ─> drop
//!                                                                ^                          │                             │
//!                                                                └──────────────────────────┴── rollback ── active <──────┘
//! ```
//!
//! Each verb is one transaction that holds its entry in `siteview.audit` too, so a kill leaves all of it or nothing, and the
//! same call again finds what is left to do. One verb at a time: they share the lock of `writer migrate`. A verb that is
//! refused for the state of things changes nothing, says why, and ends with exit code 3.

mod create;
pub(crate) mod follow;
mod list;
mod remove;
mod switch;
mod verify;

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Subcommand;
use serde::Serialize;
use sqlx::PgConnection;

use crate::{
    config::Config,
    error::StoreError,
    migrate,
    store::generation::{self, Generation, Ownership},
    verbs::Why,
};

/// How long a verb waits for another verb, or for statements that hold what it changes.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(10);
/// SQLSTATE of a lock that was not had in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// Exit code of a refusal, and of a comparison that found a difference.
const REFUSED: u8 = 3;

/// What is done with generations.
#[derive(Debug, Clone, Subcommand)]
pub enum GenerationVerb {
    /// Make an empty generation and give its number; --projection is kept with it. Feed it by WRITER_GENERATION=N
    ///
    /// A generation with the same mapping that nobody has fed yet is given instead of a second one. Wants the login that
    /// migrated.
    Create,
    /// Show the generations: state, sites, and how many records each is behind
    List,
    /// Compare a generation with the active one, row by row, while both are fed; exit code 3 when they differ
    Verify {
        /// The generation
        #[arg(value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
        number: i32,
    },
    /// Serve another generation; it must be ready and its last comparison clean, else exit code 3
    ///
    /// Readers follow within a second. The one served so far is retired; its positions stand still for the next 5 s.
    /// Wants the login that migrated.
    Promote {
        /// The generation
        #[arg(value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
        number: i32,
        /// Also when it is not ready, differs, or is behind
        #[arg(long)]
        force: bool,
        /// What is written down.
        #[command(flatten)]
        why: Why,
    },
    /// Serve the generation before the active one again; the active one is ready afterwards. Wants the login that migrated
    Rollback {
        /// What is written down.
        #[command(flatten)]
        why: Why,
    },
    /// Take a generation away, with its tables; never the active one. Wants the login that migrated
    Drop {
        /// The generation
        #[arg(value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
        number: i32,
        /// What is written down.
        #[command(flatten)]
        why: Why,
    },
}

/// What a verb came to: `{"generation","state","changed"}`, with `"records_behind"` after a switch to a generation that
/// lacks records which the one before it had.
#[derive(Debug, Serialize)]
struct Answer {
    generation: i32,
    state: &'static str,
    changed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    records_behind: Option<i64>,
}

/// A verb that the state of things does not allow.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("there is no generation {0}; `writer generation list` shows those there are")]
    Unknown(i32),
    #[error(
        "generation {0} is {1}, not ready: a writer with WRITER_GENERATION={0} has to catch up first; --force promotes it as it is"
    )]
    NotReady(i32, String),
    #[error(
        "generation {0} was not compared with generation {1}, which is active: `writer generation verify {0}` first, or --force"
    )]
    NotVerified(i32, i32),
    #[error(
        "generation {0} differs from generation {1}, which is active: see `writer generation verify {0}`; --force if that is what it is for"
    )]
    Differs(i32, i32),
    #[error(
        "generation {0} is {1} records behind the active one, and readers would go back: is a writer with WRITER_GENERATION={0} running? --force promotes it as it is"
    )]
    Behind(i32, i64),
    #[error("no generation was served before the active one, or it was dropped: there is nothing to go back to")]
    NothingBefore,
    #[error("generation {0} is the active one; promote another or roll back before it is dropped")]
    Active(i32),
}

/// Does what the verb says and prints the answer: a line or a table, or with `--json` an object or an array.
///
/// Errors: the database cannot be reached or is not migrated, the login may not do it, a lock is held for too long.
pub async fn run(config: &Config, verb: &GenerationVerb) -> anyhow::Result<ExitCode> {
    let outcome = match verb {
        GenerationVerb::Create => create::create(config).await.map(|answer| tell(config, &answer)),
        GenerationVerb::List => list::list(config).await,
        GenerationVerb::Verify { number } => verify::verify(config, *number).await,
        GenerationVerb::Promote { number, force, why } => {
            switch::promote(config, *number, *force, &why.reason).await.map(|answer| tell(config, &answer))
        }
        GenerationVerb::Rollback { why } => {
            switch::rollback(config, &why.reason).await.map(|answer| tell(config, &answer))
        }
        GenerationVerb::Drop { number, why } => {
            remove::remove(config, *number, &why.reason).await.map(|answer| tell(config, &answer))
        }
    };
    match outcome {
        Err(error) if error.is::<Refused>() => {
            tracing::error!(reason = %error, "refused; nothing was changed");
            Ok(ExitCode::from(REFUSED))
        }
        outcome => outcome,
    }
}

#[expect(clippy::print_stdout, reason = "a verb answers on standard output")]
fn tell(config: &Config, answer: &Answer) -> ExitCode {
    let Answer { generation, state, changed, records_behind } = answer;
    let behind = records_behind.map(|records| format!(", {records} records behind")).unwrap_or_default();
    match (config.json, changed) {
        (true, _) => println!("{}", serde_json::json!(answer)),
        (false, true) => println!("generation {generation} is {state} now{behind}"),
        (false, false) => println!("generation {generation} is {state} already"),
    }
    ExitCode::SUCCESS
}

async fn connect(config: &Config) -> anyhow::Result<PgConnection> {
    let options = config.database.clone().application_name("siteview-generation").disable_statement_logging();
    options.connect().await.context("the view's database cannot be reached")
}

/// A session of the owner, alone at work until it ends.
async fn session(config: &Config) -> anyhow::Result<PgConnection> {
    let mut connection = connect(config).await?;
    let ownership = ownership(&mut connection).await?;
    let Ownership { login, owner, .. } = &ownership;
    anyhow::ensure!(
        ownership.is_owner && ownership.makes_schemas,
        "the login {login} may not change generations: use the one that ran `writer migrate` ({owner}), or a member of it \
         that may create schemas in this database"
    );
    generation::bound_locks(&mut connection, LOCK_WAIT_MAX).await?;
    migrate::lock(&mut connection).await.map_err(held)?;
    Ok(connection)
}

async fn ownership(connection: &mut PgConnection) -> anyhow::Result<Ownership> {
    Ok(Ownership::of(connection).await?.ok_or(StoreError::NotMigrated("generations"))?)
}

/// Says what a lock that was not had is about.
fn held(error: sqlx::Error) -> anyhow::Error {
    let sqlstate = error.as_database_error().and_then(|error| error.code());
    match sqlstate.as_deref() {
        Some(LOCK_NOT_AVAILABLE) => anyhow::Error::new(error).context(format!(
            "another migration, another verb or a statement that uses the same tables was still at work after \
             {LOCK_WAIT_MAX:?}; pg_stat_activity names it; try again"
        )),
        _ => error.into(),
    }
}

fn find(generations: &[Generation], number: i32) -> Result<&Generation, Refused> {
    generations.iter().find(|generation| generation.generation == number).ok_or(Refused::Unknown(number))
}

fn active(generations: &[Generation]) -> Option<&Generation> {
    generations.iter().find(|generation| generation.is_active())
}
