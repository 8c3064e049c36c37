//! One import and many kills: whatever dies, the contacts become the model's and the browser is told the truth, once.
//!
//! **Flow.** An owner's first file makes contacts, without any fault. The second, the large one, is imported while services are killed
//! one after another, as soon as so much of it is done as the seed says; each is started again at once. Whenever jobs is the one to
//! die somebody else's upload has come to the seed's moment, and is sent again with its key. The large import cannot end before the
//! last kill: somebody has written the ledger entry of its last job, and does not commit. A browser listens all the while, at one
//! notifier after the other.
//!
//! **The seed** decides files, kills and moments, not what a service is doing at the moment when it is killed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use devstack::{Endpoints, eventually};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio_postgres::Client;

use super::browser::{Browser, channel};
use super::cast::Cast;
use super::faults::{Kill, Moment, kills};
use super::judge::{self, Accepted};
use super::{DEADLINE, ImportStage, Owner, Sheet, Upload, import_scenario, say};
use crate::torture::tell;

/// Memory that a service may have at most, in MiB.
const PEAK_MAX: u64 = 100;
/// Between two looks at the ledger: a look costs what is measured.
const LOOK: Duration = Duration::from_millis(50);
/// Between two looks where the moment of the last entry is near.
const CLOSE_LOOK: Duration = Duration::from_millis(3);

/// A run.
#[derive(Debug, Clone, Copy)]
pub struct ImportTorture {
    /// What it is drawn from.
    pub seed: u64,
    /// Of the large file.
    pub rows: usize,
    /// 0: one importer, and the time that things take.
    pub kills: usize,
}

/// Runs it, and tells the seed and what came of it. Every error names the seed.
pub async fn import_torture(endpoints: &Endpoints, wanted: ImportTorture) -> Result<()> {
    let ImportTorture { seed, rows, kills } = wanted;
    let again = format!("make import-torture SEED={seed} ROWS={rows} KILLS={kills}");
    tell(&format!("import-torture: again by: {again}"));
    let mut done = String::new();
    let run = import_scenario(endpoints, async |stage| {
        let (run, heard) = Run::start(stage, wanted).await?;
        done = tokio::select! {
            done = run.whole() => done?,
            wrong = heard => wrong?.map(|()| String::new()).context("what the browser heard")?,
        };
        Ok(())
    });
    run.await.with_context(|| format!("again by: {again}"))?;
    tell(&format!("import-torture: seed {seed}: {done}"));
    Ok(())
}

struct Run<'s> {
    wanted: ImportTorture,
    stage: &'s ImportStage,
    rng: StdRng,
    cast: Cast,
    database: Client,
    channel: String,
    browser: Browser,
    owners: Vec<Owner>,
    accepted: Vec<Accepted>,
    started: Instant,
}

impl<'s> Run<'s> {
    async fn start(
        stage: &'s ImportStage,
        wanted: ImportTorture,
    ) -> Result<(Self, tokio::task::JoinHandle<Result<()>>)> {
        let cast = Cast::start(stage, if wanted.kills == 0 { 1 } else { 2 }, &[]).await?;
        let channel = channel(&cast.notifiers()[0]).await?;
        let (browser, heard) = Browser::start(cast.notifiers(), &channel);
        let (database, rng) = (stage.database().await?, StdRng::seed_from_u64(wanted.seed));
        let (owners, accepted, started) = (Vec::new(), Vec::new(), Instant::now());
        let run = Self { wanted, stage, rng, cast, database, channel, browser, owners, accepted, started };
        Ok((run, heard))
    }

