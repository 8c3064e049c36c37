//! The writers and what happens to them and to their connections, one fault after another.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use rand::rngs::StdRng;

use super::faults::{MemberFault, member_fault, span};
use super::stage::{Stage, WRITERS, by_way_of, last};
use crate::service::Service;
use crate::system::System;

/// Small batches, so that a fault meets every step of many transactions. A key change must not be given up: its delete may
/// be held up for as long as faults go on.
const SETTINGS: [(&str, &str); 2] = [("WRITER_BATCH_RECORDS_MAX", "50"), ("WRITER_KEY_CHANGE_WAIT", "1h")];

pub(super) struct Members<'s> {
    system: &'s System,
    stage: &'s Stage,
    writers: Vec<Service>,
    rng: StdRng,
    /// Faults so far.
    pub(super) faults: usize,
}

impl<'s> Members<'s> {
    /// Starts the writers.
    pub(super) fn start(system: &'s System, stage: &'s Stage, rng: StdRng) -> Result<Self> {
        let mut members = Self { system, stage, writers: Vec::new(), rng, faults: 0 };
        for number in 0..WRITERS {
            let writer = members.new_writer(number)?;
            members.writers.push(writer);
        }
        Ok(members)
    }

    /// The first keeps its membership over a restart, the others are new members each time.
    fn new_writer(&self, number: usize) -> Result<Service> {
        let url = by_way_of(&self.stage.databases[number], &self.system.writer_url())?;
        let kafka = self.stage.kafka.address();
        let own = [("DATABASE_URL", url.as_str()), ("KAFKA_BOOTSTRAP_SERVERS", &kafka)];
        let properties: &[_] = if number == 0 { &[("group.instance.id", "first")] } else { &[] };
        self.system.writer_in_session(&[&SETTINGS[..], &own].concat(), properties)
    }

    /// One fault after another until `until`; all are over when it returns.
    pub(super) async fn disturb(&mut self, until: Instant) -> Result<()> {
        while Instant::now() < until {
            let fault = member_fault(&mut self.rng, WRITERS);
            self.stage.say(fault);
            self.suffer(fault).await.with_context(|| format!("{fault:?}"))?;
            self.faults += 1;
            self.all_run()?;
            let pause = span(&mut self.rng, 50, 1000);
            last(pause).await;
        }
        Ok(())
    }

    /// No writer may end by itself.
    pub(super) fn all_run(&mut self) -> Result<()> {
        for writer in &mut self.writers {
            ensure!(writer.is_running(), "{} has ended by itself:\n{}", writer.name(), tail(writer));
        }
        Ok(())
    }

    async fn suffer(&mut self, fault: MemberFault) -> Result<()> {
        let stage = self.stage;
        match fault {
            MemberFault::Kill(number, away) => {
                self.writers[number].kill()?;
                last(away).await;
                self.writers[number] = self.new_writer(number)?;
            }
            MemberFault::Freeze(number, duration) => {
                self.writers[number].signal(Signal::SIGSTOP)?;
                last(duration).await;
                self.writers[number].signal(Signal::SIGCONT)?;
            }
            MemberFault::Stop(number) => {
                let (status, _) = self.writers[number].stop().await?;
                let writer = &self.writers[number];
                ensure!(status.success(), "{} ended with {status}:\n{}", writer.name(), tail(writer));
                self.writers[number] = self.new_writer(number)?;
            }
            MemberFault::SlowDatabase(number, latency, duration) => {
                stage.databases[number].delay(latency);
                last(duration).await;
                stage.databases[number].heal();
            }
            MemberFault::SilentDatabase(number, duration) => {
                stage.databases[number].silence(true);
                last(duration).await;
                stage.databases[number].heal();
            }
            MemberFault::CutDatabase(number) => stage.databases[number].cut(4),
            MemberFault::ReadOnlyDatabase(number, duration) => self.read_only(number, duration).await?,
            MemberFault::SlowKafka(latency, duration) => {
                stage.kafka.delay(latency);
                last(duration).await;
                stage.kafka.heal();
            }
            MemberFault::SilentKafka(duration) => {
                stage.kafka.silence(true);
                last(duration).await;
                stage.kafka.heal();
            }
            MemberFault::CutKafka(quarters) => stage.kafka.cut(quarters),
        }
        Ok(())
    }

    async fn read_only(&self, number: usize, duration: Duration) -> Result<()> {
        let proxy = &self.stage.databases[number];
        proxy.turn_to(&self.stage.replica_address())?;
        proxy.cut(4);
        last(duration).await;
        // Meanwhile another server may have become the primary.
        proxy.turn_to(&self.stage.primary_address())?;
        proxy.cut(4);
        Ok(())
    }
}

/// The last lines of a log.
fn tail(writer: &Service) -> String {
    let log = writer.log().unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}
