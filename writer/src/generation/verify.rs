//! `verify`: a generation and the active one, row by row, while writers feed both.
//!
//! The scan goes through both in chunks and finds what differs at that moment. Each such site is then looked at in one
//! snapshot of both sides and of their positions: it counts as differing once each side has passed the record that the other
//! side's row is from; until then it is looked at again. So neither has to stand still, and no difference is a matter of who
//! was first.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IsTerminal,
    process::ExitCode,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use sqlx::PgConnection;

use super::{REFUSED, Refused, active, connect, find, ownership};
use crate::{
    config::Config,
    store::{
        comparison::{self, MembershipKey, Pair, Verdict},
        generation::{self, Generation},
    },
};

/// Ids that the answer names at most.
const NAMED_MAX: usize = 100;
/// Sites that wait to be looked at again at most; further ones count as undecided.
const PENDING_MAX: usize = 10_000;
/// How long undecided sites are looked at again without one of them being decided.
const SETTLE_MAX: Duration = Duration::from_secs(20);
/// Pause between looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// From when on there is a progress bar.
const BAR_AFTER: Duration = Duration::from_secs(2);

/// The answer; `--json` prints it as it is.
#[derive(Debug, Serialize)]
struct Report {
    generation: i32,
    against: i32,
    clean: bool,
    /// Sites and memberships of the generation that were compared.
    compared: u64,
    /// Sites that differ.
    differing: u64,
    /// Sites that could not be decided: one side has not come as far as the other.
    undecided: u64,
    /// Apps whose count is not the number of the generation's own memberships.
    miscounted: u64,
    /// Whether both were made with the same mapping; if not, differences are what the generation is for.
    same_projection: bool,
    /// The first of the differing and undecided sites.
    sites: BTreeSet<String>,
    /// The first of the miscounted apps.
    apps: BTreeSet<String>,
    /// Positions at the end, by partition: of the generation, of the one it was compared with.
    positions: BTreeMap<i32, [Option<i64>; 2]>,
}

/// Sites that differed, each with those of its memberships that did.
type Candidates = BTreeMap<String, Vec<MembershipKey>>;

struct Comparison<'a> {
    connection: PgConnection,
    pair: Pair,
    topic: &'a str,
    report: Report,
    pending: Candidates,
    bar: ProgressBar,
    started: Instant,
}

pub(super) async fn verify(config: &Config, number: i32) -> anyhow::Result<ExitCode> {
    let mut connection = connect(config).await?;
    ownership(&mut connection).await?;
    let generations = Generation::all(&mut connection).await?;
    let found = find(&generations, number)?;
    let against = active(&generations).ok_or(Refused::NothingBefore)?;
    let pair = Pair { generation: number, against: against.generation };
    let report = Report {
        generation: pair.generation,
        against: pair.against,
        clean: false,
        compared: 0,
        differing: 0,
        undecided: 0,
        miscounted: 0,
        same_projection: found.projection == against.projection,
        sites: BTreeSet::new(),
        apps: BTreeSet::new(),
        positions: BTreeMap::new(),
    };
    let bar = ProgressBar::with_draw_target(
        Some(comparison::estimate(&mut connection, pair).await?),
        ProgressDrawTarget::hidden(),
    );
    let style = "{msg} {wide_bar} {pos}/{len} rows {elapsed}";
    bar.set_style(ProgressStyle::with_template(style).expect("the template is a constant"));
    let (topic, started) = (config.topic.as_str(), Instant::now());
    Comparison { connection, pair, topic, report, pending: Candidates::new(), bar, started }.run(config.json).await
}

