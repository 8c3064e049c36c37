//! One stream: the generator on a thread of its own, and what the processes use meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Value, json};

use super::generator::{Generator, connect};
use super::mix::{Asks, Path};
use super::model::Model;
use super::schedule::Schedule;
use super::served::Served;
use super::tally::Tally;
use crate::compare::{refuse_rate, refuse_void};
use crate::config::ReadOptions;
use crate::cpu;
use crate::report::{percentiles, percentiles_text};
use crate::stack::Stack;

/// Between the last preparation and the first due moment.
const LEAD: Duration = Duration::from_millis(200);
/// How often the server's memory is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A stream that can be measured.
pub(super) struct Stream<'a> {
    options: &'a ReadOptions,
    served: &'a Served,
    replica: i32,
}

/// What a stream came to.
pub(super) struct Figures {
    pub(super) requests: u64,
    pub(super) rate_achieved: f64,
    pub(super) errors: u64,
    latencies: Histogram<u64>,
    by_path: Vec<(&'static str, Histogram<u64>)>,
    lateness: Histogram<u64>,
    pub(super) cpu_us_per_request: BTreeMap<String, f64>,
    /// Of those who do the work: the server and the replica.
    pub(super) work_cpu_us_per_request: f64,
    pub(super) documents_per_second: f64,
    pub(super) rss_bytes: Rss,
}

/// The server's resident memory in the window: flat when the halves agree.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Rss {
    first: u64,
    pub(super) last: u64,
    peak: u64,
    mean_of_first_half: u64,
    mean_of_second_half: u64,
}

/// The generator's name among the processes, and the replica's.
const GENERATOR: &str = "generator";
const REPLICA: &str = "replica";

impl<'a> Stream<'a> {
    pub(super) fn new(options: &'a ReadOptions, served: &'a Served, stack: &Stack) -> Result<Self> {
        Ok(Self { options, served, replica: stack.replica_pid()? })
    }

    /// Measures it; further processes, by name, have their CPU time told too. A void stream is an error.
    pub(super) async fn measure(&self, model: Arc<Model>, others: &[(&str, i32)]) -> Result<Figures> {
        let (options, address, asks) = (self.options, self.served.address, Asks::new(super::wanted(self.options)));
        let (connections, sample_every) = (options.connections, options.sample_every);
        let connections = tokio::task::spawn_blocking(move || connect(address, connections)).await??;
        let (warm_up, measured) = (Duration::from_secs(options.warm_up_seconds), Duration::from_secs(options.seconds));
        let schedule = Schedule::new(Instant::now() + LEAD, options.rate, warm_up, measured);
        let generator = tokio::task::spawn_blocking(move || {
            Generator::new(&model, asks, schedule, connections, sample_every)?.run()
        });
        let watched = self.watch(&schedule, others).await?;
        let tally = generator.await.context("the generator has panicked")??;
        refuse_rate(options.rate as f64, schedule.rate_achieved(tally.last_sent))?;
        self.figures(&schedule, tally, watched)
    }

    async fn watch(&self, schedule: &Schedule, others: &[(&str, i32)]) -> Result<(BTreeMap<String, Duration>, Rss)> {
        let (start, end) = schedule.window();
        tokio::time::sleep_until(start.into()).await;
        let (before, mut rss) = (self.used(others)?, Vec::new());
        for look in (0..).map(|look| start + LOOK_EVERY * look).take_while(|look| *look < end) {
            tokio::time::sleep_until(look.into()).await;
            rss.push(cpu::rss_bytes(self.served.pid()?)?);
        }
        tokio::time::sleep_until(end.into()).await;
        let after = self.used(others)?;
        rss.push(cpu::rss_bytes(self.served.pid()?)?);
        let used = after.into_iter().map(|(name, after)| (name.clone(), after - before[&name])).collect();
        Ok((used, Rss::of(&rss, cpu::peak_rss_bytes(self.served.pid()?)?)))
    }

