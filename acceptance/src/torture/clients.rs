//! Clients that ask the reader all the while, and remember every answer until it can be judged.
//!
//! A client returns the position that it was given (`Projection-Min-Position`). What is excused, and when: an answer that
//! is none (5xx) while the replica is being disturbed; a position that goes back while a server is being disturbed, or is
//! demanded from a future that a failover has lost. A wrong answer is never excused.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Response;
use serde_json::Value;
use tokio::task::JoinSet;

use super::history::{Answer, History};
use crate::kafka::Ends;
use crate::record::partition_of;

const CLIENTS: u64 = 3;
/// Between two requests of one client: some hundred requests a second in all.
const PAUSE: Duration = Duration::from_millis(5);
/// What the reader allows itself, and some more.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// An answer under way when a disturbance ends belongs to it.
const AFTERMATH: Duration = Duration::from_secs(2);
/// Wrong answers that a failure quotes.
const QUOTED_MAX: usize = 5;

/// Times at which servers of the view are disturbed.
#[derive(Debug, Default)]
pub(super) struct Disturbances(Mutex<Vec<Disturbance>>);

#[derive(Debug)]
struct Disturbance {
    begin: Instant,
    end: Option<Instant>,
    /// Whether the replica cannot answer, or only whether positions may go back.
    of_replica: bool,
}

impl Disturbances {
    pub(super) fn begin(&self, of_replica: bool) {
        lock(&self.0).push(Disturbance { begin: Instant::now(), end: None, of_replica });
    }

    pub(super) fn end(&self) {
        if let Some(newest) = lock(&self.0).last_mut() {
            newest.end = Some(Instant::now());
        }
    }

    /// Whether something that lasted from `from` to now is excused.
    fn excuse(&self, from: Instant, only_replica: bool) -> bool {
        let meets = |d: &Disturbance| d.end.is_none_or(|end| from < end + AFTERMATH) && d.begin <= Instant::now();
        lock(&self.0).iter().any(|d| meets(d) && (d.of_replica || !only_replica))
    }
}

/// What the clients share.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) history: Arc<Mutex<History>>,
    pub(super) disturbances: Disturbances,
    /// Positions that clients have to demand from now on, as if another reader had given them.
    pub(super) demanded: Mutex<Ends>,
    pub(super) stop: AtomicBool,
    url: String,
    partitions: i32,
    answers: Mutex<Vec<Answer>>,
    said: Mutex<Counts>,
}

/// What came of the requests.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counts {
    pub(super) judged: usize,
    pub(super) refused: usize,
    pub(super) went_back: usize,
}

impl Asking {
    pub(super) fn new(history: Arc<Mutex<History>>, url: &str, partitions: i32) -> Arc<Self> {
        Arc::new(Self {
            history,
            disturbances: Disturbances::default(),
            demanded: Mutex::default(),
            stop: AtomicBool::new(false),
            url: url.to_owned(),
            partitions,
            answers: Mutex::default(),
            said: Mutex::default(),
        })
    }

    /// Starts the clients; each ends with the first answer that is not excused.
    pub(super) fn start(self: &Arc<Self>, seed: u64, sites: usize) -> JoinSet<Result<()>> {
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let rng = StdRng::seed_from_u64(seed.wrapping_add(number));
            clients.spawn(Client { asking: Arc::clone(self), rng, token: Ends::new(), sites }.ask_on());
        }
        clients
    }

    /// Judges what can be judged by now.
    pub(super) fn judge(&self) -> Result<Counts> {
        let history = lock(&self.history);
        let (known, unknown) = lock(&self.answers).drain(..).partition::<Vec<_>, _>(|answer| history.knows(answer));
        let wrong: Vec<String> = known.iter().filter_map(|answer| history.judge(answer).err()).collect();
        lock(&self.answers).extend(unknown);
        let mut said = lock(&self.said);
        said.judged += known.len();
        ensure!(
            wrong.is_empty(),
            "{} wrong answers of {}:\n  {}",
            wrong.len(),
            known.len(),
            wrong[..wrong.len().min(QUOTED_MAX)].join("\n  ")
        );
        Ok(*said)
    }

    /// Counts an event that is excused; else it is the end.
    fn excused(&self, from: Instant, only_replica: bool, count: impl Fn(&mut Counts), what: String) -> Result<()> {
        if !self.disturbances.excuse(from, only_replica) {
            bail!("{what}, and no server was disturbed at the time");
        }
        count(&mut lock(&self.said));
        Ok(())
    }
}

