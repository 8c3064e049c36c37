//! What can happen to one of two replicas, and that it is over.

use std::fs;
use std::time::{Duration, Instant};

use acceptance::Live;
use anyhow::{Context, Result, ensure};
use devstack::{Server, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio_postgres::Client;

use super::{ANSWERS, NOTICED_MAX, Stage};

/// What is done to the first replica.
#[derive(Debug, Clone, Copy)]
pub enum Trouble {
    /// SIGKILL; it comes back by recovery.
    Killed,
    /// SIGSTOP to all of its processes: connections stay, nothing answers.
    Frozen,
    /// Its replay is paused: it answers, with what is old.
    HeldBack,
    /// A long snapshot on it holds back replay, because the primary's vacuum has removed what it still sees.
    HeldBackBySnapshot,
    /// Replay waits for nobody: it cancels what it meets, and the primary locks the tables now and then.
    Conflicts,
}

pub const ALL: [Trouble; 5] =
    [Trouble::Killed, Trouble::Frozen, Trouble::HeldBack, Trouble::HeldBackBySnapshot, Trouble::Conflicts];

/// The wait of a second and whatever a busy machine adds; far below the deadline of a request.
const WAITED_MAX: Duration = Duration::from_secs(8);
/// Exclusive locks of the primary that replay brings to the replica.
const LOCKS: usize = 40;

impl Stage<'_> {
    /// Makes trouble and ends it while clients read; gives what the slowest answer took.
    pub async fn meets(&self, live: &mut Live, trouble: Trouble) -> Result<Duration> {
        live.mark();
        let slowest = match trouble {
            Trouble::Killed => self.killed(live).await,
            Trouble::Frozen => self.frozen(live).await,
            Trouble::HeldBack => self.held_back(live).await,
            Trouble::HeldBackBySnapshot => self.held_back_by_snapshot(live).await,
            Trouble::Conflicts => self.conflicts(live).await,
        };
        let slowest = slowest.with_context(|| format!("{trouble:?}"))?;
        self.whole().await.with_context(|| format!("after {trouble:?}"))?;
        Ok(slowest.max(live.answers(ANSWERS).await?))
    }

    fn first(&self) -> Result<&Server> {
        self.stack.view_replica().context("a replica")
    }

    async fn killed(&self, live: &mut Live) -> Result<Duration> {
        self.first()?.kill();
        self.told(0, |told| !told.is_empty()).await?;
        let slowest = live.answers(ANSWERS).await?;
        self.first()?.start().await?;
        Ok(slowest)
    }

    async fn frozen(&self, live: &mut Live) -> Result<Duration> {
        let processes = processes(self.first()?.pid().context("it runs")?)?;
        let signal = |signal| processes.iter().try_for_each(|pid| kill(*pid, signal));
        signal(Signal::SIGSTOP)?;
        let told = self.told(0, |told| told.contains("no sample") || told.contains("connect")).await;
        let slowest = live.answers(ANSWERS).await;
        signal(Signal::SIGCONT)?;
        told?;
        slowest
    }

    async fn held_back(&self, live: &mut Live) -> Result<Duration> {
        let replica = self.system.replica().await?;
        replica.execute("select pg_wal_replay_pause()", &[]).await?;
        self.told(0, |told| told.contains("behind by")).await?;
        self.answers_are_fresh().await?;
        let slowest = live.answers(ANSWERS).await?;
        replica.execute("select pg_wal_replay_resume()", &[]).await?;
        Ok(slowest)
    }

    async fn held_back_by_snapshot(&self, live: &mut Live) -> Result<Duration> {
        let replica = self.system.replica().await?;
        set(&replica, &[("hot_standby_feedback", "off"), ("max_standby_streaming_delay", "-1")]).await?;
        let snapshot = self.system.replica().await?;
        let sites = "select count(*) from view_g1.site_apps";
        snapshot.batch_execute(&format!("begin isolation level repeatable read; {sites}")).await?;
        let primary = self.system.primary().await?;
        // Vacuum removes what the snapshot still sees as soon as there is something; the load makes it.
        let behind = async || {
            primary.batch_execute("vacuum view_g1.site_apps").await.ok()?;
            let told = tokio::time::timeout(Duration::from_secs(2), self.told(0, |told| told.contains("behind by")));
            told.await.ok()?.ok()
        };
        eventually("replay is held back by the snapshot", NOTICED_MAX, behind).await?;
        self.answers_are_fresh().await?;
        let slowest = live.answers(ANSWERS).await?;
        snapshot.batch_execute(&format!("{sites}; commit")).await.context("nothing cancels the snapshot")?;
        Ok(slowest)
    }

    async fn conflicts(&self, live: &mut Live) -> Result<Duration> {
        let replica = self.system.replica().await?;
        set(&replica, &[("max_standby_streaming_delay", "0")]).await?;
        let primary = self.system.primary().await?;
        for _ in 0..LOCKS {
            primary.batch_execute("begin; lock table view_g1.site_apps in access exclusive mode; commit").await?;
            primary.batch_execute("vacuum view_g1.site_apps").await?;
            live.answers(ANSWERS / LOCKS as u32).await?;
        }
        set(&replica, &[("max_standby_streaming_delay", "30s"), ("hot_standby_feedback", "on")]).await?;
        live.answers(0).await
    }

    /// The primary dies and the first replica takes its place; the second one follows nobody from then on.
    pub async fn promotion(&self, live: &mut Live) -> Result<Duration> {
        live.mark();
        self.stack.view_primary().context("a primary")?.kill();
        live.answers(ANSWERS).await?;
        let promoted = self.system.replica().await?;
        promoted.execute("select pg_promote()", &[]).await?;
        // The writer goes on there; what the other one has stands still.
        self.told(1, |told| told.contains("behind by")).await?;
        self.told(0, str::is_empty).await?;
        self.answers_are_fresh().await?;
        live.answers(ANSWERS).await
    }
}