    fn used(&self, others: &[(&str, i32)]) -> Result<BTreeMap<String, Duration>> {
        let mut used: BTreeMap<String, Duration> = [
            (GENERATOR.to_owned(), cpu::of_self()?.0),
            (self.served.kind.name().to_owned(), cpu::used(self.served.pid()?)?),
            (REPLICA.to_owned(), cpu::used(self.replica)?),
        ]
        .into();
        for (name, pid) in others {
            used.insert((*name).to_owned(), cpu::used(*pid)?);
        }
        Ok(used)
    }

    fn figures(
        &self,
        schedule: &Schedule,
        tally: Tally,
        (used, rss_bytes): (BTreeMap<String, Duration>, Rss),
    ) -> Result<Figures> {
        let (latencies, requests) = (tally.all(), schedule.counted());
        let by_path = Path::ALL.into_iter().filter(|path| !tally.of(*path).is_empty());
        let by_path = by_path.map(|path| (path.name(), tally.of(path).clone())).collect();
        let documents = tally.of(Path::Site).len() + tally.of(Path::Batch).len() * u64::from(self.options.batch);
        let cpu_us_per_request: BTreeMap<String, f64> =
            used.into_iter().map(|(name, used)| (name, used.as_secs_f64() * 1e6 / requests as f64)).collect();
        let work = [self.served.kind.name(), REPLICA].map(|name| cpu_us_per_request[name]).into_iter().sum();
        let figures = Figures {
            requests,
            rate_achieved: schedule.rate_achieved(tally.last_sent),
            errors: tally.errors,
            lateness: tally.lateness().clone(),
            latencies,
            by_path,
            cpu_us_per_request,
            work_cpu_us_per_request: work,
            documents_per_second: documents as f64 / self.options.seconds as f64,
            rss_bytes,
        };
        refuse_void(self.served.kind.name(), &tally.wrong.into_lines())?;
        Ok(figures)
    }
}

impl Rss {
    fn of(looks: &[u64], peak: u64) -> Self {
        let mean = |looks: &[u64]| looks.iter().sum::<u64>() / looks.len().max(1) as u64;
        let (first_half, second_half) = looks.split_at(looks.len() / 2);
        let (first, last) = (looks.first().copied().unwrap_or_default(), looks.last().copied().unwrap_or_default());
        Self { first, last, peak, mean_of_first_half: mean(first_half), mean_of_second_half: mean(second_half) }
    }
}

impl Figures {
    pub(super) fn quantile_ms(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// One stream on one line.
    pub(super) fn line(&self, name: &str) -> String {
        let cpu: Vec<String> = self.cpu_us_per_request.iter().map(|(name, us)| format!("{name} {us:.1}")).collect();
        format!(
            "{name}: {:.1} requests/s, {} errors, {}; CPU µs/request {}; RSS {:.1} MB",
            self.rate_achieved,
            self.errors,
            percentiles_text(&self.latencies),
            cpu.join(", "),
            self.rss_bytes.last as f64 / 1e6,
        )
    }

    pub(super) fn json(&self) -> Value {
        let by_path: BTreeMap<&str, Value> =
            self.by_path.iter().map(|(name, histogram)| (*name, percentiles(histogram))).collect();
        json!({
            "requests": self.requests, "rate_achieved": self.rate_achieved, "errors": self.errors,
            "latency_ms": percentiles(&self.latencies), "latency_ms_by_path": by_path,
            "sent_late_ms": percentiles(&self.lateness), "cpu_us_per_request": self.cpu_us_per_request,
            "work_cpu_us_per_request": self.work_cpu_us_per_request,
            "documents_per_second": self.documents_per_second, "rss_bytes": self.rss_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_grows_shows_in_the_halves() {
        let rss = Rss::of(&[10, 20, 30, 40], 50);
        assert_eq!((rss.first, rss.last, rss.peak), (10, 40, 50));
        assert_eq!((rss.mean_of_first_half, rss.mean_of_second_half), (15, 35));
    }
}
