//! Events aggregation: the finished jobs of an import are counted, and its completion is told once.
//!
//! Importers send a command per finished job, sometimes twice. Instances of an `AtomicKvStore` share the imports and are killed at
//! random, and a guest joins and leaves meanwhile. In the end each import has exactly its jobs in its value, is completed exactly
//! once, and its browser was told of the value that completed it.
//!
//! `cargo run -p messaging --release --example import_progress -- --imports 20 --jobs 100 --kills 5`

#![allow(clippy::print_stdout)] // A person reads what an example says.

mod stage;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use devstack::eventually;
use messaging::{
    AtomicKvStore, AtomicKvStoreConfig,
    atomic_kv_store::{Decision, StoredUpdate},
    transaction::{Output, Record},
};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde::{Deserialize, Serialize};
use stage::{Broker, Crew};

/// Until all is done, on a busy machine.
const DONE_MAX: Duration = Duration::from_secs(1500);
/// How long a browser's topic may take for one record.
const TELL_MAX: Duration = Duration::from_secs(10);

#[derive(Parser)]
struct Arguments {
    /// Address of a broker; one is started without it.
    #[arg(long)]
    kafka: Option<String>,
    /// Imports.
    #[arg(long, default_value_t = 20)]
    imports: u32,
    /// Jobs of each.
    #[arg(long, default_value_t = 100)]
    jobs: u32,
    /// How often an instance is killed on the way.
    #[arg(long, default_value_t = 5)]
    kills: u32,
    /// Runs the instance of this name only.
    #[arg(long)]
    member: Option<String>,
    /// Names the topics and groups of this run.
    #[arg(long, default_value_t = stage::tag())]
    run: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Command {
    Start { jobs: u32 },
    JobDone { job: u32 },
}

/// The value of an import: a set, since a command that comes twice must not count twice.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
struct Progress {
    jobs: u32,
    /// One bit per job.
    done: Vec<u64>,
    jobs_done: u32,
}

impl Progress {
    /// What is to come of an import: exactly these jobs.
    fn complete(jobs: u32) -> Self {
        let done = (0..jobs.div_ceil(64)).map(|word| match jobs - word * 64 {
            64.. => u64::MAX,
            rest => (1 << rest) - 1,
        });
        Self { jobs, done: done.collect(), jobs_done: jobs }
    }

    /// Whether it was not done yet.
    fn finish(&mut self, job: u32) -> bool {
        let (word, bit) = ((job / 64) as usize, 1 << (job % 64));
        self.done.resize(self.done.len().max(word + 1), 0);
        let is_new = self.done[word] & bit == 0;
        self.done[word] |= bit;
        self.jobs_done += u32::from(is_new);
        is_new
    }

    fn is_complete(&self) -> bool {
        self.jobs > 0 && self.jobs_done == self.jobs
    }
}

/// What a command does: pure, and all there is to write for such a service.
fn apply(completed: &str, command: &Record, progress: Option<&Progress>) -> Decision<Progress> {
    let Ok(decoded) = serde_json::from_slice(command.value.as_deref().unwrap_or_default()) else {
        return Decision::keep();
    };
    let mut progress = progress.cloned().unwrap_or_default();
    match decoded {
        Command::Start { jobs } if progress.jobs == 0 => progress.jobs = jobs,
        Command::JobDone { job } if progress.finish(job) => {}
        _ => return Decision::keep(),
    }
    // The transition, not the state: it happens once.
    match progress.is_complete() {
        true => {
            let key = command.key.clone().unwrap_or_default();
            let output = Output::new(completed, key, progress.jobs_done.to_string());
            Decision::put(progress).output(output)
        }
        false => Decision::put(progress),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.member {
        Some(member) => serve(&arguments, member).await,
        None => run(&arguments).await,
    }
}

fn config(arguments: &Arguments, member: &str) -> AtomicKvStoreConfig {
    let run = &arguments.run;
    let (commands, store) = (format!("{run}.import.progress.commands"), format!("{run}.import.progress"));
    AtomicKvStoreConfig {
        batch_records_max: 500,
        transaction_timeout: Duration::from_secs(10),
        ..AtomicKvStoreConfig::new(&commands, &store, &format!("{run}-progress"), member)
    }
}

/// One instance: applies commands, and tells browsers what is complete.
async fn serve(arguments: &Arguments, member: &str) -> Result<()> {
    let shutdown = stage::member();
    let (broker, run) = (Broker::at(arguments.kafka.clone())?, arguments.run.clone());
    let store = AtomicKvStore::<Progress>::start(&broker.settings(), config(arguments, member))?;
    let completed = format!("{run}.import.completed");
    let apply = move |command: &Record, progress: Option<&Progress>| apply(&completed, command, progress);
    let browser: FutureProducer = broker.client().set("enable.idempotence", "true").create()?;
    let tell = move |update: StoredUpdate<Progress>| {
        let (browser, topic) = (browser.clone(), format!("{run}.notifications"));
        async move {
            if !update.value.is_some_and(|progress| progress.is_complete()) {
                return Ok(());
            }
            // Told at least once; the id lets the browser's side drop a repeat.
            let record = FutureRecord::to(&topic).key(update.key.as_ref()).payload(&update.id);
            browser.send(record, TELL_MAX).await.map(drop).map_err(|(error, _)| error)
        }
    };
    // Both end when it is asked to leave; either may end the process.
    let applying = async { store.run(apply, shutdown.clone()).await.context("applying") };
    let telling = async { store.follow_updates(tell, shutdown.clone()).await.context("telling") };
    tokio::try_join!(applying, telling)?;
    Ok(())
}

async fn run(arguments: &Arguments) -> Result<()> {
    let broker = Broker::at(arguments.kafka.clone())?;
    let topic = |name: &str| format!("{}.{name}", arguments.run);
    broker.create(&topic("import.progress.commands"), 6, &[]).await?;
    broker.create(&topic("import.progress"), 6, &[("cleanup.policy", "compact")]).await?;
    for name in ["import.completed", "notifications"] {
        broker.create(&topic(name), 1, &[]).await?;
    }
    broker.produce(&topic("import.progress.commands"), commands(arguments))?;
    println!("{} imports of {} jobs are reported", arguments.imports, arguments.jobs);

    let member = |name: &str| {
        let given = [("--kafka", broker.address.as_str()), ("--run", &arguments.run), ("--member", name)];
        given.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()]).collect()
    };
    let mut crew = Crew::start(&arguments.run, ["0", "1", "2"].map(member))?;
    // Any process may ask, also one that applies nothing.
    let queries = AtomicKvStore::<Progress>::start(&broker.settings(), config(arguments, "queries"))?;
    let (mut kills, mut ended, mut left) = (0, 0, None);
    let logs = crew.folder().display().to_string();
    let all_done = eventually("every import is complete, and told", DONE_MAX, async || {
        ended += crew.supervise().ok()?;
        let (group, commands) = (format!("{}-progress", arguments.run), topic("import.progress.commands"));
        let (consumed, all) = broker.consumed(&commands, &group).ok()?;
        let due = i64::from(kills + 1) * all / i64::from(arguments.kills + 1);
        if kills < arguments.kills && consumed >= due.min(all - 1) {
            crew.kill_any().ok()?;
            kills += 1;
            match kills {
                1 => crew.join(member("guest")).ok()?,
                last if last == arguments.kills => left = Some(crew.leave().await),
                _ => {}
            }
        }
        let complete = queries.store().scan("").iter().filter(|(_, progress)| progress.is_complete()).count();
        if consumed < all || kills < arguments.kills || complete < arguments.imports as usize {
            return None;
        }
        let told: BTreeSet<String> =
            broker.read(&topic("notifications")).ok()?.into_iter().map(|told| told.key).collect();
        (told.len() == arguments.imports as usize).then_some(())
    });
    all_done.await.with_context(|| format!("logs in {logs}"))?;
    drop(crew);
    println!("{kills} instances were killed, {ended} ended by themselves and were started anew");
    if let Some(left) = left {
        left.with_context(|| format!("logs in {logs}"))?;
        println!("a guest joined and left");
    }
    check(arguments, &broker, &queries).await.with_context(|| format!("logs in {logs}"))
}

