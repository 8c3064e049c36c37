//! The change log as a topic: relays are killed, fenced and moved to another generation, and readers of the topic see the log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use acceptance::{Ends, RawRecord, Service, Source, System, scenario};
use anyhow::{Context, Result, ensure};
use devstack::eventually;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;

use crate::{NOTICED_MAX, PARTITIONS, servers};

/// Small transactions, so that the log lasts and a kill meets every step of one.
const SLOW: [(&str, &str); 2] = [("WRITER_RELAY_BATCH_RECORDS_MAX", "20"), ("WRITER_RELAY_IDLE", "20ms")];
/// Records before the first relay starts.
const RECORDS: usize = 1_000;
/// Records before each kill.
const FURTHER: usize = 150;
/// Kills before the switch of generations, and after it.
const KILLS: usize = 8;
/// A kill comes so much later than the relay was last seen to get on.
const KILL_AFTER_MS_MAX: u64 = 250;
/// Until a relay must have told the whole log.
const RELAYED_MAX: Duration = Duration::from_secs(120);

/// A relay that is replaced when it dies.
struct Relays<'s> {
    system: &'s System,
    running: Service,
    source: Source,
    rng: StdRng,
    seed: u64,
}

impl<'s> Relays<'s> {
    fn start(system: &'s System, source: Source) -> Result<Self> {
        let seed: u64 = rand::random();
        let rng = StdRng::seed_from_u64(seed);
        Ok(Self { system, running: system.relay(&SLOW)?, source, rng, seed })
    }

    fn produce(&mut self) -> Result<()> {
        self.system.topic().produce(&self.source.records(FURTHER))
    }

    /// Another one, on the primary or on the replica.
    fn another(&mut self) -> Result<Service> {
        let url = &self.system.reader_urls()[0];
        let on_replica = [SLOW[0], SLOW[1], ("DATABASE_URL", url.as_str())];
        self.system.relay(if self.rng.random_bool(0.5) { &on_replica } else { &SLOW })
    }

    /// Kills the relay again and again, each time at work or, sometimes, while it starts.
    async fn kill(&mut self, kills: usize) -> Result<()> {
        let mut seen = relayed(self.system)?;
        for kill in 0..kills {
            self.produce()?;
            if self.rng.random_bool(0.75) {
                let further = async || relayed(self.system).ok().filter(|now| *now > seen);
                let what = format!("kill {kill} (seed {}): the relay gets on from {seen}", self.seed);
                seen = eventually(&what, NOTICED_MAX * 2, further).await?;
            }
            let after = self.rng.random_range(0..KILL_AFTER_MS_MAX);
            tokio::time::sleep(Duration::from_millis(after)).await;
            ensure!(self.running.is_running(), "{} ended by itself: {}", self.running.name(), self.running.log()?);
            self.running.kill()?;
            self.running = self.another()?;
        }
        Ok(())
    }

    /// Starts a second relay beside the first, which must end.
    async fn fence(&mut self) -> Result<()> {
        self.running.ready().await?;
        let mut second = self.another()?;
        second.ready().await?;
        // The first one finds out when it has something to commit.
        self.produce()?;
        let status = self.running.ended().await?;
        let log = self.running.log()?;
        ensure!(status.code() == Some(1), "the fenced relay ended with {status}: {log}");
        ensure!(log.contains("works under the transactional id"), "it says why: {log}");
        ensure!(second.is_running(), "the second relay has ended: {}", second.log()?);
        self.running = second;
        Ok(())
    }
}

fn group(system: &System) -> String {
    format!("{}-relay", system.writer_group())
}

/// Records of the source up to which all changes are relayed, of all partitions together.
fn relayed(system: &System) -> Result<i64> {
    Ok(system.topic().committed(&group(system))?.values().sum())
}

async fn relayed_to(system: &System, ends: &Ends) -> Result<()> {
    let reached = async || (system.topic().committed(&group(system)).ok()? == *ends).then_some(());
    eventually(&format!("the relay is at {ends:?}"), RELAYED_MAX, reached).await
}

/// What one event says: id, site, value.
type Event = (String, String, String);

