//! The view's primary goes away for good, or is demoted, and its replica is promoted: the writer finds the new primary among
//! the hosts that it was given. Devstacks of their own, because nobody else could use them afterwards.

use std::time::Duration;

use acceptance::{Model, Record, Source, System, assert_equal_on, scenario};
use anyhow::{Context, Result, ensure};
use devstack::{Devstack, Options, Part, eventually, target_dir, unused_state_dir};
use tokio_postgres::Client;

const PARTITIONS: i32 = 4;
/// Until a service must have noticed something; far beyond what it takes.
const NOTICED_MAX: Duration = Duration::from_secs(60);
/// Small batches, so that the drain outlasts what is done to it.
const SLOW: [(&str, &str); 2] = [("WRITER_BATCH_RECORDS_MAX", "50"), ("WRITER_KEY_CHANGE_WAIT", "10m")];

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_follows_the_promotion_of_a_replica_that_lacks_the_last_transactions() -> Result<()> {
    let stack = stack("promotion").await?;
    scenario(stack.endpoints(), PARTITIONS, async |system| {
        let records = Source::new(41, PARTITIONS, 1000).records(12_000);
        system.topic().produce(&records)?;
        let (_, url) = system.writer_login("failover").await?;
        let hosts = both_hosts(&url, &stack)?;
        let mut writer = system.writer(&[&SLOW[..], &[("DATABASE_URL", &hosts)]].concat())?;
        writer.ready().await?;
        done(&system.primary().await?, system, 1000).await?;
        system.replica_caught_up().await?;

        // The replica misses what is committed from now on; the writer does not.
        let (primary, replica) = (stack.view_primary().context("primary")?, stack.view_replica().context("replica")?);
        replica.stop();
        let before = sum(&system.primary().await?, system).await?;
        let lost = done(&system.primary().await?, system, before + 1000).await?;
        primary.kill();
        replica.start().await?;
        let promoted = system.replica().await?;
        let kept = sum(&promoted, system).await?;
        ensure!(kept < lost, "the replica has {kept} records, the primary had {lost}: nothing was lost");
        // The replica has just been started: until it accepts connections, that is what it says.
        let of_both_hosts = async || {
            let condition = writer.conditions().await.ok()?.remove("database")?;
            (!condition.holds && condition.detail.contains("does not take writes")).then_some(condition.detail)
        };
        let why = eventually("/readyz says what each host said", NOTICED_MAX, of_both_hosts).await?;
        ensure!(!why.contains(password(&url)), "and no password: {why}");

        promoted.execute("select pg_promote()", &[]).await?;
        writer.condition("database", true, NOTICED_MAX).await?;
        followed(system, &records, &promoted).await?;
        ensure!(writer.is_running(), "the writer stays");
        ensure!(!writer.log()?.contains(password(&url)), "the log holds no password");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_leaves_a_primary_that_was_demoted() -> Result<()> {
    let stack = stack("demotion").await?;
    scenario(stack.endpoints(), PARTITIONS, async |system| {
        let records = Source::new(42, PARTITIONS, 1000).records(12_000);
        system.topic().produce(&records)?;
        let (_, url) = system.writer_login("failover").await?;
        let hosts = both_hosts(&url, &stack)?;
        let mut writer = system.writer(&[&SLOW[..], &[("DATABASE_URL", &hosts)]].concat())?;
        writer.ready().await?;
        let demoted = system.primary().await?;
        done(&demoted, system, 1000).await?;

        // Sessions stay, transactions are refused with SQLSTATE 25006 from now on.
        demoted.batch_execute("alter system set default_transaction_read_only = on").await?;
        demoted.batch_execute("select pg_reload_conf()").await?;
        let why = writer.condition("database", false, NOTICED_MAX).await?;
        ensure!(why.contains("25006") || why.contains("does not take writes"), "/readyz says why: {why}");
        let stands = sum(&demoted, system).await?;
        let promoted = system.replica().await?;
        promoted.execute("select pg_promote()", &[]).await?;
        followed(system, &records, &promoted).await?;
        ensure!(sum(&demoted, system).await? == stands, "nothing was written to the demoted primary");
        Ok(())
    })
    .await
}

async fn stack(name: &str) -> Result<Devstack> {
    let tests = target_dir()?.join("devstack-tests").join(name);
    Devstack::start(Options::new([Part::Kafka, Part::Postgres], unused_state_dir(&tests)?)?).await
}

/// `url` with the replica's host behind the primary's.
fn both_hosts(url: &str, stack: &Devstack) -> Result<String> {
    let host = |url: &str| -> Option<String> { Some(url.rsplit_once('@')?.1.split_once('/')?.0.to_owned()) };
    let replica = stack.endpoints().view_replica_urls.first().and_then(|url| host(url)).context("a replica")?;
    let primary = host(url).context("a URL names a host")?;
    Ok(url.replacen(&primary, &format!("{primary},{replica}"), 1))
}

fn password(url: &str) -> &str {
    let login = url.split_once("://").and_then(|(_, rest)| rest.split_once('@')).map_or("", |(login, _)| login);
    login.split_once(':').map_or("", |(_, password)| password)
}

/// Records that the view has.
async fn sum(client: &Client, system: &System) -> Result<i64> {
    Ok(system.positions(client).await?.values().map(|row| row.next_offset).sum())
}

/// Waits until the view has so many records; the drain must not be over then.
async fn done(client: &Client, system: &System, records: i64) -> Result<i64> {
    let reached = async || sum(client, system).await.ok().filter(|done| *done >= records);
    let done = eventually(&format!("{records} records are in the view"), NOTICED_MAX, reached).await?;
    ensure!(done < system.topic().ends()?.values().sum(), "the drain is over; nothing is left to disturb");
    Ok(done)
}

/// Waits until the new primary is at the end of the topic, and compares every row.
async fn followed(system: &System, records: &[Record], promoted: &Client) -> Result<()> {
    let ends = system.topic().ends()?;
    let total: i64 = ends.values().sum();
    let reached = async || (sum(promoted, system).await.ok()? == total).then_some(());
    eventually("the new primary is at the end of the topic", NOTICED_MAX * 3, reached).await?;
    assert_equal_on(promoted, &Model::of(records), &ends).await
}
