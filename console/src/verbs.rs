//! The same on the command line: each verb works straight on Kafka, with its access rules, whether a console serves or not.
//!
//! What is shown is one snapshot, taken when all followed topics are read. A command waits for what its group makes of it. A
//! redrive runs in this process; Ctrl-C stops it between two transactions, `dead-letters stop` fences it from elsewhere, and
//! `dead-letters continue` goes on.

mod show;

use std::{path::Path, sync::mpsc, time::Duration};

use anyhow::Context as _;
use messaging::blocking::Verb;
use serde_json::{Value, json};
use shared::process::Refused;
use tokio_util::sync::CancellationToken;

use crate::{
    access,
    commands::{self, Wanted},
    config::{
        BlockingArgs, BlockingVerb, Config, DeadLettersArgs, DeadLettersVerb, LetterArgs, ParkedArgs, ParkedVerb,
        PartitionArgs, RedriveArgs, ShowArgs, TokenArgs, WhichArgs,
    },
    error::Error,
    fingerprint::Fingerprint,
    records,
    redrive::{self, EDIT_BYTES_MAX, Edit, Redrive, RedriveError, RedriveState, Selection, Stop},
    routes::reads::{blocking_of, parked_of},
    snapshot::Snapshot,
    start_following,
};

/// Time for reading all followed topics.
const SNAPSHOT_MAX: Duration = Duration::from_secs(120);
/// How long a group may take to say what came of a command.
const OUTCOME_MAX: Duration = Duration::from_secs(15);

fn of_command(error: Error) -> anyhow::Error {
    match error {
        Error::Kafka(_) => error.into(),
        other => Refused(other.to_string()).into(),
    }
}

fn of_redrive(error: RedriveError) -> anyhow::Error {
    match error {
        RedriveError::Refused(why) => Refused(why).into(),
        other => other.into(),
    }
}

/// Prints a token that nobody has yet, and its entry for the file.
pub fn token(asked: &TokenArgs) {
    let token = access::secret();
    show::text(&format!("{token}\n\n{}", access::entry(&asked.name, asked.role, &token)));
}

/// Shows groups.
pub async fn groups(config: &Config) -> anyhow::Result<()> {
    let snapshot = snapshot(config).await?;
    show::rows(config.json, &json!(snapshot.groups), &["name", "state", "lag_records", "lag_seconds", "cause"]);
    Ok(())
}

/// Shows what stands, or ends it.
pub async fn blocking(config: &Config, asked: &BlockingArgs) -> anyhow::Result<()> {
    let (verb, of, offset) = match &asked.verb {
        None => {
            let held = blocking_of(&*snapshot(config).await?);
            show::rows(config.json, &held, &["group", "topic", "partition", "state", "paused", "blocked"]);
            return Ok(());
        }
        Some(BlockingVerb::Skip(of)) => (Verb::Skip, &of.partition, Some(of.offset)),
        Some(BlockingVerb::Ignore(of)) => (Verb::Ignore, &of.partition, Some(of.offset)),
        Some(BlockingVerb::Unblock(of)) => (Verb::Unblock, &of.partition, Some(of.offset)),
        Some(BlockingVerb::Pause(of)) => (Verb::Pause, of, None),
        Some(BlockingVerb::Resume(of)) => (Verb::Resume, of, None),
    };
    command(config, verb, of, offset).await
}

/// Shows parked keys, or lets one go on.
pub async fn parked(config: &Config, asked: &ParkedArgs) -> anyhow::Result<()> {
    match &asked.verb {
        None => {
            let parked = parked_of(&*snapshot(config).await?);
            show::rows(config.json, &parked, &["group", "topic", "partition", "offset", "stuck"]);
            Ok(())
        }
        Some(ParkedVerb::Unpark(of)) => command(config, Verb::Unpark, &of.partition, Some(of.offset)).await,
        Some(ParkedVerb::Skip(of)) => command(config, Verb::Skip, &of.partition, Some(of.offset)).await,
    }
}

