//! The verbs and what each is told.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use shared::healthcheck::HealthcheckArgs;

use crate::{access::Role, redrive::RATE_MAX};

/// What the console is asked to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Verb {
    /// Serve page and API until SIGTERM or SIGINT (the default)
    Serve,
    /// Show consumer groups with their lag and its cause
    Groups,
    /// Show what stands or is ignored, or end it
    Blocking(BlockingArgs),
    /// Show keys that wait, or let one go on
    Parked(ParkedArgs),
    /// Show dead letters by kind, or give them back to their topic
    DeadLetters(DeadLettersArgs),
    /// Show redrives
    Redrives,
    /// Make a bearer token: prints it, and the entry for CONSOLE_TOKENS_FILE
    Token(TokenArgs),
    /// Ask the running console whether it is well, for a container's health check; exit code 0 or 1
    Healthcheck(HealthcheckArgs),
}

/// `blocking`, and what stands behind it.
#[derive(Debug, Clone, Args)]
pub struct BlockingArgs {
    /// Without a verb it is shown.
    #[command(subcommand)]
    pub verb: Option<BlockingVerb>,
}

/// Verbs of `blocking`.
#[derive(Debug, Clone, Subcommand)]
pub enum BlockingVerb {
    /// Leave out the record at which a partition stands; it goes to the dead letters
    Skip(RecordArgs),
    /// Leave it out, and whatever fails behind it in its partition, until `unblock` with the same offset
    Ignore(RecordArgs),
    /// Try the record again at once; or end what `ignore` began at this offset
    Unblock(RecordArgs),
    /// Begin nothing more in a partition
    Pause(PartitionArgs),
    /// End a pause
    Resume(PartitionArgs),
}

/// `parked`, and what stands behind it.
#[derive(Debug, Clone, Args)]
pub struct ParkedArgs {
    /// Without a verb it is shown.
    #[command(subcommand)]
    pub verb: Option<ParkedVerb>,
}

/// Verbs of `parked`.
#[derive(Debug, Clone, Subcommand)]
pub enum ParkedVerb {
    /// Try a parked record again, and then those of its key behind it, in order
    Unpark(RecordArgs),
    /// Leave a parked record out; it goes to the dead letters, and its key goes on
    Skip(RecordArgs),
}

/// `dead-letters`, and what stands behind it.
#[derive(Debug, Clone, Args)]
pub struct DeadLettersArgs {
    /// Without a verb they are shown by kind.
    #[command(subcommand)]
    pub verb: Option<DeadLettersVerb>,
}

/// Verbs of `dead-letters`.
#[derive(Debug, Clone, Subcommand)]
pub enum DeadLettersVerb {
    /// Show letters of a topic, redacted
    Show(ShowArgs),
    /// Give letters back to their source topic, each once; Ctrl-C or `stop` stops it, `continue` goes on
    Redrive(RedriveArgs),
    /// Show what may be edited of a letter, as `redrive --edit` takes it; what is hidden here is left out
    Edit(LetterArgs),
    /// Show what a redrive has changed of the letter that it moved, redacted
    Difference(DifferenceArgs),
    /// Stop a redrive, wherever it is worked on
    Stop(WhichArgs),
    /// Go on with a redrive that was stopped, here or elsewhere
    Continue(WhichArgs),
}

/// A record that holds something up.
#[derive(Debug, Clone, Args)]
pub struct RecordArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub partition: PartitionArgs,
    /// Offset of the record, as it is shown
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    pub offset: i64,
}

/// A partition of a group.
#[derive(Debug, Clone, Args)]
pub struct PartitionArgs {
    /// Consumer group
    #[arg(long, value_name = "GROUP")]
    pub group: String,
    /// Topic, or retry topic
    #[arg(long, value_name = "TOPIC")]
    pub topic: String,
    /// Partition of it
    #[arg(long, value_name = "PARTITION", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: i32,
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub why: Why,
}

/// The reason, which every verb that changes something wants.
#[derive(Debug, Clone, Args)]
pub struct Why {
    /// Why, for those who read the audit later
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: String,
    /// Who, as the audit names you
    #[arg(long, env = "USER", value_name = "NAME", default_value = "console")]
    pub by: String,
}

/// Which letters are shown.
#[derive(Debug, Clone, Args)]
pub struct ShowArgs {
    /// Dead-letter topic
    #[arg(long, value_name = "TOPIC")]
    pub topic: String,
    /// Only those of this kind
    #[arg(long, value_name = "FINGERPRINT")]
    pub fingerprint: Option<String>,
    /// So many
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
}

/// One letter.
#[derive(Debug, Clone, Args)]
pub struct LetterArgs {
    /// Dead-letter topic
    #[arg(long, value_name = "TOPIC")]
    pub topic: String,
    /// Partition of it
    #[arg(long, value_name = "PARTITION", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: i32,
    /// Offset in that partition
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    pub offset: i64,
}

/// Whose change is shown.
#[derive(Debug, Clone, Args)]
pub struct DifferenceArgs {
    /// Id of the redrive, as `console redrives` shows it
    #[arg(value_name = "ID")]
    pub id: String,
}

/// Which letters are given back, and how fast.
#[derive(Debug, Clone, Args)]
pub struct RedriveArgs {
    /// Dead-letter topic
    #[arg(long, value_name = "TOPIC")]
    pub topic: String,
    /// All of this kind
    #[arg(long, value_name = "FINGERPRINT", required_unless_present_any = ["offset", "letter"], conflicts_with_all = ["offset", "partition", "letter"])]
    pub fingerprint: Option<String>,
    /// One letter: partition of the dead-letter topic
    #[arg(long, value_name = "PARTITION", requires = "offset", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,
    /// One letter: offset in that partition
    #[arg(long, value_name = "OFFSET", requires = "partition", value_parser = clap::value_parser!(i64).range(0..))]
    pub offset: Option<i64>,
    /// Several letters, each named: partition@offset, as often as there are letters
    #[arg(long, value_name = "PLACE", value_parser = place, conflicts_with_all = ["offset", "partition"])]
    pub letter: Vec<(i32, i64)>,
    /// One letter: what it is to have instead, a JSON file of key, value, headers, as `dead-letters edit` prints it
    #[arg(long, value_name = "PATH", requires = "offset", conflicts_with_all = ["fingerprint", "letter"])]
    pub edit: Option<PathBuf>,
    /// Records per second at most; what failed may fail again, and what consumes has other work
    #[arg(long, value_name = "RATE", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(RATE_MAX)))]
    pub rate: u32,
    /// Only count what would be given back
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub why: Why,
}

/// Which redrive is stopped, or goes on.
#[derive(Debug, Clone, Args)]
pub struct WhichArgs {
    /// Its id, as `console redrives` shows it
    #[arg(value_name = "ID")]
    pub id: String,
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub why: Why,
}

/// Whose token is made.
#[derive(Debug, Clone, Args)]
pub struct TokenArgs {
    /// Whose it is; stands in every audit
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// What they may do
    #[arg(long, value_enum)]
    pub role: Role,
}

/// `<partition>@<offset>`.
fn place(text: &str) -> Result<(i32, i64), String> {
    let numbers = text.split_once('@').and_then(|(of, offset)| Some((of.parse().ok()?, offset.parse().ok()?)));
    let is_place = |(of, offset): &(i32, i64)| *of >= 0 && *offset >= 0;
    numbers.filter(is_place).ok_or_else(|| "write partition@offset, such as 0@17".to_owned())
}

fn reason(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("say why, for those who read the audit later".to_owned()),
        reason => Ok(reason.to_owned()),
    }
}