impl Comparison<'_> {
    async fn run(mut self, json: bool) -> anyhow::Result<ExitCode> {
        self.sites().await?;
        self.memberships().await?;
        self.counts().await?;
        self.settle().await?;
        self.bar.finish_and_clear();
        self.finish().await?;
        print(&self.report, json)?;
        Ok(ExitCode::from(if self.report.clean { 0 } else { REFUSED }))
    }

    async fn sites(&mut self) -> Result<(), sqlx::Error> {
        let mut after = String::new();
        loop {
            let chunk = comparison::sites(&mut self.connection, self.pair, &after).await?;
            self.compared(chunk.rows, "sites");
            let candidates = chunk.differing.into_iter().map(|site_id| (site_id, Vec::new())).collect();
            self.look(candidates).await?;
            let Some(upto) = chunk.upto else { return Ok(()) };
            after = upto;
        }
    }

    async fn memberships(&mut self) -> Result<(), sqlx::Error> {
        let mut after = MembershipKey::default();
        loop {
            let chunk = comparison::memberships(&mut self.connection, self.pair, &after).await?;
            self.compared(chunk.rows, "memberships");
            let mut candidates = Candidates::new();
            for key in chunk.differing {
                candidates.entry(key.1.clone()).or_default().push(key);
            }
            self.look(candidates).await?;
            let Some(upto) = chunk.upto else { return Ok(()) };
            after = upto;
        }
    }

    async fn counts(&mut self) -> Result<(), sqlx::Error> {
        let mut after = String::new();
        loop {
            let chunk = comparison::counts(&mut self.connection, self.pair.generation, &after).await?;
            self.report.miscounted += chunk.differing.len() as u64;
            let free = NAMED_MAX - self.report.apps.len();
            self.report.apps.extend(chunk.differing.into_iter().take(free));
            let Some(upto) = chunk.upto else { return Ok(()) };
            after = upto;
        }
    }

    /// Looks at sites that differ: those that are decided are counted, the others wait. Gives how many were decided.
    async fn look(&mut self, candidates: Candidates) -> Result<usize, sqlx::Error> {
        if candidates.is_empty() {
            return Ok(0);
        }
        let verdicts = comparison::check(&mut self.connection, self.pair, self.topic, &candidates).await?;
        let mut decided = 0;
        for (site_id, keys) in candidates {
            match verdicts.get(&site_id).copied().unwrap_or(Verdict::Same) {
                Verdict::Undecided => self.wait_for(site_id, keys),
                Verdict::Same => decided += 1,
                Verdict::Differs => {
                    decided += 1;
                    // Found once by its row, it is found again by its memberships.
                    if keys.is_empty() || !self.report.sites.contains(&site_id) {
                        self.report.differing += 1;
                    }
                    self.name(site_id);
                }
            }
        }
        Ok(decided)
    }

    fn wait_for(&mut self, site_id: String, keys: Vec<MembershipKey>) {
        if self.pending.len() < PENDING_MAX || self.pending.contains_key(&site_id) {
            self.pending.entry(site_id).or_default().extend(keys);
        } else {
            self.report.undecided += 1;
            self.name(site_id);
        }
    }

    fn name(&mut self, site_id: String) {
        if self.report.sites.len() < NAMED_MAX {
            self.report.sites.insert(site_id);
        }
    }

    /// Looks again at what is undecided, for as long as that gets on.
    async fn settle(&mut self) -> Result<(), sqlx::Error> {
        let mut decided_at = Instant::now();
        while !self.pending.is_empty() && decided_at.elapsed() < SETTLE_MAX {
            self.progress("sites still on their way");
            let pending = std::mem::take(&mut self.pending);
            if self.look(pending).await? > 0 {
                decided_at = Instant::now();
            } else {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        }
        self.report.undecided += self.pending.len() as u64;
        let undecided = std::mem::take(&mut self.pending);
        undecided.into_keys().for_each(|site_id| self.name(site_id));
        Ok(())
    }

    /// Writes down the result, on which a promotion depends, with the positions at which it holds.
    async fn finish(&mut self) -> anyhow::Result<()> {
        let Pair { generation, against } = self.pair;
        for (side, generation) in [generation, against].into_iter().enumerate() {
            for (partition, next) in generation::positions(&mut self.connection, generation, self.topic).await? {
                self.report.positions.entry(partition).or_default()[side] = Some(next);
            }
        }
        let Report { differing, undecided, miscounted, compared, positions, .. } = &self.report;
        let clean = differing + undecided + miscounted == 0;
        let detail = serde_json::json!({
            "compared": compared, "differing": differing, "undecided": undecided, "miscounted": miscounted,
            "positions": positions,
        });
        self.report.clean = clean;
        if generation != against {
            generation::record_verification(&mut self.connection, (generation, against), clean, &detail).await?;
        }
        Ok(())
    }

    fn compared(&mut self, rows: i64, what: &'static str) {
        self.report.compared += rows.unsigned_abs();
        self.bar.inc(rows.unsigned_abs());
        self.progress(what);
    }

    fn progress(&self, what: &'static str) {
        if self.bar.is_hidden() && self.started.elapsed() > BAR_AFTER && std::io::stderr().is_terminal() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_message(what);
    }
}

#[expect(clippy::print_stdout, reason = "a verb answers on standard output")]
fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string(report)?);
        return Ok(());
    }
    let Report { generation, against, clean, compared, differing, undecided, miscounted, .. } = report;
    println!("generation {generation} against {against}: {compared} rows compared");
    if *clean {
        println!("they are equal");
        return Ok(());
    }
    println!("{differing} sites differ, {undecided} could not be decided, {miscounted} apps are counted wrong");
    if !report.same_projection {
        println!(
            "they were made with different mappings: if these are the differences it is for, promote with --force"
        );
    }
    if *undecided > 0 {
        println!("undecided: one side has not come as far as the other; is each fed by a writer?");
    }
    report.sites.iter().for_each(|site_id| println!("  site {site_id}"));
    report.apps.iter().for_each(|app_id| println!("  app {app_id}"));
    Ok(())
}
