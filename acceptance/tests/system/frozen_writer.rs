//! A writer is frozen beyond its session, also inside its transaction: another takes over in time, and the thawed one
//! changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use acceptance::{Model, Record, Service, Session, Source, System, assert_equal, scenario};
use anyhow::{Context, Result, ensure};
use devstack::eventually;
use nix::sys::signal::Signal;
use tokio_postgres::Client;

use crate::{NOTICED_MAX, PARTITIONS, servers};

const SITES: usize = 600;
const RECORDS_A_ROUND: usize = 4_000;
/// Rounds by whether the writer is frozen inside a transaction.
const ROUNDS: [bool; 4] = [true, false, true, false];
/// Until another writer must work, whatever the frozen one holds.
const TAKEOVER_MAX: Duration = Duration::from_secs(30);
const SLOW: [(&str, &str); 2] = [("WRITER_BATCH_RECORDS_MAX", "20"), ("WRITER_KEY_CHANGE_WAIT", "10m")];
/// Everything that a thawed writer could spoil; not the epochs, which it raises when it is given partitions again.
const CHECKSUMS: [&str; 5] = [
    "select md5(string_agg(md5(s::text), '' order by site_id)) from view_g1.site_apps s",
    "select md5(string_agg(md5(a::text), '' order by app_id, site_id, instance_id)) from view_g1.app_site a",
    "select md5(string_agg(md5(c::text), '' order by app_id, partition)) from view_g1.app_count c",
    "select md5(string_agg(md5(c::text), '' order by partition, \"offset\", ordinal)) from view_g1.change c",
    "select string_agg(partition || ':' || next_offset, ' ' order by partition) from view_g1.position",
];

struct Stage<'s> {
    system: &'s System,
    primary: Client,
    /// To be frozen, and its login.
    first: Service,
    login: String,
    _second: Service,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_frozen_beyond_its_session_changes_nothing_when_it_thaws() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let (login, url) = system.writer_login("frozen").await?;
        let mut first = system.writer(&[&SLOW[..], &[("DATABASE_URL", &url)]].concat())?;
        let mut second = system.writer(&SLOW)?;
        first.ready().await?;
        second.ready().await?;
        let stage = Stage { system, primary: system.primary().await?, first, login, _second: second };
        let (mut source, mut records) = (Source::new(2, PARTITIONS, SITES), Vec::new());
        for (number, in_transaction) in ROUNDS.into_iter().enumerate() {
            records.extend(source.records(RECORDS_A_ROUND));
            round(&stage, &records, in_transaction).await.with_context(|| format!("round {number}"))?;
        }
        Ok(())
    })
    .await
}

async fn round(stage: &Stage<'_>, records: &[Record], in_transaction: bool) -> Result<()> {
    let Stage { system, primary, first, .. } = stage;
    // Those of the rounds before are in the topic already.
    let there: i64 = system.topic().ends()?.values().sum();
    both_have_partitions(stage).await?;
    system.topic().produce(&records[usize::try_from(there)?..])?;
    let ends = system.topic().ends()?;
    let held = freeze(stage, &ends, in_transaction).await?;

    let taken_over = async || {
        let positions = system.positions(primary).await.ok()?;
        let moved = |(partition, next_offset): (&i32, &i64)| {
            let row = &positions[partition];
            row.owner_pid != first.pid() && (row.next_offset > *next_offset || row.next_offset == ends[partition])
        };
        held.iter().all(moved).then_some(())
    };
    eventually(&format!("another writer works on {held:?}"), TAKEOVER_MAX, taken_over).await?;
    assert_equal(system, &Model::of(records)).await?;

    let before = checksums(primary).await?;
    let log_bytes = first.log()?.len();
    first.signal(Signal::SIGCONT)?;
    let told = async || first.log().ok()?[log_bytes..].contains("partitions revoked").then_some(());
    eventually("the thawed writer polls, and is told that its partitions are gone", NOTICED_MAX, told).await?;
    both_have_partitions(stage).await?;
    let after = checksums(primary).await?;
    ensure!(before == after, "the thawed writer changed the view: {before:?} became {after:?}");
    assert_equal(system, &Model::of(records)).await
}

async fn both_have_partitions(stage: &Stage<'_>) -> Result<()> {
    let shared = async || {
        let positions = stage.system.positions(&stage.primary).await.ok()?;
        let of_first = positions.values().filter(|row| row.owner_pid == stage.first.pid()).count();
        (positions.len() == PARTITIONS as usize && of_first == positions.len() / 2).then_some(())
    };
    eventually("both writers have half of the partitions", NOTICED_MAX, shared).await
}

/// Freezes the first writer in mid-drain, inside a transaction or outside. Gives its partitions and their positions.
async fn freeze(stage: &Stage<'_>, ends: &BTreeMap<i32, i64>, in_transaction: bool) -> Result<BTreeMap<i32, i64>> {
    let Stage { system, primary, first, login, .. } = stage;
    let frozen = async || {
        first.signal(Signal::SIGSTOP).ok()?;
        let sessions = settled(system, primary, login).await?;
        let positions = system.positions(primary).await.ok()?;
        let held = positions.iter().filter(|(_, row)| row.owner_pid == first.pid());
        let held: BTreeMap<i32, i64> = held.map(|(partition, row)| (*partition, row.next_offset)).collect();
        let lags = held.iter().any(|(partition, next_offset)| *next_offset < ends[partition]);
        if lags && sessions.contains(&Session::IdleInTransaction) == in_transaction {
            return Some(held);
        }
        first.signal(Signal::SIGCONT).ok()?;
        None
    };
    eventually("the writer is frozen in mid-drain", NOTICED_MAX, frozen).await
}

/// The sessions once Postgres has answered what they had asked before their client froze.
async fn settled(system: &System, primary: &Client, login: &str) -> Option<Vec<Session>> {
    let settled = async || {
        let sessions = system.sessions(primary, login).await.ok()?;
        (!sessions.contains(&Session::Active)).then_some(sessions)
    };
    eventually("no session of the frozen writer is at work", Duration::from_secs(2), settled).await.ok()
}

async fn checksums(primary: &Client) -> Result<Vec<Option<String>>> {
    let mut checksums = Vec::new();
    for statement in CHECKSUMS {
        checksums.push(primary.query_one(statement, &[]).await?.get(0));
    }
    Ok(checksums)
}