/// The log of a generation, as events; of offsets from these on, or below them.
async fn logged(system: &System, generation: i32, cut: &Ends, is_above: bool) -> Result<Vec<Event>> {
    let statement = format!(
        r#"select partition, "offset", ordinal, site_id, event from view_g{generation}.change
           order by partition, "offset", ordinal"#
    );
    let rows = system.primary().await?.query(&statement, &[]).await?;
    let (mut events, topic) = (Vec::new(), system.topic().name());
    for row in rows {
        let (partition, offset, ordinal): (i32, i64, i32) = (row.get(0), row.get(1), row.get(2));
        if (offset >= cut[&partition]) == is_above {
            events.push((format!("{topic}/{partition}/{offset}/{ordinal}"), row.get(3), row.get(4)));
        }
    }
    Ok(events)
}

fn text(bytes: &Option<Vec<u8>>) -> Result<String> {
    Ok(String::from_utf8(bytes.clone().context("there is one")?)?)
}

/// The changes that readers of the topic see; each record is held to the form of its type.
fn told(records: &[RawRecord]) -> Result<(Vec<Event>, Vec<&RawRecord>)> {
    let (mut events, mut switches) = (Vec::new(), Vec::new());
    for record in records {
        let header = |name: &str| record.header(name).with_context(|| format!("{name} of {record:?}"));
        ensure!(header("ce_specversion")? == "1.0" && header("content-type")? == "application/json", "{record:?}");
        match header("ce_type")? {
            "siteview.installed-apps.changed" => {
                let (key, value) = (text(&record.key)?, text(&record.value)?);
                let said: Value = serde_json::from_str(&value)?;
                ensure!(header("ce_subject")? == key && said["site_id"] == key.as_str(), "{record:?}");
                events.push((header("ce_id")?.to_owned(), key, value));
            }
            "siteview.installed-apps.generation-changed" => switches.push(record),
            other => anyhow::bail!("an event of type {other}"),
        }
    }
    Ok((events, switches))
}

fn by_site(events: &[Event]) -> BTreeMap<&str, Vec<&Event>> {
    let mut sites = BTreeMap::<&str, Vec<&Event>>::new();
    events.iter().for_each(|event| sites.entry(&event.1).or_default().push(event));
    sites
}

/// The same events, each once, and for each site in the same order.
fn assert_same(told: &[Event], logged: &[Event]) -> Result<()> {
    let ids: BTreeSet<&str> = told.iter().map(|(id, ..)| id.as_str()).collect();
    ensure!(ids.len() == told.len(), "{} events are told twice", told.len() - ids.len());
    ensure!(told.len() == logged.len(), "{} events are told, the log holds {}", told.len(), logged.len());
    let (told, logged) = (by_site(told), by_site(logged));
    for (site, expected) in logged {
        ensure!(told.get(site) == Some(&expected), "{site}: {:?} instead of {expected:?}", told.get(site));
    }
    Ok(())
}

