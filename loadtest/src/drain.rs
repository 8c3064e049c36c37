//! `loadtest drain`: one dataset, drained in turns by the writer and its peer, each time into a fresh database.

use std::path::PathBuf;

use anyhow::{Context, Result};
use devstack::{Server, default_cache_dir, jdbc_sink};
use serde_json::json;

use crate::compare::refuse_void;
use crate::config::{DrainOptions, Peer};
use crate::contender::Drain;
use crate::contender::jdbc_sink::JdbcSinkDrain;
use crate::contender::writer::{WriterDrain, WriterSetup};
use crate::database::Database;
use crate::dataset::{Form, Recipe};
use crate::machine::Circumstances;
use crate::report::{self, Report};
use crate::stack::{Stack, unused_name};
use crate::topic::{Filled, Topic};
use crate::window::{Figures, watch};

/// A run of this command.
struct Bench<'a> {
    stack: &'a Stack,
    recipe: Recipe,
    setup: WriterSetup,
    report: Report,
    /// Fields of every result.
    settings: serde_json::Value,
}

/// Fills the topics, drains them in turns, tells figures and ratios.
pub async fn run(options: DrainOptions) -> Result<()> {
    let stack = Stack::take(&options.place).await?;
    let mut bench = Bench::new(&stack, &options)?;
    let own = bench.fill(options.dataset.form).await?;
    let peers = match options.peer {
        Some(Peer::JdbcSink) => Some(Worker::start(&stack).await?),
        None => None,
    };
    let (mut writer, mut peer) = (Vec::new(), Vec::new());
    match peers {
        None => {
            for _ in 0..options.repeat {
                writer.push(bench.writer(&own).await?);
            }
            own.topic.delete().await?;
        }
        Some(worker) if options.peer_form == options.dataset.form => {
            bench.turns(&worker, &own, &own, options.repeat, &mut writer, &mut peer).await?;
            own.topic.delete().await?;
        }
        Some(worker) => {
            let theirs = bench.fill(options.peer_form).await?;
            bench.turns(&worker, &own, &theirs, options.repeat, &mut writer, &mut peer).await?;
            own.topic.delete().await?;
            theirs.topic.delete().await?;
        }
    }
    report::summary(&writer, &peer, options.place.quick);
    Ok(())
}

/// The peer's Connect worker.
struct Worker {
    server: Server,
    url: String,
}

impl Worker {
    async fn start(stack: &Stack) -> Result<Self> {
        let step = stack.progress.spinner("jdbc-sink: starting");
        let dir: PathBuf = stack.folder.join("jdbc-sink");
        let (server, url) = jdbc_sink::start(stack.kafka()?, &dir, &default_cache_dir()?, &stack.progress).await?;
        step.done("jdbc-sink: ready");
        Ok(Self { server, url })
    }

    fn pid(&self) -> Result<i32> {
        self.server.pid().with_context(|| format!("Connect ended by itself; its log: {}", self.server.log().display()))
    }
}

impl<'a> Bench<'a> {
    fn new(stack: &'a Stack, options: &DrainOptions) -> Result<Self> {
        let recipe = options.dataset.recipe(options.events);
        let setup = WriterSetup::new(stack, &options.writer)?;
        let settings = json!({
            "benchmark": "drain", "label": options.place.label, "quick": options.place.quick, "recipe": recipe,
            "setup": setup.json(),
        });
        Ok(Self { stack, recipe, setup, report: Report::open(&options.place, "drain")?, settings })
    }

    async fn fill(&self, form: Form) -> Result<Filled> {
        let step = self.stack.progress.bar("topic: filling", self.recipe.events);
        let topic = Topic::create(self.stack.kafka()?, &unused_name("drain"), self.recipe.partitions).await?;
        let filled =
            tokio::task::block_in_place(|| topic.fill(&self.recipe, form, |told| step.position(told, "produced")))?;
        let (events, bytes) = (self.recipe.events, filled.bytes);
        step.done(&format!("topic: {events} events, {} bytes each, {form:?}", bytes / events));
        Ok(filled)
    }

    async fn turns(
        &mut self,
        worker: &Worker,
        own: &Filled,
        theirs: &Filled,
        repeat: usize,
        writer: &mut Vec<Figures>,
        peer: &mut Vec<Figures>,
    ) -> Result<()> {
        self.peer(worker, theirs, false).await?;
        for _ in 0..repeat {
            writer.push(self.writer(own).await?);
            peer.push(self.peer(worker, theirs, true).await?);
        }
        Ok(())
    }

    async fn writer(&mut self, filled: &Filled) -> Result<Figures> {
        let (circumstances, database) = self.begin().await?;
        let start = WriterDrain::start(&self.setup, self.stack.kafka()?, &database, &filled.topic, self.recipe.events);
        let figures = self.watched(start.await?, filled, &database).await?;
        self.tell::<WriterDrain>(&circumstances, filled, &figures)?;
        database.drop().await?;
        Ok(figures)
    }

    /// One drain of the peer; the first one is not counted, it warms up the Java machine.
    async fn peer(&mut self, worker: &Worker, filled: &Filled, counted: bool) -> Result<Figures> {
        let (circumstances, database) = self.begin().await?;
        let name = unused_name("sink");
        let at = (worker.url.as_str(), worker.pid()?);
        let drain = JdbcSinkDrain::start(at, &name, &database, &filled.topic, &filled.table).await?;
        let figures = self.watched(drain, filled, &database).await?;
        if counted {
            self.tell::<JdbcSinkDrain>(&circumstances, filled, &figures)?;
        }
        database.drop().await?;
        Ok(figures)
    }

    async fn begin(&self) -> Result<(Circumstances, Database)> {
        Ok((Circumstances::now()?, Database::create(self.stack.primary_url()?, &unused_name("drain")).await?))
    }

    async fn watched<D: Drain>(&self, drain: D, filled: &Filled, database: &Database) -> Result<Figures> {
        let step = self.stack.progress.bar(&format!("{}: draining", D::NAME), self.recipe.events);
        let figures = watch(&drain, &self.stack.processes(), database, self.recipe.events, &step).await?;
        step.done(&report::line(D::NAME, &figures));
        refuse_void(D::NAME, &drain.differences(&filled.table).await?)?;
        drain.stop().await?;
        Ok(figures)
    }

    fn tell<D: Drain>(&mut self, circumstances: &Circumstances, filled: &Filled, figures: &Figures) -> Result<()> {
        let contender = json!({
            "contender": D::NAME, "form": filled.form, "events": self.recipe.events, "sites": filled.table.sites.len(),
            "dataset_bytes": filled.bytes,
        });
        self.report.write(&[&self.settings, &contender, &json!(circumstances), &json!(figures)])
    }
}