struct Client {
    asking: Arc<Asking>,
    rng: StdRng,
    /// The newest position by partition.
    token: Ends,
    sites: usize,
}

impl Client {
    async fn ask_on(mut self) -> Result<()> {
        let http = reqwest::Client::builder().timeout(ANSWER_MAX).build()?;
        while !self.asking.stop.load(Ordering::Relaxed) {
            let asked_at = Instant::now();
            for (partition, offset) in lock(&self.asking.demanded).iter() {
                self.token.entry(*partition).and_modify(|had| *had = (*had).max(*offset)).or_insert(*offset);
            }
            // A tenth of the sites has not been made yet, or is gone.
            let site_id = format!("site-{:06}", self.rng.random_range(0..self.sites * 11 / 10));
            let mut request = http.get(format!("{}/v1/sites/{site_id}/installed-apps", self.asking.url));
            if !self.token.is_empty() {
                let pairs: Vec<String> = self.token.iter().map(|(p, offset)| format!("{p}:{offset}")).collect();
                request = request.header("Projection-Min-Position", format!("1/{}", pairs.join(",")));
                request = request.header("Prefer", "wait=2");
            }
            match request.send().await {
                Ok(response) => self.answered(&site_id, asked_at, response).await?,
                Err(error) => self.refused(asked_at, error.to_string())?,
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn answered(&mut self, site_id: &str, asked_at: Instant, response: Response) -> Result<()> {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        if status >= 500 {
            return self.refused(asked_at, format!("{site_id} is answered with {status}: {text}"));
        }
        ensure!(status == 200 || status == 404, "{site_id} is answered with {status}: {text}");
        let claim = headers.get("projection-position").context("every answer has a position")?.to_str()?;
        let claim = offsets(claim).with_context(|| format!("a position is {claim}"))?;
        let partition = partition_of(site_id, self.asking.partitions);
        let next_offset = claim.get(&partition).copied().unwrap_or_default();
        let had = self.token.get(&partition).copied().unwrap_or_default();
        if next_offset < had {
            let what = format!("{site_id} is answered at {next_offset} of partition {partition} after {had}");
            self.asking.excused(asked_at, false, |counts| counts.went_back += 1, what)?;
        }
        for (partition, offset) in claim {
            let had = self.token.entry(partition).or_default();
            *had = (*had).max(offset);
        }
        let document = (status == 200).then(|| serde_json::from_str::<Value>(&text)).transpose()?;
        // Read after the answer came: what was in the topic by then is in this many chunks and the one under way.
        let chunks = lock(&self.asking.history).chunks;
        let answer = Answer { site_id: site_id.to_owned(), next_offset, document, chunks };
        lock(&self.asking.answers).push(answer);
        Ok(())
    }

    fn refused(&self, asked_at: Instant, what: String) -> Result<()> {
        let demands_the_future = what.contains("position-not-reached");
        self.asking.excused(asked_at, !demands_the_future, |counts| counts.refused += 1, what)
    }
}

/// The offsets of a position.
fn offsets(position: &str) -> Option<Ends> {
    let (_, pairs) = position.split_once('/')?;
    let pair = |pair: &str| {
        let (partition, offset) = pair.split_once(':')?;
        Some((partition.parse().ok()?, offset.parse().ok()?))
    };
    pairs.split(',').map(pair).collect()
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
