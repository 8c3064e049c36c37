//! SIGTERM under load: in time, in order, and nobody notices.

use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use acceptance::{Ends, Model, Service, Source, assert_equal, differences, scenario};
use anyhow::{Context, Result, ensure};
use devstack::eventually;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::{NOTICED_MAX, PARTITIONS, drained_history, servers};

const STOP_MAX: Duration = Duration::from_secs(5);
/// New connections must be answered so long after SIGTERM; a little less than the pre-drain of 2 s.
const STILL_ACCEPTING: Duration = Duration::from_millis(1600);
const KEEP_ALIVE_CLIENTS: usize = 6;
/// Clients that keep no connection.
const OTHER_CLIENTS: usize = 1;
const ANSWERS_OF_A_BUSY_CLIENT: u32 = 100;
/// A drain that takes longer than any test waits, the longest that the services may be given.
const TOO_LONG: &str = "300s";
/// Of a process that was not allowed to finish its drain.
const EXIT_CODE_UNFINISHED: i32 = 1;

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_stopped_in_mid_drain_leaves_a_committed_state_and_ends_in_time() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let records = Source::new(13, PARTITIONS, 1000).records(12_000);
        system.topic().produce(&records)?;
        let (primary, ends) = (system.primary().await?, system.topic().ends()?);
        let slow = [("WRITER_BATCH_RECORDS_MAX", "100"), ("WRITER_KEY_CHANGE_WAIT", "10m")];
        let mut done_before = 0;
        for stop in 1..=3 {
            let mut writer = system.writer(&slow)?;
            let moving = async || {
                let positions = system.positions(&primary).await.ok()?;
                let done: i64 = positions.values().map(|row| row.next_offset).sum();
                (done >= done_before + 500).then_some(done)
            };
            done_before = eventually("the drain is under way", NOTICED_MAX, moving).await?;
            let (status, took) = writer.stop().await?;
            ensure!(status.code() == Some(0), "stop {stop}: ended with {status}");
            ensure!(took < STOP_MAX, "stop {stop}: took {took:?}");
            let positions = system.positions(&primary).await?;
            let positions = positions.into_iter().map(|(partition, row)| (partition, row.next_offset)).collect();
            ensure!(positions != ends, "stop {stop}: the drain was over before it");
            let found = differences(system, &Model::at(&records, &positions), &positions).await?;
            ensure!(found.is_empty(), "stop {stop}: rows and positions differ: {found:#?}");
            // A partition that has not been moved yet has no committed offset.
            let mut committed: Ends = ends.keys().map(|partition| (*partition, 0)).collect();
            committed.extend(system.topic().committed(&system.group())?);
            ensure!(committed == positions, "stop {stop}: the group has {committed:?}, the view {positions:?}");
        }
        let _last = system.writer(&slow)?;
        assert_equal(system, &Model::of(&records)).await
    })
    .await
}

/// What the clients of a reader share.
struct Load {
    url: String,
    site_ids: Vec<String>,
    /// Clients that have got [`ANSWERS_OF_A_BUSY_CLIENT`].
    busy_clients: AtomicUsize,
    /// The reader has said that it is not ready; a balancer would send nothing more to its old connections.
    not_ready: AtomicBool,
    /// When it was asked to end.
    asked_at: OnceLock<Instant>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_stopped_under_load_fails_no_request_and_ends_in_time() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let (_, model) = drained_history(system, 14, 1200).await?;
        system.replica_caught_up().await?;
        let mut reader = system.reader(&[])?;
        reader.ready().await?;
        let load = Arc::new(Load {
            url: reader.url().to_owned(),
            site_ids: model.sites.keys().cloned().collect(),
            busy_clients: AtomicUsize::new(0),
            not_ready: AtomicBool::new(false),
            asked_at: OnceLock::new(),
        });
        let mut clients = JoinSet::new();
        (0..KEEP_ALIVE_CLIENTS).for_each(|_| drop(clients.spawn(ask_on(Arc::clone(&load), 1))));
        (0..OTHER_CLIENTS).for_each(|_| drop(clients.spawn(ask_on(Arc::clone(&load), 0))));

        let (status, took) = stop_under_load(&load, &mut reader).await?;
        clients.join_all().await.into_iter().collect::<Result<()>>()?;
        ensure!(status.code() == Some(0), "ended with {status}");
        ensure!(took < STOP_MAX, "took {took:?}");
        Ok(())
    })
    .await
}

