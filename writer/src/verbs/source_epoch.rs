//! `writer source-epoch raise`: source positions given from now on are not compared with those the view holds.

use serde::Serialize;

use super::{Refused, View, Why, by};
use crate::{
    config::Config,
    store::{Audit, Operation},
};

/// The answer.
#[derive(Debug, Serialize)]
struct Raised<'a> {
    topic: &'a str,
    generation: i32,
    source_epoch: i32,
}

/// Raises the source epoch of all partitions by one, above the highest, and answers with it. Called again before any record
/// has been applied under it, it answers the same.
pub async fn run(config: &Config, why: &Why) -> anyhow::Result<()> {
    let (mut view, by) = (View::open(config).await?, by());
    let generation = view.generation;
    let audit = Audit { action: "source-epoch raise", arguments: "", reason: &why.reason, by: &by };
    let mut operation = Operation::begin(&mut view.connection, generation, &config.topic).await?;
    let rows = operation.lock(None).await?;
    let Some(highest) = rows.iter().map(|row| row.source_epoch).max() else {
        let (topic, none) = (&config.topic, "no position yet, so it holds no source positions that could be too high");
        return Err(Refused(format!("generation {generation} has of topic {topic} {none}; check WRITER_TOPIC")).into());
    };
    let source_epoch = match operation.is_raised(audit).await? {
        true => highest,
        false => {
            operation.raise(highest + 1).await?;
            operation.commit(audit).await?;
            highest + 1
        }
    };
    print(&Raised { topic: &config.topic, generation, source_epoch }, config.json)
}

#[expect(clippy::print_stdout, reason = "a verb answers on standard output")]
fn print(raised: &Raised<'_>, json: bool) -> anyhow::Result<()> {
    match json {
        true => println!("{}", serde_json::to_string(raised)?),
        false => println!("source epoch {} of generation {}", raised.source_epoch, raised.generation),
    }
    Ok(())
}
