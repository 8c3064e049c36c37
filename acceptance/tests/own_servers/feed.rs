//! The change feed over deaths: of readers, of the replica that they follow, of the writer. A devstack of its own, because it
//! kills what others use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use acceptance::{By, Heard, Readers, Service, Source, Subscriber, System, scenario};
use anyhow::{Context, Result, ensure};
use devstack::{Devstack, Options, Part, eventually, target_dir, unused_state_dir};
use serde_json::Value;
use tokio::task::JoinHandle;

const PARTITIONS: i32 = 4;
const SUBSCRIBERS: usize = 24;
/// The source's apps that some subscribers follow; each is on many sites.
const FOLLOWED_APPS: usize = 4;
/// Until everybody must have heard what was done; far beyond what it takes.
const HEARD_MAX: Duration = Duration::from_secs(90);
/// Changes that every subscriber to everything must hear between two deaths.
const STEP_CHANGES: usize = 150;
/// Small batches, so that deaths meet the middle of something.
const SLOW: [(&str, &str); 1] = [("WRITER_BATCH_RECORDS_MAX", "40")];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_change_is_heard_once_and_in_order_over_deaths_of_readers_and_of_their_replica() -> Result<()> {
    let tests = target_dir()?.join("devstack-tests").join("feed");
    let stack = Devstack::start(Options::new([Part::Kafka, Part::Postgres], unused_state_dir(&tests)?)?).await?;
    scenario(stack.endpoints(), PARTITIONS, async |system| {
        let mut source = Source::new(51, PARTITIONS, 300);
        system.topic().produce(&source.records(900))?;
        let mut writer = system.writer(&SLOW)?;
        writer.ready().await?;
        system.drained().await?;
        system.replica_caught_up().await?;
        let (readers, urls) = (Readers::default(), system.reader_urls_of_both());
        let mut first = reader(system, &readers, &urls).await?;
        let mut second = reader(system, &readers, &urls).await?;
        let apps = apps(system).await?;
        let subscribers: Vec<Subscriber> = (0..SUBSCRIBERS).map(|number| subscriber(number, &readers, &apps)).collect();
        let traffic = Traffic::start(system, source);

        go_on(&subscribers).await.context("at first")?;
        readers.remove(first.url());
        first.kill()?;
        first = reader(system, &readers, &urls).await?;
        go_on(&subscribers).await.context("after a reader was killed")?;
        let replica = stack.view_replica().context("a replica")?;
        replica.kill();
        go_on(&subscribers).await.context("after the replica was killed")?;
        replica.start().await?;
        go_on(&subscribers).await.context("after the replica came back")?;
        writer.kill()?;
        writer = system.writer(&SLOW)?;
        readers.remove(second.url());
        let (status, _) = second.stop().await?;
        ensure!(status.success(), "a reader with feeds ended with {status}: {}", second.log()?);
        go_on(&subscribers).await.context("after a writer was killed and a reader stopped")?;

        traffic.stop().await?;
        system.drained().await?;
        for (number, subscriber) in subscribers.iter().enumerate() {
            let app = followed(number, &apps);
            agrees(system, subscriber, app).await.with_context(|| format!("subscriber {number}, app {app:?}"))?;
        }
        let closings: usize = subscribers.iter().map(|subscriber| subscriber.told().closings).sum();
        ensure!(closings > 0, "a reader that stops says so to its streams");
        ensure!(first.is_running() && writer.is_running(), "the others stay");
        Ok(())
    })
    .await
}

async fn reader(system: &System, readers: &Readers, urls: &str) -> Result<Service> {
    let mut reader = system.reader(&[("READER_DATABASE_URLS", urls), ("READER_PRE_DRAIN", "200ms")])?;
    reader.ready().await?;
    readers.add(reader.url());
    Ok(reader)
}

/// Every third polls; of the others every second follows one app.
fn subscriber(number: usize, readers: &Readers, apps: &[String]) -> Subscriber {
    let by = if number.is_multiple_of(3) { By::Poll } else { By::Stream };
    let query = followed(number, apps).map(|app| format!("&app_id={app}")).unwrap_or_default();
    Subscriber::start(number, readers, by, &query)
}

fn followed(number: usize, apps: &[String]) -> Option<&str> {
    (number % 3 == 1).then(|| apps[number % apps.len()].as_str())
}

/// Apps that have changed.
async fn apps(system: &System) -> Result<Vec<String>> {
    let statement = "select distinct unnest(app_ids) from view_g1.change order by 1 limit $1";
    let rows = system.primary().await?.query(statement, &[&(FOLLOWED_APPS as i64)]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Waits until everybody who follows everything has heard so many changes more.
async fn go_on(subscribers: &[Subscriber]) -> Result<()> {
    let everything = || subscribers.iter().enumerate().filter(|(number, _)| number % 3 != 1);
    let before: Vec<usize> = everything().map(|(_, subscriber)| subscriber.count()).collect();
    let more = async || {
        let gained = everything().zip(&before).all(|((_, now), before)| now.count() >= before + STEP_CHANGES);
        gained.then_some(())
    };
    let heard = eventually("every subscriber hears more", HEARD_MAX, more).await;
    heard.with_context(|| {
        format!("{:?}", subscribers.iter().map(|s| (s.count(), s.told().surprises)).collect::<Vec<_>>())
    })
}

/// Waits until a subscriber has heard as much as the log holds, and compares it: each change once, in order for each site.
async fn agrees(system: &System, subscriber: &Subscriber, app: Option<&str>) -> Result<()> {
    let statement = r#"select site_id, event from view_g1.change where $1::text is null or $1 = any(app_ids)
                       order by partition, "offset", ordinal"#;
    let rows = system.primary().await?.query(statement, &[&app]).await?;
    let mut expected = Heard::new();
    for row in &rows {
        let event: Value = serde_json::from_str(row.get(1))?;
        expected.entry(row.get(0)).or_default().push(event);
    }
    let all = async || (subscriber.count() >= rows.len()).then_some(());
    let waited = eventually("a subscriber has heard everything", HEARD_MAX, all).await;
    let told = subscriber.told();
    waited.with_context(|| format!("{} of {}, {:?}", told.count, rows.len(), told.surprises))?;
    ensure!(told.surprises.is_empty() && told.gaps.is_empty(), "{:?} {:?}", told.surprises, told.gaps);
    ensure!(told.count == rows.len(), "{} changes were heard, the log holds {}", told.count, rows.len());
    for (site_id, events) in &expected {
        ensure!(
            told.heard.get(site_id) == Some(events),
            "{site_id}: {:?}, expected {events:?}",
            told.heard.get(site_id)
        );
    }
    Ok(())
}

/// Changes that go on until they are stopped.
struct Traffic {
    over: Arc<AtomicBool>,
    task: JoinHandle<Result<()>>,
}

impl Traffic {
    fn start(system: &System, mut source: Source) -> Self {
        const INTERVAL: Duration = Duration::from_millis(100);
        let (over, topic) = (Arc::new(AtomicBool::new(false)), system.topic().clone());
        let shared = Arc::clone(&over);
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(INTERVAL);
            while !shared.load(Ordering::Relaxed) {
                ticks.tick().await;
                let records = source.records(20);
                tokio::task::block_in_place(|| topic.produce(&records))?;
            }
            Ok(())
        });
        Self { over, task }
    }

    async fn stop(self) -> Result<()> {
        self.over.store(true, Ordering::Relaxed);
        self.task.await?
    }
}