    async fn whole(mut self) -> Result<String> {
        let mut owner = Owner::new("ada");
        let sheet = Sheet::new(&mut self.rng, &mut owner, (self.wanted.rows / 10).max(200));
        self.import(&owner.id, "first", sheet).await?;
        let sheet = Sheet::new(&mut self.rng, &mut owner, self.wanted.rows);
        self.owners.push(owner);
        let began = Instant::now();
        let import = self.upload("ada", "large", sheet).await?;
        let accepted = Instant::now();
        say(
            self.started,
            &format!("the large file is accepted {:.1} s after it was begun", began.elapsed().as_secs_f64()),
        );
        let jobs = self.jobs_of(&import).await?;
        let committed = match self.wanted.kills {
            0 => Some(self.last_commit(&import, jobs).await?),
            _ => {
                self.kill_them_all(&import, jobs).await?;
                None
            }
        };
        let end = self.browser.completed(&import).await?;
        let frames = self.browser.frames(&import);
        let first = frames.iter().find(|frame| frame.kind == "progress").context("progress")?.at - accepted;
        let took = end.at - accepted;
        self.judge().await?;
        let peaks = self.cast.peaks();
        let is_modest = peaks.values().all(|peak| *peak <= PEAK_MAX);
        ensure!(is_modest, "the peaks of memory are {peaks:?} MiB, more than {PEAK_MAX}");
        let rate = self.wanted.rows as f64 / took.as_secs_f64();
        let told = committed.map(|at| format!(", {:?} from its last commit to the browser", end.at.duration_since(at)));
        Ok(format!(
            "{} rows in {jobs} jobs under {} kills, {} other imports; {rate:.0} rows/s from 202 to completed, {first:?} to the \
             first progress{}; {} frames over {} connections; importers gave up {} times; peaks of memory {peaks:?} MiB; contacts, \
             ledger, error files and all that is told are the model's",
            self.wanted.rows,
            self.wanted.kills,
            self.accepted.len() - 1,
            told.unwrap_or_default(),
            self.browser.all().len(),
            self.browser.connections(),
            self.cast.gave_up,
        ))
    }

    /// Uploads a file and waits for its end.
    async fn import(&mut self, owner: &str, key: &str, sheet: Sheet) -> Result<()> {
        let import = self.upload(owner, key, sheet).await?;
        self.browser.completed(&import).await.map(drop)
    }

    async fn upload(&mut self, owner: &str, key: &str, mut sheet: Sheet) -> Result<String> {
        let upload = Upload::new(&self.channel, owner, key, std::mem::take(&mut sheet.text));
        let import = upload.accepted(&self.cast.jobs().address()).await?;
        self.accepted.push(Accepted { import: import.clone(), sheet });
        Ok(import)
    }

    async fn jobs_of(&mut self, import: &str) -> Result<i64> {
        let url = format!("http://{}/v1/imports/{import}", self.cast.jobs().address());
        let state: serde_json::Value = reqwest::get(url).await?.error_for_status()?.json().await?;
        state["jobs"].as_i64().with_context(|| state.to_string())
    }

    /// Jobs of an import that are in the ledger.
    async fn done(&self, import: &str) -> Result<i64> {
        let count = "select count(*) from import_job where import_id = $1::text::uuid";
        Ok(self.database.query_one(count, &[&import]).await?.get(0))
    }

    async fn last_commit(&self, import: &str, jobs: i64) -> Result<Instant> {
        loop {
            let done = self.done(import).await?;
            if done == jobs {
                return Ok(Instant::now());
            }
            ensure!(self.started.elapsed() < DEADLINE * 4, "the import does not end");
            tokio::time::sleep(if done * 20 < jobs * 19 { LOOK } else { CLOSE_LOOK }).await;
        }
    }

    async fn kill_them_all(&mut self, import: &str, jobs: i64) -> Result<()> {
        let hold = self.hold(import, i32::try_from(jobs - 1)?).await?;
        let mut rng = StdRng::from_rng(&mut self.rng);
        for kill in kills(&mut rng, self.wanted.kills, self.cast.members.len()) {
            self.suffer(kill, import, jobs, &mut rng).await.with_context(|| format!("{kill:?}"))?;
        }
        ensure!(self.browser.frames(import).iter().all(|frame| !frame.is_end()), "it has ended before the last kill");
        for number in 0..self.cast.members.len() {
            self.cast.ready(number).await?;
        }
        say(self.started, "all are back");
        Ok(hold.batch_execute("rollback").await?)
    }

