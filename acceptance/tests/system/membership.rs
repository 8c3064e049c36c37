//! Membership of the group: what ends a writer, what a static member keeps, and the protocol of KIP-848.

use std::collections::BTreeSet;
use std::time::Duration;

use acceptance::{Model, Service, Source, System, assert_equal, scenario};
use anyhow::{Context, Result, ensure};
use devstack::eventually;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tokio_postgres::Client;

use crate::{NOTICED_MAX, PARTITIONS, servers};

/// Small batches, so that the polling thread waits for its lanes most of the time, which is not polling.
const SLOW: [(&str, &str); 2] = [("WRITER_BATCH_RECORDS_MAX", "20"), ("WRITER_KEY_CHANGE_WAIT", "10m")];
const POLL_INTERVAL: Duration = Duration::from_millis(4500);
/// The broker misses a member of KIP-848 after 45 s, its default.
const MISSED_MAX: Duration = Duration::from_secs(150);

#[tokio::test(flavor = "multi_thread")]
async fn a_static_member_fenced_by_its_namesake_ends_with_exit_code_1() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let named = [("group.instance.id", "writer-0")];
        let mut first = system.writer_in_session(&[], &named)?;
        first.ready().await?;
        owned_by(system, &[&first]).await?;
        let second = system.writer_in_session(&[], &named)?;
        let status = first.ended().await?;
        ensure!(status.code() == Some(1), "the fenced writer ended with {status}");
        ensure!(first.log()?.contains("the writer can't go on"), "and says so: {}", first.log()?);
        owned_by(system, &[&second]).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_does_not_poll_in_time_ends_with_exit_code_1() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let records = Source::new(61, PARTITIONS, 2000).records(40_000);
        system.topic().produce(&records)?;
        let interval = POLL_INTERVAL.as_millis().to_string();
        let properties = [("max.poll.interval.ms", interval.as_str())];
        let mut writer = system.writer_in_session(&SLOW, &properties)?;
        writer.ready().await?;
        let primary = system.primary().await?;
        // A thread held inside a poll does poll, so several moments are tried; between polls it waits for its lanes.
        let ended = async || {
            let done: i64 = system.positions(&primary).await.ok()?.values().map(|row| row.next_offset).sum();
            (done > 100).then_some(())
        };
        eventually("the drain is under way", NOTICED_MAX, ended).await?;
        for _ in 0..6 {
            if !hold_thread(&writer, "source", POLL_INTERVAL * 2).await? {
                break;
            }
            let over = async || (!writer.is_running()).then_some(());
            if eventually("it has ended", Duration::from_secs(5), over).await.is_ok() {
                break;
            }
        }
        let status = writer.ended().await?;
        ensure!(status.code() == Some(1), "ended with {status}");
        ensure!(writer.log()?.contains("the writer can't go on"), "and says so");
        // Whoever comes next goes on where it was.
        let _next = system.writer(&[("WRITER_KEY_CHANGE_WAIT", "10m")])?;
        assert_equal(system, &Model::of(&records)).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_member_that_restarts_costs_the_others_no_rebalance() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        // A session that outlasts the restart.
        let session = ("session.timeout.ms", "30000");
        let start = |name| system.writer_in_session(&[], &[("group.instance.id", name), session]);
        let (mut first, mut second) = (start("writer-0")?, start("writer-1")?);
        first.ready().await?;
        second.ready().await?;
        owned_by(system, &[&first, &second]).await?;
        let rebalances = async |writer: &Service| -> Result<f64> {
            Ok(writer.metric("writer_rebalances_total", &[]).await?.unwrap_or_default())
        };
        let before = rebalances(&second).await?;
        let mut source = Source::new(62, PARTITIONS, 200);
        let mut records = Vec::new();
        for kill in [false, true] {
            match kill {
                true => first.kill()?,
                false => drop(first.stop().await?),
            }
            let next = source.records(500);
            system.topic().produce(&next)?;
            records.extend(next);
            first = start("writer-0")?;
            owned_by(system, &[&first, &second]).await.with_context(|| format!("killed: {kill}"))?;
            assert_equal(system, &Model::of(&records)).await?;
        }
        let after = rebalances(&second).await?;
        ensure!(before == after, "the other member had {before} rebalances, then {after}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_consumer_protocol_of_kip_848_drains_and_survives_a_kill() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let records = Source::new(63, PARTITIONS, 1000).records(20_000);
        system.topic().produce(&records)?;
        // Session and heartbeats are the broker's business here; the client refuses settings for them.
        let start = || system.writer_with_properties(&SLOW, &[("group.protocol", "consumer")]);
        let (mut first, mut second) = (start()?, start()?);
        first.ready().await?;
        second.ready().await?;
        owned_by(system, &[&first, &second]).await?;
        first.kill()?;
        let primary = system.primary().await?;
        let taken = async || {
            let owners = owners(system, &primary).await.ok()?;
            (owners == BTreeSet::from([second.pid()])).then_some(())
        };
        eventually("the other takes over what the killed writer had", MISSED_MAX, taken).await?;
        assert_equal(system, &Model::of(&records)).await?;
        let (status, _) = second.stop().await?;
        ensure!(status.success(), "ended with {status}");
        Ok(())
    })
    .await
}

async fn owners(system: &System, primary: &Client) -> Result<BTreeSet<u32>> {
    let positions = system.positions(primary).await?;
    ensure!(positions.len() == PARTITIONS as usize, "not all partitions are taken");
    Ok(positions.values().map(|row| row.owner_pid).collect())
}

/// Waits until these writers, all of them, own the partitions.
async fn owned_by(system: &System, writers: &[&Service]) -> Result<()> {
    let primary = system.primary().await?;
    let wanted: BTreeSet<u32> = writers.iter().map(|writer| writer.pid()).collect();
    let owned = async || (owners(system, &primary).await.ok()? == wanted).then_some(());
    eventually(&format!("the partitions belong to {wanted:?}"), NOTICED_MAX * 2, owned).await
}

/// Holds one thread of a process for so long, while its others run. Gives whether it was there.
async fn hold_thread(writer: &Service, name: &str, time: Duration) -> Result<bool> {
    let tasks = format!("/proc/{}/task", writer.pid());
    let Ok(entries) = std::fs::read_dir(&tasks) else { return Ok(false) };
    let is_it =
        |path: &std::path::Path| std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name);
    let path = entries.flatten().map(|entry| entry.path()).find(|path| is_it(path)).context("the thread")?;
    let thread = path.file_name().and_then(|id| id.to_str()).and_then(|id| id.parse().ok()).context("its id")?;
    let thread = Pid::from_raw(thread);
    // A tracer is a thread, so all of it happens on one.
    let held = tokio::task::spawn_blocking(move || -> nix::Result<()> {
        ptrace::seize(thread, ptrace::Options::empty())?;
        ptrace::interrupt(thread)?;
        waitpid(thread, Some(WaitPidFlag::__WALL))?;
        #[expect(clippy::disallowed_methods, reason = "the time for which the thread is held is what is tested")]
        std::thread::sleep(time);
        ptrace::detach(thread, None)
    });
    held.await?.context("a parent may trace its child")?;
    Ok(true)
}