/// Shows dead letters, or gives them back.
pub async fn dead_letters(config: &Config, asked: &DeadLettersArgs) -> anyhow::Result<()> {
    match &asked.verb {
        None => {
            let snapshot = snapshot(config).await?;
            let kinds = |of: &crate::snapshot::DeadLetters| {
                let topic = of.topic.clone();
                let row = move |kind: &crate::snapshot::Kind| {
                    let mut row = json!(kind);
                    row["topic"] = json!(topic);
                    row
                };
                of.kinds.iter().map(row).collect::<Vec<Value>>()
            };
            let all: Vec<Value> = snapshot.dead_letters.iter().flat_map(kinds).collect();
            show::rows(config.json, &json!(all), &["topic", "fingerprint", "letters", "redriven", "reason", "pattern"]);
            Ok(())
        }
        Some(DeadLettersVerb::Show(asked)) => letters(config, asked).await,
        Some(DeadLettersVerb::Redrive(asked)) => begin(config, asked).await,
        Some(DeadLettersVerb::Edit(asked)) => editable(config, asked).await,
        Some(DeadLettersVerb::Difference(asked)) => {
            let difference = redrive::difference(&config.kafka, &config.redaction, &asked.id).await;
            show::text(&json!(difference.map_err(of_redrive)?).to_string());
            Ok(())
        }
        Some(DeadLettersVerb::Stop(asked)) => {
            let why = Stop { by: asked.why.by.clone(), reason: asked.why.reason.clone(), everywhere: true };
            let stopped = redrive::halt(&config.kafka, &asked.id, why).await.map_err(of_redrive)?;
            show::text(&json!(stopped.without_contents()).to_string());
            Ok(())
        }
        Some(DeadLettersVerb::Continue(asked)) => go_on(config, asked).await,
    }
}

/// Shows redrives.
pub async fn redrives(config: &Config) -> anyhow::Result<()> {
    let snapshot = snapshot(config).await?;
    let columns = ["id", "dead_letter_topic", "state", "counts", "by", "reason"];
    show::rows(config.json, &json!(snapshot.redrives), &columns);
    Ok(())
}

async fn snapshot(config: &Config) -> anyhow::Result<std::sync::Arc<Snapshot>> {
    let stop = CancellationToken::new();
    let _ends = stop.clone().drop_guard();
    let (following, mut now) = start_following(config, redrive::Workers::default(), Default::default(), stop);
    let complete =
        async { now.wait_for(|snapshot| snapshot.complete).await.map(|found| std::sync::Arc::clone(&found)) };
    let complete = tokio::time::timeout(SNAPSHOT_MAX, complete).await;
    match complete {
        Ok(Ok(snapshot)) => Ok(snapshot),
        Ok(Err(_)) => Err(crate::why(following.await).into()),
        Err(_) => {
            let error = now.borrow().error.clone().unwrap_or_else(|| "the topics are long".to_owned());
            Err(anyhow::anyhow!("not all was read within {SNAPSHOT_MAX:?}: {error}"))
        }
    }
}

async fn command(config: &Config, verb: Verb, of: &PartitionArgs, offset: Option<i64>) -> anyhow::Result<()> {
    let wanted = Wanted {
        group: of.group.clone(),
        verb,
        topic: of.topic.clone(),
        partition: of.partition,
        offset,
        by: of.why.by.clone(),
        reason: of.why.reason.clone(),
    };
    wanted.check(&*snapshot(config).await?).map_err(of_command)?;
    let sent = commands::send(&config.kafka, &wanted, OUTCOME_MAX).await.map_err(of_command)?;
    match (config.json, sent.event.as_deref()) {
        (true, _) => show::text(&json!(sent).to_string()),
        (false, Some("followed")) => show::text("followed"),
        (false, Some(_)) => show::text(&format!("refused: {}", sent.detail)),
        (false, None) => show::text("sent; no member has the partition now, the next one follows it"),
    }
    match sent.event.as_deref() {
        Some("refused") => Err(Refused(sent.detail).into()),
        _ => Ok(()),
    }
}