    /// Somebody who has begun the job and does not commit.
    async fn hold(&self, import: &str, job: i32) -> Result<Client> {
        let somebody = self.stage.database().await?;
        somebody.batch_execute("begin").await?;
        let entry = "insert into import_job (import_id, job, imported, updated, skipped, failed)
            values ($1::text::uuid, $2, 0, 0, 0, 0)";
        somebody.execute(entry, &[&import, &job]).await.context("the import was too short")?;
        Ok(somebody)
    }

    async fn suffer(&mut self, kill: Kill, import: &str, jobs: i64, rng: &mut StdRng) -> Result<()> {
        // All but the job that is held.
        let wanted = ((jobs - 1) as f64 * kill.after) as i64;
        let began = Instant::now();
        while self.done(import).await? < wanted {
            ensure!(began.elapsed() < DEADLINE, "{wanted} of {jobs} jobs are not done");
            self.cast.keep_up()?;
            tokio::time::sleep(LOOK).await;
        }
        self.cast.ready(kill.member).await?;
        let done = self.done(import).await?;
        say(
            self.started,
            &format!("{} of {jobs} jobs are done: {} is killed", done, self.cast.members[kill.member].name()),
        );
        match kill.member {
            0 => self.kill_jobs(kill.moment, rng).await,
            member => self.cast.kill(member),
        }
    }

    /// Kills jobs while somebody uploads, who sends the file again with its key.
    async fn kill_jobs(&mut self, moment: Moment, rng: &mut StdRng) -> Result<()> {
        let mut owner = Owner::new(&format!("owner-{}", self.owners.len()));
        let mut sheet = Sheet::new(rng, &mut owner, (self.wanted.rows / 100).max(600));
        let upload = Upload::new(&self.channel, &owner.id, "side", std::mem::take(&mut sheet.text));
        let address = self.cast.jobs().address();
        let _cut = match moment {
            Moment::Idle => None,
            Moment::HalfSent => {
                let begun = upload.begin(&address, upload.bytes() / 2).await?;
                let is_spooled = async || self.cast.jobs().spooled().is_ok_and(|files| files > 0).then_some(());
                eventually("the file is in the spool", DEADLINE, is_spooled).await?;
                Some(begun)
            }
            Moment::Sent => Some(upload.begin(&address, upload.bytes()).await?),
        };
        self.cast.kill(0)?;
        let import = upload.accepted(&address).await.with_context(|| format!("{moment:?}"))?;
        self.owners.push(owner);
        self.accepted.push(Accepted { import, sheet });
        Ok(())
    }

    /// Everything that can be asked for is as the model has it.
    async fn judge(&mut self) -> Result<()> {
        for Accepted { import, .. } in &self.accepted {
            self.browser.completed(import).await?;
        }
        // Whatever would still be told comes before what is told of this one.
        let mut last = Owner::new("last");
        let sheet = Sheet::new(&mut self.rng, &mut last, 20);
        self.import("last", "last", sheet).await?;
        self.owners.push(last);
        let told = self.browser.all();
        let begun = told.iter().filter(|frame| frame.kind == "accepted").count();
        ensure!(begun == self.accepted.len(), "{begun} imports are told of instead of {}", self.accepted.len());
        for Accepted { import, sheet } in &self.accepted {
            let end = self.browser.completed(import).await?;
            ensure!(end.counts == sheet.counts && end.rows == sheet.rows, "{end:?} instead of {:?}", sheet.counts);
        }
        for owner in &self.owners {
            judge::contacts(&self.database, owner).await?;
        }
        judge::ledger(&self.database, &self.accepted).await?;
        let jobs = self.cast.jobs().address();
        for accepted in &self.accepted {
            judge::answers(&jobs, accepted).await?;
        }
        let asked = judge::cursors(&self.cast.notifiers(), &self.channel, &told).await?;
        say(self.started, &format!("{asked} cursors were asked for what is behind them"));
        Ok(())
    }
}
