//! A writer is frozen beyond its session, also inside its transaction: another takes over in time, and the thawed one
//! changes nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use acceptance::{Model, Record, Service, Session, Source, System, assert_equal, scenario};
use anyhow::{Context, Result, bail, ensure};
use devstack::eventually;
use nix::sys::signal::Signal;
use tokio_postgres::Client;

use crate::{NOTICED_MAX, PARTITIONS, servers};

const SITES: usize = 600;
const RECORDS_A_ROUND: usize = 4_000;
/// Rounds by whether the writer is frozen inside a transaction.
const ROUNDS: [bool; 4] = [true, false, true, false];
/// Until a moment between two transactions must have been hit.
const FREEZE_MAX: Duration = Duration::from_secs(60);
/// Until another writer must work, whatever the frozen one holds.
const TAKEOVER_MAX: Duration = Duration::from_secs(30);
const SLOW: [(&str, &str); 3] =
    [("WRITER_BATCH_RECORDS_MAX", "20"), ("WRITER_LANES", "1"), ("WRITER_KEY_CHANGE_WAIT", "10m")];
/// No writer gets past its rows while this is held.
const HOLD_ROWS: &str = "begin; lock table view_g1.site_apps in share mode";
/// Sessions of a login that wait for a lock.
const WAITING: &str =
    "select count(*) from pg_stat_activity where usename = $1::text::name and wait_event_type = 'Lock'";
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
    /// Another session of the superuser.
    holder: Client,
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
        let (primary, holder) = (system.primary().await?, system.primary().await?);
        let stage = Stage { system, primary, holder, first, login, _second: second };
        let mut stream = Stream { source: Source::new(2, PARTITIONS, SITES), records: Vec::new() };
        for (number, in_transaction) in ROUNDS.into_iter().enumerate() {
            round(&stage, &mut stream, in_transaction).await.with_context(|| format!("round {number}"))?;
        }
        Ok(())
    })
    .await
}

/// Notes under which epoch each position moves on.
const NOTE_MOVES: &str = "
    create table view_g1.moved (partition int, epoch bigint);
    create function view_g1.note_move() returns trigger language plpgsql security definer as $note$ begin
        insert into view_g1.moved values (new.partition, new.epoch); return new; end $note$;
    create trigger note_move after update on view_g1.position for each row
        when (old.next_offset < new.next_offset) execute function view_g1.note_move()";

/// The epoch alone is enough: nothing else tells the writer that its claims are over, and it has records to store.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_claim_is_over_is_not_stored() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let mut stream = Stream { source: Source::new(5, PARTITIONS, SITES), records: Vec::new() };
        // The group does not miss it meanwhile.
        let writer = system.writer_in_session(&[], &[("session.timeout.ms", "45000")])?;
        stream.go_on(system)?;
        assert_equal(system, &Model::of(&stream.records)).await?;
        let primary = system.primary().await?;
        primary.batch_execute(NOTE_MOVES).await?;
        writer.signal(Signal::SIGSTOP)?;
        primary.execute("update view_g1.position set epoch = epoch + 1", &[]).await?;
        let taken = system.positions(&primary).await?;
        stream.go_on(system)?;
        writer.signal(Signal::SIGCONT)?;
        assert_equal(system, &Model::of(&stream.records)).await?;
        let moves = "select partition, min(epoch) from view_g1.moved group by partition order by partition";
        let moves = primary.query(moves, &[]).await?;
        ensure!(moves.len() == PARTITIONS as usize, "every partition has moved on");
        for row in &moves {
            let (partition, epoch): (i32, i64) = (row.get(0), row.get(1));
            let taken = taken[&partition].epoch;
            ensure!(
                epoch > taken,
                "partition {partition} was taken under {taken}, and a batch was stored under {epoch}"
            );
        }
        let fenced = writer.metric("writer_fenced_total", &[]).await?;
        ensure!(fenced >= Some(f64::from(PARTITIONS)), "writer_fenced_total is {fenced:?}");
        Ok(())
    })
    .await
}

/// What the source has told so far.
struct Stream {
    source: Source,
    records: Vec<Record>,
}

impl Stream {
    fn go_on(&mut self, system: &System) -> Result<()> {
        let records = self.source.records(RECORDS_A_ROUND);
        system.topic().produce(&records)?;
        self.records.extend(records);
        Ok(())
    }
}

async fn round(stage: &Stage<'_>, stream: &mut Stream, in_transaction: bool) -> Result<()> {
    let Stage { system, primary, first, .. } = stage;
    both_have_partitions(stage).await?;
    let held = match in_transaction {
        true => freeze_in_transaction(stage, stream).await?,
        false => freeze_between_transactions(stage, stream).await?,
    };
    let (ends, records) = (system.topic().ends()?, &stream.records);

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

/// Freezes the first writer in mid-drain, inside a transaction. Gives its partitions and their positions.
async fn freeze_in_transaction(stage: &Stage<'_>, stream: &mut Stream) -> Result<BTreeMap<i32, i64>> {
    let Stage { system, primary, holder, first, login, .. } = stage;
    holder.batch_execute(HOLD_ROWS).await?;
    stream.go_on(system)?;
    let waits = async || {
        let waiting: i64 = primary.query_one(WAITING, &[login]).await.ok()?.get(0);
        (waiting > 0).then_some(())
    };
    eventually("the writer is held inside its transaction", NOTICED_MAX, waits).await?;
    first.signal(Signal::SIGSTOP)?;
    holder.batch_execute("rollback").await?;
    let sessions = settled(system, primary, login).await.context("the writer's sessions")?;
    ensure!(
        sessions.contains(&Session::IdleInTransaction),
        "the writer was frozen outside a transaction: {sessions:?}"
    );
    held(stage).await
}

/// As [`freeze_in_transaction`], with no transaction open. Such moments are short, so several are tried.
async fn freeze_between_transactions(stage: &Stage<'_>, stream: &mut Stream) -> Result<BTreeMap<i32, i64>> {
    let Stage { system, primary, first, login, .. } = stage;
    let deadline = Instant::now() + FREEZE_MAX;
    while Instant::now() < deadline {
        first.signal(Signal::SIGSTOP)?;
        let sessions = settled(system, primary, login).await.context("the writer's sessions")?;
        let (held, ends) = (held(stage).await?, system.topic().ends()?);
        let lags = held.iter().any(|(partition, next_offset)| *next_offset < ends[partition]);
        if lags && !sessions.contains(&Session::IdleInTransaction) {
            return Ok(held);
        }
        first.signal(Signal::SIGCONT)?;
        if !lags {
            stream.go_on(system)?;
        }
    }
    bail!("not within {FREEZE_MAX:?}: the writer is frozen in mid-drain between two transactions")
}

/// The first writer's partitions and their positions.
async fn held(stage: &Stage<'_>) -> Result<BTreeMap<i32, i64>> {
    let positions = stage.system.positions(&stage.primary).await?;
    let held = positions.into_iter().filter(|(_, row)| row.owner_pid == stage.first.pid());
    Ok(held.map(|(partition, row)| (partition, row.next_offset)).collect())
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
