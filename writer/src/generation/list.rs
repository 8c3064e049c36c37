//! `list`: what there is, and whether somebody feeds it.

use std::{collections::BTreeMap, process::ExitCode};

use serde::Serialize;

use super::{connect, ownership};
use crate::{
    config::Config,
    position::Topic,
    store::generation::{self, Generation},
};

/// One line of the answer; with `--json` an array of these.
#[derive(Debug, Serialize)]
struct Line {
    generation: i32,
    /// `building`, `ready`, `active` or `retired`.
    state: String,
    /// RFC 3339.
    created_at: String,
    /// Sites that it serves, or would.
    rows: i64,
    /// Records of the topic that it has not applied; null while the brokers or the topic are away.
    lag: Option<i64>,
}

pub(super) async fn list(config: &Config) -> anyhow::Result<ExitCode> {
    let mut connection = connect(config).await?;
    ownership(&mut connection).await?;
    let generations = Generation::all(&mut connection).await?;
    let ends = ends(config).await;
    let mut lines = Vec::with_capacity(generations.len());
    for Generation { generation, state, created_at, .. } in generations {
        let positions = generation::positions(&mut connection, generation, &config.topic).await?;
        let rows = generation::count_sites(&mut connection, generation).await?;
        let lag = ends.as_ref().map(|ends| generation::lag(&positions, ends));
        lines.push(Line { generation, state, created_at, rows, lag });
    }
    print(&lines, config.json)
}

/// The ends of the topic; without brokers the list is worth having all the same.
async fn ends(config: &Config) -> Option<BTreeMap<i32, (i64, i64)>> {
    if !config.kafka.contains_key("bootstrap.servers") {
        return None;
    }
    match Topic::ask(config).await.map(|topic| topic.ends) {
        // A partition whose broker does not tell would make the lag look smaller than it is.
        Ok(ends) if !ends.is_empty() && ends.values().all(Option::is_some) => {
            Some(ends.into_iter().filter_map(|(p, ends)| ends.map(|ends| (p, (ends.low, ends.high)))).collect())
        }
        Ok(_) => None,
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "the lag is not known");
            None
        }
    }
}

#[expect(clippy::print_stdout, reason = "a verb answers on standard output")]
fn print(lines: &[Line], json: bool) -> anyhow::Result<ExitCode> {
    if json {
        println!("{}", serde_json::to_string(lines)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:>10} {:<8} {:>12} {:>12}  created at", "generation", "state", "rows", "lag");
    for Line { generation, state, created_at, rows, lag } in lines {
        let lag = lag.map_or_else(|| "-".to_owned(), |lag| lag.to_string());
        println!("{generation:>10} {state:<8} {rows:>12} {lag:>12}  {created_at}");
    }
    Ok(ExitCode::SUCCESS)
}