async fn letters(config: &Config, asked: &ShowArgs) -> anyhow::Result<()> {
    let (settings, redaction, asked) = (config.kafka.clone(), config.redaction.clone(), asked.clone());
    let fingerprint = asked.fingerprint.map(Fingerprint::from);
    let look =
        move || records::letters(&settings, &redaction, &asked.topic, fingerprint.as_ref(), None, asked.limit as usize);
    let (letters, _) = tokio::task::spawn_blocking(look).await?.context("reading the letters")?;
    show::rows(config.json, &json!(letters), &["partition", "offset", "timestamp", "key", "fingerprint", "value"]);
    Ok(())
}

async fn editable(config: &Config, asked: &LetterArgs) -> anyhow::Result<()> {
    let place = (asked.partition, asked.offset);
    let letter = redrive::editable(&config.kafka, &config.redaction, &asked.topic, place).await.map_err(of_redrive)?;
    for (part, why) in &letter.left_out {
        tracing::warn!(?part, why, "left out; it can be replaced without being seen");
    }
    show::text(&serde_json::to_string_pretty(&letter.edit)?);
    Ok(())
}

/// Reads an edit from its file.
fn edit(path: &Path) -> anyhow::Result<Edit> {
    let refused = |why: String| Refused(format!("--edit {}: {why}", path.display()));
    let bytes = std::fs::metadata(path).map_err(|error| refused(error.to_string()))?.len();
    if bytes > 8 * EDIT_BYTES_MAX as u64 {
        return Err(refused(format!("{bytes} bytes hold more than may be edited")).into());
    }
    let text = std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    let edit: Edit = serde_json::from_str(&text).map_err(|error| refused(error.to_string()))?;
    edit.check().map_err(Refused)?;
    Ok(edit)
}

async fn begin(config: &Config, asked: &RedriveArgs) -> anyhow::Result<()> {
    let selection = match (&asked.fingerprint, asked.partition, asked.offset) {
        (Some(fingerprint), ..) => Selection::Fingerprint(fingerprint.clone().into()),
        (None, None, None) => Selection::of_places(asked.letter.iter().copied()).map_err(Refused)?,
        (None, partition, offset) => Selection::Letter {
            partition: partition.unwrap_or_default(),
            offset: offset.context("clap demands one or the other")?,
        },
    };
    let wanted = redrive::Wanted {
        dead_letter_topic: asked.topic.clone(),
        selection,
        rate_per_second: asked.rate,
        redrive_max: config.redrive_max,
        by: asked.why.by.clone(),
        reason: asked.why.reason.clone(),
        edit: asked.edit.as_deref().map(edit).transpose()?,
    };
    let redrive = redrive::begin(&config.kafka, wanted).await.map_err(of_redrive)?;
    if asked.dry_run {
        let counts = redrive::count(&config.kafka, redrive).await.map_err(of_redrive)?;
        show::text(&json!({"dry_run": true, "counts": counts}).to_string());
        return Ok(());
    }
    work(config, redrive, &asked.why.by, &asked.why.reason).await
}

async fn go_on(config: &Config, asked: &WhichArgs) -> anyhow::Result<()> {
    let redrive = redrive::last(&config.kafka, &asked.id).await.map_err(of_redrive)?;
    if redrive.state == RedriveState::Done {
        return Err(Refused(format!("{} is done", asked.id)).into());
    }
    work(config, redrive, &asked.why.by, &asked.why.reason).await
}

/// Works until it is done or a signal stops it.
async fn work(config: &Config, redrive: Redrive, by: &str, reason: &str) -> anyhow::Result<()> {
    let (stop, stopped) = mpsc::channel();
    let shutdown = shared::shutdown::on_signals();
    let who = by.to_owned();
    let listening = tokio::spawn(async move {
        shutdown.cancelled().await;
        let _ = stop.send(Stop { by: who, reason: "a signal".to_owned(), everywhere: false });
        // Dropping it would say the same once more.
        std::future::pending::<()>().await;
    });
    tracing::info!(id = redrive.id, "working on the redrive; Ctrl-C stops it");
    let (settings, by, reason) = (config.kafka.clone(), by.to_owned(), reason.to_owned());
    let ended = tokio::task::spawn_blocking(move || redrive::work(&settings, redrive, &by, &reason, &stopped)).await?;
    listening.abort();
    let redrive = ended.map_err(of_redrive)?;
    show::text(&json!(redrive.without_contents()).to_string());
    Ok(())
}
