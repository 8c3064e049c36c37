//! What can be asked for.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::dataset::{Form, Keys, Recipe};

/// Benchmarks of Siteview on the real parts; figures go to standard output and as JSON lines into target/bench.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version, max_term_width = 120)]
pub struct Args {
    /// What to measure
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// A backlog: fills a topic, has the writer drain it into a fresh database, beside a peer if one is named
    Drain(DrainOptions),
    /// A live stream: produces on a fixed schedule and measures until the view has each change, on primary and replica
    Latency(LatencyOptions),
}

/// The dataset.
#[derive(Debug, Clone, ClapArgs)]
pub struct DatasetOptions {
    /// Percent of the events that create a site; they come first, as in a snapshot
    #[arg(long, default_value_t = 33, value_parser = percent(1), value_name = "PERCENT")]
    pub creates: u8,
    /// Percent of the updates that touch no app
    #[arg(long, default_value_t = 0, value_parser = percent(0), value_name = "PERCENT")]
    pub unrelated: u8,
    /// How updates are spread over the sites
    #[arg(long, value_enum, default_value_t = Keys::Uniform)]
    pub keys: Keys,
    /// Mean number of apps of a site
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=50), value_name = "COUNT")]
    pub site_apps: u16,
    /// Partitions of the topic
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..=64), value_name = "COUNT")]
    pub partitions: i32,
    /// Decides all that is random; the same seed gives the same records
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Form of the values that the writer reads
    #[arg(long, value_enum, default_value_t = Form::Envelope)]
    pub form: Form,
}

/// Where it runs.
#[derive(Debug, Clone, ClapArgs)]
pub struct PlaceOptions {
    /// The endpoints.json of a running devstack (kafka, postgres) instead of one of its own
    #[arg(long, value_name = "FILE")]
    pub endpoints: Option<PathBuf>,
    /// File that gets one JSON line per result [default: target/bench/<verb>.jsonl]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Word that is written into each result, to find it again
    #[arg(long, default_value = "")]
    pub label: String,
    /// Marks the results as those of a short run, which shows that all works and little more
    #[arg(long)]
    pub quick: bool,
    /// Another build of the writer, to compare with [default: the one beside this program]
    #[arg(long, value_name = "BINARY")]
    pub writer: Option<PathBuf>,
    /// Further flags of the writer, behind `--`
    #[arg(last = true, value_name = "WRITER FLAGS")]
    pub writer_flags: Vec<String>,
}

/// What the writer is measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// Debezium's JDBC sink in Kafka Connect, tuned
    JdbcSink,
}

/// `loadtest drain`.
#[derive(Debug, Clone, ClapArgs)]
pub struct DrainOptions {
    /// Records in the topic
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1_000..=20_000_000), value_name = "COUNT")]
    pub events: u64,
    /// What is in the topic
    #[command(flatten)]
    pub dataset: DatasetOptions,
    /// Runs a peer too, in turns with the writer
    #[arg(long, value_enum)]
    pub peer: Option<Peer>,
    /// Form of the values that the peer reads, envelope-schema or flattened-schema; the same as --form: the same topic
    #[arg(long, value_enum, default_value_t = Form::FlattenedSchema)]
    pub peer_form: Form,
    /// Counted drains of each; the median and the spread are told
    #[arg(long, default_value_t = 3, value_parser = RangedU64ValueParser::<usize>::new().range(1..=50), value_name = "TIMES")]
    pub repeat: usize,
    /// Where it runs, and where results go
    #[command(flatten)]
    pub place: PlaceOptions,
}

/// `loadtest latency`.
#[derive(Debug, Clone, ClapArgs)]
pub struct LatencyOptions {
    /// Events a second, produced on a fixed schedule
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=50_000), value_name = "PER_SECOND")]
    pub rate: u64,
    /// Length of the measured stream
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub seconds: u64,
    /// Length of the same stream before it, which is not counted
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub warm_up_seconds: u64,
    /// Sites that are there before the stream begins
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=5_000_000), value_name = "COUNT")]
    pub sites: u64,
    /// Measured streams; the median and the spread are told
    #[arg(long, default_value_t = 3, value_parser = RangedU64ValueParser::<usize>::new().range(1..=50), value_name = "TIMES")]
    pub repeat: usize,
    /// What is in the topic
    #[command(flatten)]
    pub dataset: DatasetOptions,
    /// Where it runs, and where results go
    #[command(flatten)]
    pub place: PlaceOptions,
}

impl DatasetOptions {
    /// The recipe of so many events.
    pub fn recipe(&self, events: u64) -> Recipe {
        Recipe {
            events,
            sites: (events * u64::from(self.creates) / 100).max(1),
            unrelated_percent: self.unrelated,
            keys: self.keys,
            site_apps: self.site_apps,
            partitions: self.partitions,
            seed: self.seed,
        }
    }
}

fn percent(min: u64) -> RangedU64ValueParser<u8> {
    RangedU64ValueParser::new().range(min..=100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_becomes_a_recipe_and_the_writers_flags_pass() {
        let line = "loadtest drain --events 1000 --creates 20 --unrelated 80 --keys zipf --peer jdbc-sink -- --lanes 2";
        let Verb::Drain(options) = Args::try_parse_from(line.split(' ')).unwrap().verb else { panic!("drain") };
        let recipe = options.dataset.recipe(options.events);
        assert_eq!((recipe.sites, recipe.unrelated_percent, recipe.keys), (200, 80, Keys::Zipf));
        assert_eq!(
            (options.peer, options.place.writer_flags),
            (Some(Peer::JdbcSink), vec!["--lanes".into(), "2".into()])
        );
        for bad in ["--unrelated 101", "--creates 0", "--form xml", "--repeat 0"] {
            let line = format!("loadtest drain {bad}");
            assert!(Args::try_parse_from(line.split(' ')).is_err(), "{bad}");
        }
    }
}