/// Asks the reader to end once all clients are at it, and tells them when `/readyz` has said so.
async fn stop_under_load(load: &Load, reader: &mut Service) -> Result<(ExitStatus, Duration)> {
    let busy = async || (load.busy_clients.load(Ordering::Relaxed) == KEEP_ALIVE_CLIENTS + OTHER_CLIENTS).then_some(());
    eventually("every client has got its answers", NOTICED_MAX, busy).await?;
    let asked_at = *load.asked_at.get_or_init(Instant::now);
    reader.signal(Signal::SIGTERM)?;
    let not_ready = async || (!reader.is_ready().await).then_some(());
    eventually("/readyz says no at once", Duration::from_secs(1), not_ready).await?;
    let conditions = reader.conditions().await?;
    ensure!(!conditions["accepting"].holds, "/readyz still answers, and says why: {conditions:?}");
    load.not_ready.store(true, Ordering::Relaxed);
    Ok((reader.ended().await?, asked_at.elapsed()))
}

/// Asks on until shortly before the pre-drain ends, over so many connections that are kept until the reader closes them; with
/// none, each request has one of its own.
async fn ask_on(load: Arc<Load>, connections_kept: usize) -> Result<()> {
    let http = reqwest::Client::builder().pool_max_idle_per_host(connections_kept).build()?;
    let mut requests = 0;
    while load.asked_at.get().is_none_or(|asked_at| asked_at.elapsed() < STILL_ACCEPTING) {
        let draining = load.not_ready.load(Ordering::Relaxed);
        let connection = load.request(&http, requests).await.with_context(|| {
            format!("request {requests}, connections kept: {connections_kept}, draining: {draining}")
        })?;
        ensure!(!draining || connection == "close", "a draining reader answers `Connection: {connection}`");
        requests += 1;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_reader_at_once() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let mut reader = system.reader(&[("READER_PRE_DRAIN", TOO_LONG)])?;
        reader.ready().await?;
        ends_at_the_second(&mut reader, Signal::SIGINT, Signal::SIGTERM).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_writer_at_once() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let mut writer = system.writer(&[("WRITER_DRAIN_MAX", TOO_LONG)])?;
        writer.ready().await?;
        // Its batch is held up, so that it can't finish its drain.
        let mut other = system.primary().await?;
        let lock = other.transaction().await?;
        lock.batch_execute("lock table view_g1.site_apps in exclusive mode").await?;
        system.topic().produce(&Source::new(17, PARTITIONS, 20).records(100))?;
        let waits = "select count(*) > 0 from pg_locks where relation = 'view_g1.site_apps'::regclass and not granted";
        let held_up = async || lock.query_one(waits, &[]).await.ok()?.get::<_, bool>(0).then_some(());
        eventually("a batch waits for the table", NOTICED_MAX, held_up).await?;
        ends_at_the_second(&mut writer, Signal::SIGTERM, Signal::SIGINT).await
    })
    .await
}

async fn ends_at_the_second(service: &mut Service, first: Signal, second: Signal) -> Result<()> {
    service.signal(first)?;
    let draining = async || (!service.conditions().await.ok()?.get("accepting")?.holds).then_some(());
    eventually("it drains", NOTICED_MAX, draining).await?;
    ensure!(service.is_running(), "it has ended at the first");
    let asked_at = Instant::now();
    service.signal(second)?;
    let (status, took) = (service.ended().await?, asked_at.elapsed());
    ensure!(status.code() == Some(EXIT_CODE_UNFINISHED), "ended with {status}");
    ensure!(took < STOP_MAX, "took {took:?}");
    Ok(())
}

impl Load {
    /// One look-up; gives the header `Connection` of its answer.
    async fn request(&self, http: &reqwest::Client, number: u32) -> Result<String> {
        let site_id = &self.site_ids[number as usize % self.site_ids.len()];
        let answer = http.get(format!("{}/v1/sites/{site_id}/installed-apps", self.url)).send().await?;
        let answer = answer.error_for_status()?;
        let connection = answer.headers().get("connection").map_or("", |value| value.to_str().unwrap_or_default());
        let connection = connection.to_owned();
        let document: Value = answer.json().await?;
        ensure!(document["site_id"] == *site_id, "asked for {site_id}: {document}");
        if number == ANSWERS_OF_A_BUSY_CLIENT {
            self.busy_clients.fetch_add(1, Ordering::Relaxed);
        }
        Ok(connection)
    }
}
