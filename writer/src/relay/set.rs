//! `writer relay set`: where the relay goes on, by an operator's decision.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use messaging::relay::set_positions;
use serde::Serialize;
use serde_json::json;
use shared::process::Refused;

use super::source::{earliest, latest, positions};
use crate::{
    config::Config,
    store::{change_log::ChangeLog, generation::audit},
    verbs::Why,
};

/// How long the brokers may take; a predecessor's open transaction ends within it.
const KAFKA_MAX: Duration = Duration::from_secs(30);

/// Arguments of `relay set`.
#[derive(Debug, Clone, Args)]
pub struct SetArgs {
    /// `floor`: the oldest change that the log keeps; events may come twice. `end`: behind all there are; events may be missing
    #[arg(long, value_name = "PLACE")]
    pub to: PlaceArg,
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub why: Why,
}

/// Where to go on.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum PlaceArg {
    /// The oldest change that is kept.
    Floor,
    /// Behind the newest change.
    End,
}

/// The answer.
#[derive(Debug, Serialize)]
struct Set<'a> {
    topic: &'a str,
    group: &'a str,
    generation: i32,
    next_offsets: BTreeMap<i32, i64>,
}

/// Sets the positions of all partitions and answers with them. The audit row comes first: after a kill in between it tells of what
/// the same call, given again, does.
pub async fn run(config: &Config, args: &SetArgs) -> anyhow::Result<()> {
    let mut log = ChangeLog::new(config.database.clone().disable_statement_logging(), &config.topic);
    let (served, ends) = log.ends().await?;
    if ends.is_empty() {
        let why = format!("the view has no position of topic {}; check WRITER_TOPIC, or start a writer", config.topic);
        return Err(Refused(why).into());
    }
    let (word, places) = match args.to {
        PlaceArg::Floor => ("floor", earliest(&ends)),
        PlaceArg::End => ("end", latest(&ends)),
    };
    let positions = positions(served, &places);
    let next_offsets = positions.iter().map(|(partition, position)| (*partition, position.next_offset)).collect();
    let set =
        Set { topic: &config.relay.topic, group: &config.relay.group, generation: served.generation, next_offsets };
    let detail = json!({"arguments": format!("--to {word}"), "by": crate::process_name(), "after": &set});
    let mut connection =
        config.database.connect().await.context("siteview.audit wants a DATABASE_URL that takes writes")?;
    audit(&mut connection, "relay set", &args.why.reason, &detail).await?;
    let kafka = tokio::time::timeout(KAFKA_MAX, set_positions(&config.kafka, &config.relay, positions)).await;
    kafka.context("the brokers do not answer; nothing was set")??;
    print(&set, config.json)
}

#[expect(clippy::print_stdout, reason = "a verb answers on standard output")]
fn print(set: &Set<'_>, json: bool) -> anyhow::Result<()> {
    match json {
        true => println!("{}", serde_json::to_string(set)?),
        false => {
            println!("the relay to {} goes on in generation {}:", set.topic, set.generation);
            set.next_offsets.iter().for_each(|(partition, offset)| println!("partition {partition}: offset {offset}"));
        }
    }
    Ok(())
}
