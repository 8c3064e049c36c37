//! Results: a JSON line each for programs, a table and the ratios for people.

use std::fs::{File, OpenOptions};
use std::io::Write;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::config::PlaceOptions;
use crate::window::{Figures, PRIMARY};

/// The file of JSON lines.
pub struct Report {
    file: File,
}

impl Report {
    /// Appends to the file that was named, else to `target/bench/<verb>.jsonl`.
    pub fn open(place: &PlaceOptions, verb: &str) -> Result<Self> {
        let path = match &place.output {
            Some(path) => path.clone(),
            None => devstack::target_dir()?.join("bench").join(format!("{verb}.jsonl")),
        };
        let folder = path.parent().context("a file lies in a folder")?;
        std::fs::create_dir_all(folder).with_context(|| format!("{} can't be made", folder.display()))?;
        let file = OpenOptions::new().create(true).append(true).open(&path);
        Ok(Self { file: file.with_context(|| format!("{} can't be written", path.display()))? })
    }

    /// Writes one line with the members of all these objects.
    pub fn write(&mut self, objects: &[&Value]) -> Result<()> {
        let members = objects.iter().filter_map(|object| object.as_object()).flatten();
        let line: Map<String, Value> = members.map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(writeln!(self.file, "{}", Value::Object(line))?)
    }
}

/// One drain on one line.
pub fn line(name: &str, figures: &Figures) -> String {
    let cpu = |process: &str| figures.cpu_us_per_event.get(process).copied().unwrap_or_default();
    format!(
        "{name}: {:.0} events/s, CPU {:.1} + primary {:.1} µs/event (broker {:.1}, replica {:.1}), WAL {:.0} B/event, \
         peak RSS {:.0} MB",
        figures.events_per_second,
        cpu(name),
        cpu(PRIMARY),
        cpu("broker"),
        cpu("replica"),
        figures.wal_bytes_per_event,
        figures.peak_rss_bytes as f64 / 1e6,
    )
}

/// Tells medians with their spread, and the ratios of writer to peer of each pair of turns.
pub fn summary(writer: &[Figures], peer: &[Figures], quick: bool) {
    if quick {
        say("QUICK RUN: it shows that all works; its figures are too short to be quoted");
    }
    for (name, all) in [("writer", writer), ("jdbc-sink", peer)].into_iter().filter(|(_, all)| !all.is_empty()) {
        say(&format!("{name}, median of {} (lowest to highest)", all.len()));
        for (what, value) in columns(name, all) {
            say(&format!("  {what:<36} {}", spread(&value)));
        }
    }
    if !peer.is_empty() {
        let ratio =
            |of: fn(&Figures, &Figures) -> f64| writer.iter().zip(peer).map(|(w, p)| of(w, p)).collect::<Vec<_>>();
        say("writer against jdbc-sink, turn by turn: more than 1 is better");
        let per_second = ratio(|w, p| w.events_per_second / p.events_per_second);
        let per_cpu = ratio(|w, p| p.work_cpu_us_per_event / w.work_cpu_us_per_event);
        say(&format!("  {:<36} {}", "events per second", spread(&per_second)));
        say(&format!("  {:<36} {}", "events per CPU second", spread(&per_cpu)));
    }
}

fn columns(name: &str, all: &[Figures]) -> Vec<(String, Vec<f64>)> {
    let each = |of: &dyn Fn(&Figures) -> f64| all.iter().map(of).collect::<Vec<f64>>();
    let mut columns = vec![
        ("events/s".to_owned(), each(&|figures| figures.events_per_second)),
        (format!("CPU µs/event, {name} + primary"), each(&|figures| figures.work_cpu_us_per_event)),
        ("WAL B/event".to_owned(), each(&|figures| figures.wal_bytes_per_event)),
        ("peak RSS MB".to_owned(), each(&|figures| figures.peak_rss_bytes as f64 / 1e6)),
    ];
    for process in all[0].cpu_us_per_event.keys() {
        let column = each(&|figures| figures.cpu_us_per_event[process]);
        columns.push((format!("CPU µs/event of {process}"), column));
    }
    columns
}

/// The median, and the lowest and the highest value.
pub fn spread(values: &[f64]) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
    let digits = if median.abs() < 10.0 { 2 } else { usize::from(median.abs() < 1000.0) };
    format!("{median:.digits$} ({:.digits$} to {:.digits$})", sorted[0], sorted[sorted.len() - 1])
}

const QUANTILES: [(&str, f64); 5] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

/// Milliseconds by name of the quantile, of a histogram of microseconds.
pub fn percentiles(histogram: &Histogram<u64>) -> Value {
    QUANTILES
        .iter()
        .map(|(name, quantile)| ((*name).to_owned(), json!(histogram.value_at_quantile(*quantile) as f64 / 1000.0)))
        .collect()
}

/// The same on one line.
pub fn percentiles_text(histogram: &Histogram<u64>) -> String {
    let one = |(name, quantile): &(&str, f64)| {
        format!("{name} {:.1} ms", histogram.value_at_quantile(*quantile) as f64 / 1000.0)
    };
    let all: Vec<String> = QUANTILES.iter().map(one).collect();
    format!("{} of {}", all.join(", "), histogram.len())
}

/// Writes a line of the result.
#[expect(clippy::print_stdout, reason = "loadtest is a command-line tool; this is where it answers")]
pub fn say(text: &str) {
    println!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_stands_between_the_lowest_and_the_highest() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), "2.00 (1.00 to 3.00)");
        assert_eq!(spread(&[4000.0, 1000.0, 2000.0, 3000.0]), "2500 (1000 to 4000)");
        assert_eq!(spread(&[50.0]), "50.0 (50.0 to 50.0)");
    }
}