impl Stage<'_> {
    /// Clients without a position get what is not old, although one replica is.
    async fn answers_are_fresh(&self) -> Result<()> {
        let url = format!("{}/v1/sites/rising-0/installed-apps", self.reader.url());
        for _ in 0..50 {
            let answer = reqwest::get(&url).await?.error_for_status()?;
            ensure!(!answer.headers().contains_key("projection-staleness"), "{:?}", answer.headers());
        }
        Ok(())
    }

    /// Where all replicas are behind the least stale answers and says so, and what none has reached is refused in time.
    pub async fn both_behind(&self) -> Result<()> {
        let replicas = [self.system.replica_number(0).await?, self.system.replica_number(1).await?];
        for replica in &replicas {
            replica.execute("select pg_wal_replay_pause()", &[]).await?;
        }
        for index in 0..replicas.len() {
            self.told(index, |told| told.contains("behind by")).await?;
        }
        let url = format!("{}/v1/sites/rising-0/installed-apps", self.reader.url());
        let answer = reqwest::get(&url).await?.error_for_status()?;
        let staleness = answer.headers().get("projection-staleness").context("the answer says that it is stale")?;
        ensure!(staleness.to_str()?.parse::<u64>()? >= 1, "{staleness:?}");
        let demand = reqwest::Client::new().get(&url).header("projection-min-version", "2").header("prefer", "wait=1");
        let asked_at = Instant::now();
        let answer = demand.send().await?;
        let (status, problem) = (answer.status(), answer.text().await?);
        ensure!(status == 503 && problem.contains("position-not-reached"), "{status}: {problem}");
        ensure!(asked_at.elapsed() < WAITED_MAX, "refused after {:?}", asked_at.elapsed());
        for replica in &replicas {
            replica.execute("select pg_wal_replay_resume()", &[]).await?;
        }
        self.whole().await
    }
}

async fn set(replica: &Client, settings: &[(&str, &str)]) -> Result<()> {
    for (name, value) in settings {
        replica.batch_execute(&format!("alter system set {name} = '{value}'")).await?;
    }
    Ok(replica.batch_execute("select pg_reload_conf()").await?)
}

/// A server's processes, the postmaster first.
fn processes(postmaster: i32) -> Result<Vec<Pid>> {
    let is_child = |stat: &str| {
        // Behind the name, which may hold anything but ends with a bracket: state, parent.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        parent == Some(postmaster)
    };
    let mut found = vec![Pid::from_raw(postmaster)];
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if fs::read_to_string(entry.path().join("stat")).is_ok_and(|stat| is_child(&stat)) {
            found.push(Pid::from_raw(pid));
        }
    }
    Ok(found)
}
