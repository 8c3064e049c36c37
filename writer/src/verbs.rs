//! What operators do to positions: `position set`, `unblock`, `source-epoch raise`.
//!
//! Each verb is one transaction on the generation's `position` rows and on `siteview.audit`: both or neither, so a verb that
//! was killed has happened or it has not, and `select * from siteview.audit` says which. It raises the epoch of every row
//! that it changes. A running writer therefore finds its claim over, as it would if another writer had come, and takes the
//! partition again from the row: that is how a verb reaches it, and why nothing it had in hand can undo the verb. Partitions
//! that stand are looked at every second (`source.rs`).
//!
//! A verb that finds its work done changes nothing, writes nothing and answers as before.
//!
//! Errors: [`Refused`] is the operator's (exit code 2) and names the way out; everything else is the environment's (1).

mod position_set;
mod source_epoch;
mod unblock;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use shared::process::Refused;
use sqlx::{Connection, PgConnection};

pub use position_set::run as position_set;
pub use source_epoch::run as source_epoch_raise;
pub use unblock::run as unblock;

use crate::{
    config::Config,
    error::StoreError,
    position::{Line, Topic},
    store::{self, PositionRow},
};

/// `position`, and what stands behind it.
#[derive(Debug, Clone, Args)]
pub struct PositionArgs {
    /// Without a verb the positions are shown.
    #[command(subcommand)]
    pub verb: Option<PositionVerb>,
}

/// Verbs of `position`.
#[derive(Debug, Clone, Subcommand)]
pub enum PositionVerb {
    /// Move a partition to an offset: what lies between is applied again, or never
    ///
    /// Ends every state that a partition can stand in; the way out of `out-of-range` and `topic-changed`. Running writers go
    /// on from the new position within 5 s. Written to siteview.audit.
    Set(SetArgs),
}

/// Arguments of `position set`.
#[derive(Debug, Clone, Args)]
pub struct SetArgs {
    /// Partition of the topic
    #[arg(long, value_name = "PARTITION", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: i32,
    /// Offset of the next record to apply; from the log's start up to its end (`writer position` shows the end)
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    pub to: i64,
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub why: Why,
}

/// Arguments of `unblock`.
#[derive(Debug, Clone, Args)]
pub struct UnblockArgs {
    /// Partition of the topic
    #[arg(long, value_name = "PARTITION", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: i32,
    /// Go on at this offset, behind the one that the partition stands at; default: try the same record again
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    pub skip_to: Option<i64>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub why: Why,
}

/// `source-epoch`, and what stands behind it.
#[derive(Debug, Clone, Args)]
pub struct SourceEpochArgs {
    #[command(subcommand)]
    #[expect(missing_docs, reason = "described there")]
    pub verb: SourceEpochVerb,
}

/// Verbs of `source-epoch`.
#[derive(Debug, Clone, Subcommand)]
pub enum SourceEpochVerb {
    /// Let changes count whose source positions are lower than those the view holds
    ///
    /// For a source whose log positions went back: a new replication slot on a restored database, a failover that lost
    /// transactions. Positions of different source epochs are not compared. Written to siteview.audit.
    Raise(Why),
}

/// The reason, which every verb that changes something wants.
#[derive(Debug, Clone, Args)]
pub struct Why {
    /// Why, for the audit table (siteview.audit)
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: String,
}

fn reason(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("say why, for those who read siteview.audit later".to_owned()),
        reason => Ok(reason.to_owned()),
    }
}

/// The generation's database, opened by a verb.
struct View {
    connection: PgConnection,
    generation: i32,
}

impl View {
    async fn open(config: &Config) -> anyhow::Result<Self> {
        let mut connection =
            config.database.clone().disable_statement_logging().connect().await.context("the database")?;
        let active = store::active_generation(&mut connection).await?;
        let generation = config.generation.or(active).ok_or(StoreError::NotMigrated("active generation"))?;
        connection.close().await.context("the database")?;
        let options = store::connect_options(&config.database, &format!("view_g{generation}"));
        let connection = options.connect().await.context("the database")?;
        Ok(Self { connection, generation })
    }

    /// One partition, as `writer position` shows it.
    async fn line(&mut self, config: &Config, partition: i32, topic: &Topic) -> anyhow::Result<Line> {
        let rows = PositionRow::of(&mut self.connection, &config.topic, &[partition]).await?;
        Ok(Line::new(&config.topic, partition, self.generation, rows.first(), topic))
    }
}

/// Who did it, beside the login that the database knows.
fn by() -> String {
    crate::process_name()
}