/// The commands of all imports, mixed; every tenth comes twice.
fn commands(arguments: &Arguments) -> impl Iterator<Item = (String, Option<String>)> {
    let (imports, jobs) = (arguments.imports, arguments.jobs);
    let record = |import: u32, command: &Command| (format!("import-{import}"), serde_json::to_string(command).ok());
    let starts = (0..imports).map(move |import| record(import, &Command::Start { jobs }));
    let finished = (0..jobs).flat_map(move |job| (0..imports).map(move |import| (import, job)));
    let finished = finished.flat_map(move |(import, job)| {
        let times = if (import + job) % 10 == 0 { 2 } else { 1 };
        (0..times).map(move |_| record(import, &Command::JobDone { job }))
    });
    starts.chain(finished)
}

/// Compares the values, the completions and what the log of the store tells about each step.
async fn check(arguments: &Arguments, broker: &Broker, queries: &AtomicKvStore<Progress>) -> Result<()> {
    let imports = arguments.imports as usize;
    let completed = broker.read(&format!("{}.import.completed", arguments.run))?;
    let keys: BTreeSet<&str> = completed.iter().map(|record| record.key.as_str()).collect();
    ensure!(completed.len() == imports && keys.len() == imports, "{} completions of {}", completed.len(), keys.len());
    let jobs = arguments.jobs.to_string();
    let are_right = completed.iter().all(|record| record.value.as_ref() == Some(&jobs));
    ensure!(are_right, "completed with {jobs}: {completed:?}");
    let store = queries.store();
    store.caught_up().await?;
    for import in 0..arguments.imports {
        let progress = store.get(format!("import-{import}")).context("every import has a value")?;
        ensure!(*progress == Progress::complete(arguments.jobs), "import {import}: {progress:?}");
    }
    // Each value was made from the one before: no step is missing, none is taken twice.
    let mut steps: BTreeMap<String, u32> = BTreeMap::new();
    let (topic, mut completing) = (format!("{}.import.progress", arguments.run), BTreeSet::new());
    for record in broker.read(&topic)? {
        let id = format!("{topic}-{}-{}", record.partition, record.offset);
        let progress: Progress = serde_json::from_str(&record.value.context("no import is removed")?)?;
        let step = steps.entry(record.key.clone()).or_insert(progress.jobs_done);
        let follows = progress.jobs_done == *step || progress.jobs_done == *step + 1;
        ensure!(follows, "{}: {} jobs after {step}", record.key, progress.jobs_done);
        *step = progress.jobs_done;
        if progress.is_complete() {
            completing.insert((record.key, Some(id)));
        }
    }
    // Told at least once, so as a set: of each import the value that completed it, and nothing else.
    let told = broker.read(&format!("{}.notifications", arguments.run))?;
    let told: BTreeSet<_> = told.into_iter().map(|told| (told.key, told.value)).collect();
    ensure!(told == completing, "told {told:?} instead of {completing:?}");
    println!("each of {imports} imports has its {} jobs, completed once and told", arguments.jobs);
    Ok(())
}
