//! The view that is read: made of a topic by the writer, compared with the table, vacuumed, and on the replica.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio_postgres::Client;

use super::model::Model;
use crate::compare::refuse_void;
use crate::config::{ReadOptions, WriterOptions};
use crate::contender::writer::{WriterDrain, WriterSetup};
use crate::contender::{Drain, Progress};
use crate::database::{Database, sibling};
use crate::dataset::{Form, Keys, Recipe, Table};
use crate::stack::{Stack, unused_name};
use crate::topic::{Filled, Topic};

/// Until the view must hold all records.
const DRAIN_MAX: Duration = Duration::from_secs(15 * 60);
/// One by one: a vacuum runs in no transaction, and statements that are sent together are one.
const SETTLE: [&str; 2] = ["vacuum (analyze) view_g1.site_apps, view_g1.app_site, view_g1.app_count", "checkpoint"];
const ETAGS: &str = "select site_id, etag from view_g1.site_apps where deleted_at is null";

/// A view and the topic behind it.
pub(super) struct View {
    database: Database,
    topic: Topic,
    recipe: Recipe,
    setup: WriterSetup,
    /// Its database on the replica.
    pub(super) replica_url: String,
    /// Bytes of the topic's keys and values.
    pub(super) topic_bytes: u64,
}

impl View {
    /// Makes one of so many sites, with the writer's binary that stands beside this program.
    pub(super) async fn make(stack: &Stack, options: &ReadOptions) -> Result<(Self, Model)> {
        let name = unused_name("read");
        let recipe = Recipe {
            events: options.sites,
            sites: options.sites,
            unrelated_percent: 0,
            keys: Keys::Uniform,
            site_apps: options.site_apps,
            partitions: options.partitions,
            seed: options.seed,
        };
        let topic = Topic::create(stack.kafka()?, &name, recipe.partitions).await?;
        let writer = WriterOptions { writer: options.writer.clone(), writer_flags: Vec::new() };
        let mut view = Self {
            database: Database::create(stack.primary_url()?, &name).await?,
            replica_url: sibling(stack.replica_url()?, &name)?,
            setup: WriterSetup::new(stack, &writer)?,
            topic,
            recipe,
            topic_bytes: 0,
        };
        let filled = view.fill(stack, 0, |_| {})?;
        view.topic_bytes = filled.bytes;
        let writer = view.start_writer(stack).await?;
        view.drained(stack, writer, &filled.table).await?;
        let client = view.database.client().await?;
        for statement in SETTLE {
            client.batch_execute(statement).await.with_context(|| statement.to_owned())?;
        }
        stack.replayed().await?;
        let etags = etags(&client).await?;
        ensure!(etags.len() as u64 == options.sites, "{} sites have a tag", etags.len());
        Ok((view, Model::new(filled.table.sites, etags)))
    }

    /// Writes this many more records to the topic, all of them changes of apps; the model expects what comes of them.
    pub(super) fn add_backlog(&mut self, stack: &Stack, records: u64, model: &mut Model) -> Result<Table> {
        let first = self.recipe.events;
        self.recipe.events += records;
        Ok(self.fill(stack, first, |site| model.expect_later(site))?.table)
    }

    fn fill(&self, stack: &Stack, first: u64, mut told: impl FnMut(&crate::dataset::Site)) -> Result<Filled> {
        let step = stack.progress.bar("topic: filling", self.recipe.events - first);
        let tell = |change: &crate::dataset::Change<'_>| {
            told(change.site);
            if change.number.is_multiple_of(crate::topic::TOLD_EVERY) {
                step.position(change.number - first, "produced");
            }
        };
        let topic = self.topic.clone();
        let filled = tokio::task::block_in_place(|| topic.fill_from(first, &self.recipe, Form::Envelope, tell))?;
        step.done(&format!("topic: {} records", self.recipe.events));
        Ok(filled)
    }

    /// A writer on the topic as it is.
    pub(super) async fn start_writer(&self, stack: &Stack) -> Result<WriterDrain> {
        WriterDrain::start(&self.setup, stack.kafka()?, &self.database, &self.topic, self.recipe.events).await
    }

    /// Waits until the writer has stored all records, compares, and stops it.
    pub(super) async fn drained(&self, stack: &Stack, writer: WriterDrain, table: &Table) -> Result<()> {
        let step = stack.progress.bar("writer: draining", self.recipe.events);
        let done = async || match (writer.progress().await, writer.failure().await) {
            (Ok(Progress::Done), _) => Some(Ok(())),
            (Ok(Progress::Running(stored)), None) => {
                step.position(stored.unwrap_or_default(), "stored");
                None
            }
            (Ok(_), Some(why)) => Some(Err(anyhow::anyhow!(why))),
            (Err(error), _) => Some(Err(error)),
        };
        devstack::eventually("the view holds all records", DRAIN_MAX, done).await??;
        step.done("writer: the view is complete");
        refuse_void("the writer", &writer.differences(table).await?)?;
        writer.stop().await
    }

    /// Removes view and topic.
    pub(super) async fn drop(self) -> Result<()> {
        self.database.drop().await?;
        self.topic.delete().await
    }
}

async fn etags(client: &Client) -> Result<HashMap<String, String>> {
    let rows = client.query(ETAGS, &[]).await.context("the view's tags")?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
