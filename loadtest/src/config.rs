//! What can be asked for.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::dataset::{Form, Keys, Recipe};
use crate::read::Mix;

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
    /// Requests to the reader on a fixed schedule, answers compared with the model, beside what a bare select costs
    Read(Box<ReadOptions>),
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
    /// File that gets one JSON line per result [default: target/bench/VERB.jsonl]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Word that is written into each result, to find it again
    #[arg(long, default_value = "")]
    pub label: String,
    /// Marks the results as those of a short run, which shows that all works and little more
    #[arg(long)]
    pub quick: bool,
}

/// Which writer is measured.
#[derive(Debug, Clone, ClapArgs)]
pub struct WriterOptions {
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
    /// Which writer is measured
    #[command(flatten)]
    pub writer: WriterOptions,
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
    /// Which writer is measured
    #[command(flatten)]
    pub writer: WriterOptions,
}

/// What the reader is measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadPeer {
    /// A reader of the same table as one writes it with axum and a pool of sqlx; it knows no tags
    Naive,
    /// axum that answers from a map in memory, with tags: what HTTP alone costs, the floor of a cache
    Memory,
}

/// `loadtest read`.
#[derive(Debug, Clone, ClapArgs)]
pub struct ReadOptions {
    /// Requests a second, sent on a fixed schedule; 16,667 are a million a minute
    #[arg(long, default_value_t = 16_667, value_parser = clap::value_parser!(u64).range(1..=500_000), value_name = "PER_SECOND")]
    pub rate: u64,
    /// Length of a measured stream
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub seconds: u64,
    /// Length of the same stream before it, which is not counted
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub warm_up_seconds: u64,
    /// Measured streams of each; the median and the spread are told
    #[arg(long, default_value_t = 3, value_parser = RangedU64ValueParser::<usize>::new().range(1..=50), value_name = "TIMES")]
    pub repeat: usize,
    /// Keep-alive connections, each with one request at a time; below the reader's READER_REQUESTS_MAX
    #[arg(long, default_value_t = 256, value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000), value_name = "COUNT")]
    pub connections: usize,
    /// Paths and their shares in percent: site (one site's apps), batch (batch-get), sites (an app's sites, first page),
    /// count (their number), instance
    #[arg(long, default_value = "site=100", value_name = "PATH=PERCENT,…")]
    pub mix: Mix,
    /// Sites of a batch-get
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1_000), value_name = "COUNT")]
    pub batch: u16,
    /// Percent of the keys that name what is not there
    #[arg(long, default_value_t = 10, value_parser = percent(0), value_name = "PERCENT")]
    pub unknown: u8,
    /// Percent of the look-ups of a site that send its tag in If-None-Match
    #[arg(long, default_value_t = 0, value_parser = percent(0), value_name = "PERCENT")]
    pub tagged: u8,
    /// How requests are spread over the sites
    #[arg(long, value_enum, default_value_t = Keys::Zipf)]
    pub keys: Keys,
    /// One answer of so many is compared byte for byte; of all others status and length are
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..), value_name = "COUNT")]
    pub sample_every: u64,
    /// Sites in the view
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(100..=5_000_000), value_name = "COUNT")]
    pub sites: u64,
    /// Mean number of apps of a site; five make a document of 1.2 KB
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=50), value_name = "COUNT")]
    pub site_apps: u16,
    /// Partitions of the topic
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..=64), value_name = "COUNT")]
    pub partitions: i32,
    /// Decides all that is random
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Runs a peer too, in turns with the reader; it only knows look-ups of a site
    #[arg(long, value_enum)]
    pub peer: Option<ReadPeer>,
    /// Length of each turn of the yardstick, `pgbench -S -M prepared -c 8`; 0 leaves it out
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub yardstick_seconds: u64,
    /// Instead of turns with others: the same stream on an idle view, then while the writer drains a backlog flat out
    #[arg(long, conflicts_with = "peer")]
    pub while_draining: bool,
    /// Records of that backlog; it must last longer than the stream
    #[arg(long, default_value_t = 600_000, value_parser = clap::value_parser!(u64).range(1_000..=20_000_000), value_name = "COUNT")]
    pub backlog: u64,
    /// Where it runs, and where results go
    #[command(flatten)]
    pub place: PlaceOptions,
    /// Another build of the writer [default: the one beside this program]
    #[arg(long, value_name = "BINARY")]
    pub writer: Option<PathBuf>,
    /// Another build of the reader, to compare with [default: the one beside this program]
    #[arg(long, value_name = "BINARY")]
    pub reader: Option<PathBuf>,
    /// Further flags of the reader, behind `--`
    #[arg(last = true, value_name = "READER FLAGS")]
    pub reader_flags: Vec<String>,
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
            (options.peer, options.writer.writer_flags),
            (Some(Peer::JdbcSink), vec!["--lanes".into(), "2".into()])
        );
        for bad in ["--unrelated 101", "--creates 0", "--form xml", "--repeat 0"] {
            let line = format!("loadtest drain {bad}");
            assert!(Args::try_parse_from(line.split(' ')).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_readers_flags_pass_and_a_mix_is_checked() {
        let line = "loadtest read --mix site=90,batch=10 --peer naive -- --replica-connections 8";
        let Verb::Read(options) = Args::try_parse_from(line.split(' ')).unwrap().verb else { panic!("read") };
        assert_eq!((options.mix.to_string(), options.rate), ("site=90,batch=10".to_owned(), 16_667));
        assert_eq!(options.reader_flags, ["--replica-connections", "8"]);
        for bad in ["--mix site=90", "--unknown 101", "--batch 1001", "--rate 0", "--peer naive --while-draining"] {
            let line = format!("loadtest read {bad}");
            assert!(Args::try_parse_from(line.split(' ')).is_err(), "{bad}");
        }
    }
}
