//! The services of one run: ready, killed, and started again when they give up, as wherever they are deployed.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use devstack::eventually;

use super::DEADLINE;
use super::stage::{ImportStage, Member};

/// All of them.
pub(super) struct Cast {
    pub(super) members: Vec<Member>,
    /// How often an importer has ended by itself: it had been fenced, as after it stood still.
    pub(super) gave_up: usize,
}

impl Cast {
    /// Starts jobs, so many importers and two notifiers with these settings; returns when they are ready.
    pub(super) async fn start(stage: &ImportStage, importers: usize, of_notifiers: &[(&str, &str)]) -> Result<Self> {
        let mut members = vec![stage.jobs("jobs", &[])?];
        for number in 0..importers {
            members.push(stage.importer(&format!("importer-{number}"), &[])?);
        }
        for number in 0..2 {
            members.push(stage.notifier(&format!("notifier-{number}"), of_notifiers)?);
        }
        let mut cast = Self { members, gave_up: 0 };
        for number in 0..cast.members.len() {
            cast.ready(number).await?;
        }
        Ok(cast)
    }

    /// Jobs.
    pub(super) fn jobs(&mut self) -> &mut Member {
        &mut self.members[0]
    }

    /// Where the notifiers answer.
    pub(super) fn notifiers(&self) -> Vec<String> {
        self.members.iter().filter(|it| it.binary() == "notifier").map(Member::address).collect()
    }

    /// Waits until one is ready.
    pub(super) async fn ready(&mut self, number: usize) -> Result<()> {
        let what = format!("{} is ready", self.members[number].name());
        let mut kept = Ok(());
        let is_ready = async || {
            kept = self.keep_up();
            (kept.is_err() || self.members[number].service().is_ready().await).then_some(())
        };
        eventually(&what, DEADLINE, is_ready).await?;
        kept
    }

    /// SIGKILL, and a new one at once.
    pub(super) fn kill(&mut self, number: usize) -> Result<()> {
        self.members[number].kill()?;
        self.members[number].start_again()
    }

    /// Starts importers again that gave up; another service may not end by itself.
    pub(super) fn keep_up(&mut self) -> Result<()> {
        for member in &mut self.members {
            if member.service().is_running() {
                continue;
            }
            let log = member.service().log().unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(5).collect();
            ensure!(member.binary() == "importer", "{} has ended by itself: {tail:#?}", member.name());
            member.start_again().with_context(|| format!("{} gave up: {tail:#?}", member.name()))?;
            self.gave_up += 1;
        }
        Ok(())
    }

    /// The most memory that a process of each service had, in MiB.
    pub(super) fn peaks(&mut self) -> BTreeMap<&'static str, u64> {
        let mut peaks = BTreeMap::new();
        for member in &mut self.members {
            let peak = peaks.entry(member.binary()).or_default();
            *peak = member.peak_kib().div_ceil(1024).max(*peak);
        }
        peaks
    }
}
