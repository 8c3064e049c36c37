//! No replica is fresh enough, or none is there: who answers then, and who says that nobody can.

use acceptance::{Service, rising, scenario};
use anyhow::{Context, Result, ensure};
use reqwest::{Response, StatusCode};
use serde_json::Value;

use super::{NOTICED_MAX, PARTITIONS, READER, Stage, stack};

/// Requests in a row that must all be answered alike.
const ASKED: usize = 50;

/// A look-up, and the change feed by poll.
const PATHS: [&str; 2] = ["/v1/sites/rising-0/installed-apps", "/v1/changes"];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn where_no_replica_may_answer_it_is_said_or_the_primary_stands_in() -> Result<()> {
    let stack = stack("no-replica").await?;
    scenario(stack.endpoints(), PARTITIONS, async |system| {
        system.topic().produce(&rising(PARTITIONS, 1))?;
        // It moves the positions while nothing happens.
        let mut writer = system.writer(&[])?;
        writer.ready().await?;
        system.drained().await?;
        system.replica_caught_up().await?;
        let primary = system.reader_url_of_primary();
        let (bound, fallback) = (("READER_STALENESS_MAX", "1s"), ("READER_FALLBACK_DATABASE_URL", primary.as_str()));
        let mut reader = system.reader(&READER)?;
        let mut strict = system.reader(&[&READER[..], &[bound]].concat())?;
        let mut backed = system.reader(&[&READER[..], &[bound, fallback]].concat())?;
        for reader in [&mut reader, &mut strict, &mut backed] {
            reader.ready().await?;
        }
        let stage = Stage { stack: &stack, system, reader: &reader };
        stage.whole().await?;
        stage.all_too_stale(&strict, &backed).await.context("all are too stale")?;
        stage.none_there(&backed).await.context("none is there")
    })
    .await
}

impl Stage<'_> {
    /// Both stand still: who has a bound says that nobody may answer, or asks the primary if he knows it; who has none
    /// answers and says how stale that is.
    async fn all_too_stale(&self, strict: &Service, backed: &Service) -> Result<()> {
        let replicas = [self.system.replica_number(0).await?, self.system.replica_number(1).await?];
        answers_fresh(strict).await?;
        for replica in &replicas {
            replica.execute("select pg_wal_replay_pause()", &[]).await?;
        }
        let why = strict.condition("database", false, NOTICED_MAX).await?;
        ensure!(why.matches("too much to answer").count() == replicas.len(), "{why}");
        for index in 0..replicas.len() {
            self.told(index, |told| told.contains("behind by")).await?;
            self.with(backed).told(index, |told| told.contains("too much to answer")).await?;
        }
        for _ in 0..ASKED {
            refuses(strict).await?;
            answers_fresh(backed).await?;
            for path in PATHS {
                let answer = ask(self.reader, path).await?.error_for_status()?;
                let staleness = answer.headers().get("projection-staleness").context("it says that it is stale")?;
                ensure!(staleness.to_str()?.parse::<u64>()? >= 1, "{path}: {staleness:?}");
            }
        }
        for replica in &replicas {
            replica.execute("select pg_wal_replay_resume()", &[]).await?;
        }
        strict.condition("database", true, NOTICED_MAX).await?;
        self.whole().await?;
        answers_fresh(strict).await
    }

    /// The same with another reader.
    fn with<'r>(&'r self, reader: &'r Service) -> Stage<'r> {
        Stage { reader, ..*self }
    }

    /// Both are down: who knows the primary asks it, and nobody else answers.
    async fn none_there(&self, backed: &Service) -> Result<()> {
        self.with(backed).whole().await?;
        for replica in self.stack.view_replicas() {
            replica.kill();
        }
        self.reader.condition("database", false, NOTICED_MAX).await?;
        for index in 0..self.stack.view_replicas().len() {
            self.with(backed).told(index, |told| !told.is_empty()).await?;
        }
        for _ in 0..ASKED {
            refuses(self.reader).await?;
            answers_fresh(backed).await?;
        }
        for replica in self.stack.view_replicas() {
            replica.start().await?;
        }
        self.whole().await?;
        answers_fresh(self.reader).await
    }
}

async fn ask(reader: &Service, path: &str) -> Result<Response> {
    let request = reqwest::Client::new().get(format!("{}{path}", reader.url()));
    Ok(request.header("accept", "application/json").send().await?)
}

async fn answers_fresh(reader: &Service) -> Result<()> {
    for path in PATHS {
        let answer = ask(reader, path).await?;
        let is_stale = answer.headers().contains_key("projection-staleness");
        ensure!(answer.status() == StatusCode::OK && !is_stale, "{path}: {answer:?}");
    }
    let document: Value = ask(reader, PATHS[0]).await?.json().await?;
    ensure!(document["site_id"] == "rising-0" && document["version"] == 1, "{document}");
    Ok(())
}

/// 503, with the problem that says that no replica is there, and when to come back.
async fn refuses(reader: &Service) -> Result<()> {
    for path in PATHS {
        let answer = ask(reader, path).await?;
        let again = answer.headers().get("retry-after").cloned();
        let (status, problem) = (answer.status(), answer.json::<Value>().await?);
        let is_refused = status == StatusCode::SERVICE_UNAVAILABLE && problem["type"] == "/problems/no-replica";
        ensure!(is_refused, "{path}: {status} {problem}");
        let seconds: u64 = again.context("it says when to come back")?.to_str()?.parse()?;
        ensure!(seconds >= 1, "come back after {seconds} s");
    }
    Ok(())
}
