//! `writer verify`: compares the view with the source's table, finds what change data capture cannot find by itself, and
//! repairs it on demand.
//!
//! ```text
//! scan     both sides once, in the order of keys, chunk by chunk ──> sites that seem to differ
//! settle   look at those again until each is explained by changes under way, or proven, or the time is over
//! repair   rows that only the view has: deleted by this verb (a snapshot of an absent row says nothing)
//!          damaged rows: put right by this verb, so that the next record of the site can be applied
//!          the rest: asked of Debezium, by its signal table, as an incremental snapshot of those keys
//! ```
//!
//! A row of the source goes through the same decoding and the same document as a record does, so equal means equal to the
//! byte. A difference is *proven* when the source's replication slots had confirmed its log, up to behind the look at the
//! source, the view had passed the ends that the topic had then, and the view's row was still another, and not written since.
//!
//! Guarantees. Reads only, unless a repair is asked for. Memory holds one chunk of each side and the keys that differ, both
//! limited. Nothing is deleted without proof, nor without a look at the source under the lock of the positions.

pub mod compare;
mod repair;
mod report;
mod scan;
mod settle;
mod signal;
mod source;
mod takeover;

use std::{fmt, time::Instant};

use anyhow::Context as _;
use sqlx::PgConnection;

use crate::{
    config::{Config, VerifySettings},
    error::StoreError,
    projection::Projection,
    store,
};
use compare::Said;
use report::Report;
use settle::Candidate;
use source::{Signals, Source, SourceRow, quoted};

/// A table of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
}

impl Table {
    fn quoted(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// The columns of the source's table that the projection reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// The site's id.
    pub key: String,
    /// The version, where it is mapped.
    pub version: Option<String>,
    /// The apps.
    pub apps: String,
}

impl Columns {
    /// The columns that a projection names. Errors with a text when a pointer leads into a column: in the topic that is
    /// text, in the table a structure, and the two would be read in different ways.
    pub fn of(projection: &Projection) -> Result<Self, String> {
        let column = |n: usize, key: &str| match projection.site.get(n).map(|pointer| pointer.column()) {
            Some(Some(name)) => Ok(Some(name.to_owned())),
            Some(None) => Err(format!("{key} points into a column; only whole columns can be verified")),
            None => Ok(None),
        };
        let required = "a projection maps id and apps";
        Ok(Self {
            key: column(0, "site.id")?.expect(required),
            apps: column(1, "site.apps")?.expect(required),
            version: column(2, "site.version")?,
        })
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        [&self.key, &self.apps].into_iter().chain(&self.version).map(String::as_str)
    }
}

/// What all phases need.
struct Verification<'c> {
    config: &'c Config,
    settings: &'c VerifySettings,
    generation: i32,
    source: Source,
    /// Debezium's signal table, when a repair may write to it.
    signals: Option<Signals>,
    view: PgConnection,
}

/// Compares, repairs if asked to, prints the report. Gives whether view and source agree in the end.
///
/// Errors: source, view or brokers cannot be reached, or the source's table is not as the projection says.
pub async fn run(config: &Config) -> anyhow::Result<bool> {
    let started = Instant::now();
    let mut verification = Verification::start(config).await?;
    let scanned = verification.scan().await?;
    let mut report = Report::new(&verification, &scanned);
    let mut differing = verification.settle(scanned.candidates, settle::Patience::UntilProven).await?;
    report.found(&differing);
    if let Some(reason) = &verification.settings.repair
        && !differing.is_empty()
    {
        let (repaired, left) = verification.repair(differing, reason).await?;
        report.repaired(repaired);
        differing = left;
    }
    report.left(&differing, started.elapsed());
    report.print(config.json)?;
    Ok(report.agrees())
}

impl<'c> Verification<'c> {
    async fn start(config: &'c Config) -> anyhow::Result<Self> {
        let settings = config.verify.as_ref().context("verify was checked with the configuration")?;
        let mut view =
            config.database.clone().disable_statement_logging().connect().await.context("the view's database")?;
        let active = store::active_generation(&mut view).await?;
        let generation = config.generation.or(active).ok_or(StoreError::NotMigrated("active generation"))?;
        let view = store::connect_options(&config.database, &format!("view_g{generation}")).connect().await?;
        let (table, columns) = (&settings.source_table, &settings.columns);
        let source = Source::connect(&settings.source, table, columns, settings.chunk_rows).await?;
        let signals = match settings.repair {
            Some(_) => Some(source.signals(&settings.signal_table).await?),
            None => None,
        };
        Ok(Self { config, settings, generation, source, signals, view })
    }

    fn project(&self, row: &SourceRow) -> Said {
        compare::project(row, self.config.projection.key_member(), &self.config.projection, self.config.limits)
    }
}