async fn promote(system: &System) -> Result<(i32, Service)> {
    let created = system.verb_of_owner(&["generation", "create"], &[])?;
    let second = created.answer["generation"].as_i64().context("a number")? as i32;
    let number = second.to_string();
    let writer = system.writer(&[("WRITER_GENERATION", &number), ("WRITER_BATCH_RECORDS_MAX", "60")])?;
    let promoted = async || {
        let promote = ["generation", "promote", &number, "--force", "--reason", "x"];
        system.verb_of_owner(&promote, &[]).ok().filter(|outcome| outcome.code == Some(0))
    };
    eventually("the second generation is served", RELAYED_MAX, promoted).await?;
    Ok((second, writer))
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_that_are_killed_and_fenced_tell_the_log_of_two_generations_exactly_once() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let mut source = Source::new(91, PARTITIONS, 400);
        system.topic().produce(&source.records(RECORDS))?;
        let _first = system.writer(&[("WRITER_GENERATION", "1"), ("WRITER_BATCH_RECORDS_MAX", "60")])?;
        system.drained().await?;
        let mut relays = Relays::start(system, source)?;
        relays.kill(KILLS).await?;
        relays.fence().await?;
        let switched_at = system.drained().await?;
        relayed_to(system, &switched_at).await?;

        let (second, _second) = promote(system).await?;
        relays.kill(KILLS).await?;
        relays.fence().await?;
        let ends = system.drained_in(second).await?;
        relayed_to(system, &ends).await?;
        let (status, took) = relays.running.stop().await?;
        ensure!(status.success() && took < Duration::from_secs(6), "{status} after {took:?}");

        let mut log = logged(system, 1, &switched_at, false).await?;
        log.extend(logged(system, second, &switched_at, true).await?);
        system.relay_topic().ends()?;
        let records = system.relay_topic().read_committed()?;
        let (events, switches) = told(&records)?;
        assert_same(&events, &log)?;
        ensure!(log.len() > 1000, "{} events are no test", log.len());
        let partitions: Vec<i32> = switches.iter().map(|record| record.partition).collect();
        ensure!(partitions == (0..PARTITIONS).collect::<Vec<_>>(), "the switch is told once each: {switches:?}");
        ensure!(system.relay_topic().partitions_found()? == PARTITIONS as usize, "made like the source topic");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_position_is_expired_or_lost_stands_until_it_is_set() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let mut source = Source::new(92, PARTITIONS, 50);
        system.topic().produce(&source.records(300))?;
        let _writer = system.writer(&[])?;
        let ends = system.drained().await?;
        let mut relay = system.relay(&SLOW)?;
        relayed_to(system, &ends).await?;
        relay.stop().await?;
        let told_before = told(&system.relay_topic().read_committed()?)?.0.len();

        system.topic().produce(&source.records(300))?;
        let ends = system.drained().await?;
        let raise =
            r#"insert into view_g1.change_floor (partition, "offset") select partition, next_offset from view_g1.position"#;
        system.primary().await?.batch_execute(raise).await?;
        let mut relay = system.relay(&SLOW)?;
        stands(&relay, "position-expired").await?;
        set(system, "floor", &ends)?;
        relay.condition("position", true, NOTICED_MAX).await?;
        ends_fenced(system, &mut source, &mut relay).await?;

        system.topic().delete_group(&group(system)).await?;
        let mut relay = system.relay(&SLOW)?;
        stands(&relay, "position-lost").await?;
        let ends = system.drained().await?;
        set(system, "end", &ends)?;
        relay.condition("position", true, NOTICED_MAX).await?;
        ends_fenced(system, &mut source, &mut relay).await?;

        let ends = system.drained().await?;
        let mut relay = system.relay(&SLOW)?;
        relayed_to(system, &ends).await?;
        relay.stop().await?;
        let told_after = told(&system.relay_topic().read_committed()?)?.0;
        ensure!(told_after.len() > told_before, "it goes on");
        let why = "select reason from siteview.audit where action = 'relay set' order by audit_id";
        let reasons: Vec<String> = system.primary().await?.query(why, &[]).await?.iter().map(|row| row.get(0)).collect();
        ensure!(reasons == ["to floor", "to end"], "{reasons:?}");
        let silent = system.refused(&["relay", "set", "--to", "floor"])?;
        ensure!(silent.contains("--reason"), "{silent}");
        Ok(())
    })
    .await
}

async fn stands(relay: &Service, why: &str) -> Result<()> {
    let says = async || {
        let condition = relay.conditions().await.ok()?.remove("position")?;
        (!condition.holds && condition.detail.contains(why) && condition.detail.contains("writer relay set"))
            .then_some(())
    };
    eventually(&format!("the relay says {why}"), NOTICED_MAX, says).await?;
    let blocked = relay.metric("writer_relay_blocked", &[("reason", why)]).await?;
    ensure!(blocked == Some(1.0), "{why}: {blocked:?}");
    Ok(())
}

fn set(system: &System, to: &str, expected: &Ends) -> Result<()> {
    let answer = system.operate(&["relay", "set", "--to", to, "--reason", &format!("to {to}")])?;
    let set: Ends = serde_json::from_value(answer["next_offsets"].clone())?;
    ensure!(set == *expected, "{answer}, expected {expected:?}");
    Ok(())
}

/// The relay that stood goes on from the new position, and finds at its first transaction that it was fenced by the verb.
async fn ends_fenced(system: &System, source: &mut Source, relay: &mut Service) -> Result<()> {
    system.topic().produce(&source.records(60))?;
    let status = relay.ended().await?;
    ensure!(status.code() == Some(1), "it ended with {status}: {}", relay.log()?);
    Ok(())
}
