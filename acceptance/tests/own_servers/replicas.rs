//! A reader over two replicas, of which one after the other is killed, frozen, held back, disturbed by vacuum and promoted,
//! while clients read and the source changes: no request fails, no answer goes back. A devstack of its own, which a
//! promotion leaves in no state for others.

mod none;
mod own_writes;
mod trouble;

use std::time::Duration;

use acceptance::{Live, Model, Service, Source, System, assert_equal_on, rising, scenario};
use anyhow::{Context, Result, ensure};
use devstack::{Devstack, Options, Part, eventually, target_dir, unused_state_dir};

use own_writes::OwnWrites;

const PARTITIONS: i32 = 4;
/// Until a service must have noticed something; far beyond what it takes.
const NOTICED_MAX: Duration = Duration::from_secs(60);
/// Answers that clients must get in each state.
const ANSWERS: u32 = 400;
/// A replica comes back in a second instead of ten, and is left soon, so that the test is short.
const READER: [(&str, &str); 3] =
    [("READER_REPLICA_COMEBACK", "1s"), ("READER_REPLICA_LAG_MAX", "1s"), ("READER_REQUEST_TIME_MAX", "10s")];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_fails_and_no_answer_goes_back_whatever_happens_to_one_of_two_replicas() -> Result<()> {
    let stack = stack("replicas").await?;
    scenario(stack.endpoints(), PARTITIONS, async |system| {
        let mut source = Source::new(71, PARTITIONS, 500);
        let mut records = [rising(PARTITIONS, 1), source.records(3_000)].concat();
        system.topic().produce(&records)?;
        let (_, url) = system.writer_login("failover").await?;
        let mut writer =
            system.writer(&[("DATABASE_URL", &hosts(&url, &stack)?), ("WRITER_KEY_CHANGE_WAIT", "10m")])?;
        writer.ready().await?;
        system.drained().await?;
        system.replica_caught_up().await?;
        let mut reader = system.reader(&READER)?;
        let mut cached = system.reader(&[&READER[..], &[("READER_CACHE_BYTES", "4MiB")]].concat())?;
        reader.ready().await?;
        cached.ready().await?;
        let stage = Stage { stack: &stack, system, reader: &reader };
        stage.whole().await?;

        stage.both_behind().await?;
        let mut live = Live::start(system, &[&reader, &cached], source, 1, Some(10));
        let own = OwnWrites::start(system, &[&reader, &cached]);
        println!("slowest answer, undisturbed: {:?}", live.answers(ANSWERS).await?);
        for trouble in trouble::ALL {
            println!("slowest answer, {trouble:?}: {:?}", stage.meets(&mut live, trouble).await?);
            own.is_well()?;
        }
        let slowest = stage.promotion(&mut live).await.context("promotion")?;
        println!("slowest answer, promotion: {slowest:?}");

        records.extend(own.stop().await?);
        let (produced, answers) = live.stop().await?;
        println!(
            "{answers} answers, asked once more: {}",
            reader.metric_sum("reader_replica_retries_total", &[]).await?
        );
        records.extend(produced);
        let hits = cached.metric_sum("reader_cache_hits_total", &[]).await?;
        ensure!(hits > 100.0, "only {hits} answers were kept");
        let (promoted, ends) = (system.replica().await?, system.topic().ends()?);
        stage.at(&promoted, ends.values().sum()).await?;
        assert_equal_on(&promoted, &Model::of(&records), &ends).await
    })
    .await
}

async fn stack(name: &str) -> Result<Devstack> {
    let tests = target_dir()?.join("devstack-tests").join(name);
    let mut options = Options::new([Part::Kafka, Part::Postgres], unused_state_dir(&tests)?)?;
    options.replicas = 2;
    Devstack::start(options).await
}

/// `url` with the first replica's host behind the primary's.
fn hosts(url: &str, stack: &Devstack) -> Result<String> {
    let host = |url: &str| -> Option<String> { Some(url.rsplit_once('@')?.1.split_once('/')?.0.to_owned()) };
    let replica = stack.endpoints().view_replica_urls.first().and_then(|url| host(url)).context("a replica")?;
    let primary = host(url).context("a URL names a host")?;
    Ok(url.replacen(&primary, &format!("{primary},{replica}"), 1))
}

/// The parts of the test that trouble is made with.
#[derive(Clone, Copy)]
struct Stage<'s> {
    stack: &'s Devstack,
    system: &'s System,
    reader: &'s Service,
}

impl Stage<'_> {
    /// `host:port` of a replica: its name in what the reader tells.
    fn name(&self, index: usize) -> Result<String> {
        let url = self.stack.endpoints().view_replica_urls.get(index).context("two replicas")?;
        Ok(url.rsplit_once('@').and_then(|(_, place)| place.split_once('/')).context("a URL")?.0.to_owned())
    }

    /// Waits until what the reader tells of a replica is so; it tells nothing of one that is as it should be.
    async fn told(&self, index: usize, said: impl Fn(&str) -> bool) -> Result<()> {
        let name = self.name(index)?;
        let told = async || {
            let detail = self.reader.conditions().await.ok()?.remove("database")?.detail;
            detail.split("; ").any(|part| part.strip_prefix(&name).is_some_and(&said)).then_some(())
        };
        let waited = eventually(&format!("the reader tells of {name}"), NOTICED_MAX, told).await;
        let detail = self.reader.conditions().await?.remove("database").map(|condition| condition.detail);
        waited.with_context(|| format!("it tells {detail:?}"))
    }

    /// Waits until both replicas are asked as if nothing had been.
    async fn whole(&self) -> Result<()> {
        self.told(0, str::is_empty).await?;
        self.told(1, str::is_empty).await
    }

    /// Waits until a server has so many records.
    async fn at(&self, server: &tokio_postgres::Client, records: i64) -> Result<()> {
        let reached = async || {
            let positions = self.system.positions(server).await.ok()?;
            (positions.values().map(|row| row.next_offset).sum::<i64>() == records).then_some(())
        };
        eventually("the view is at the end of the topic", NOTICED_MAX, reached).await
    }
}
