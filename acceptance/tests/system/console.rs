//! The console beside writers and readers: what it shows of the view is what their admin ports say, and who is away is away.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use acceptance::{Service, System, scenario};
use anyhow::{Context, Result, ensure};
use devstack::{bin_dir, eventually, free_port};
use reqwest::Client;
use serde_json::{Value, json};

use crate::{PARTITIONS, drained_history, servers};

const SHOWN_MAX: Duration = Duration::from_secs(60);

/// A console that runs; killed when it is dropped.
struct Console {
    child: Child,
    url: String,
    http: Client,
}

impl Console {
    fn start(system: &System, services: &[(&str, &str)]) -> Result<Self> {
        let kafka = servers()?.kafka.context("a broker")?;
        let (port, admin) = (free_port()?, free_port()?);
        let mut command = Command::new(bin_dir()?.join("console"));
        command.args(["--kafka-bootstrap-servers", &kafka, "--survey-interval", "200ms", "--rust-log", "warn"]);
        command.args(["--listen", &format!("127.0.0.1:{port}"), "--admin-listen", &format!("127.0.0.1:{admin}")]);
        command.args(["--only-groups", &system.group()]);
        for (name, url) in services {
            command.args(["--service", &format!("{name}={url}")]);
        }
        let child = command.stdin(Stdio::null()).spawn().context("console: cargo build --release --workspace")?;
        Ok(Self { child, url: format!("http://127.0.0.1:{port}"), http: Client::new() })
    }

    async fn get(&self, path: &str) -> Result<String> {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await?.error_for_status()?;
        Ok(answer.text().await?)
    }

    async fn overview(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.get("/v1/overview").await?)?)
    }

    /// Waits until what it shows is so.
    async fn until(&self, what: &str, mut holds: impl AsyncFnMut(&Value) -> Option<()>) -> Result<()> {
        let mut last = Value::Null;
        let seen = async || {
            last = self.overview().await.ok()?;
            holds(&last).await
        };
        let found = eventually(what, SHOWN_MAX, seen).await;
        found.with_context(|| format!("{} {} {}", last["generations"], last["replicas"], last["services"]))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A replica as the console must show it: what the reader says itself.
async fn told_by(reader: &Service, replica: &str) -> Option<Value> {
    let metric = async |name: &str| reader.metric(name, &[("replica", replica)]).await.ok().flatten();
    let healthy = metric("reader_replica_healthy").await? > 0.0;
    let (generation, lag) = (metric("reader_replica_generation").await, metric("reader_replica_lag_seconds").await);
    Some(
        json!({"reader": "reader", "replica": replica, "healthy": healthy, "generation": generation, "lag_seconds": lag}),
    )
}

/// Host and port, as replicas are named.
fn place(url: &str) -> &str {
    url.rsplit('@').next().and_then(|rest| rest.split('/').next()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_shows_generations_replicas_and_freshness_and_who_is_away() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        drained_history(system, 41, 300).await?;
        system.replica_caught_up().await?;
        let created = system.verb_of_owner(&["generation", "create"], &[])?;
        ensure!(created.code == Some(0) && created.answer["generation"] == 2, "{created:?}");
        let mut writer = system.writer(&[("WRITER_GENERATION", "1")])?;
        let url = system.reader_urls().into_iter().next().context("a replica")?;
        let (server, there) = (place(&url), format!("127.0.0.1:{}", free_port()?));
        let away = url.replace(server, &there);
        let mut reader = system.reader(&[("READER_DATABASE_URLS", &format!("{url},{away}"))])?;
        writer.ready().await?;
        reader.ready().await?;
        let nobody = format!("http://127.0.0.1:{}", free_port()?);
        let services = [("writer", writer.admin()), ("reader", reader.admin()), ("nobody", nobody.as_str())];
        let console = Console::start(system, &services)?;

        let (active, building) = (system.group(), format!("{}-g2", system.writer_group()));
        let expected = json!([
            {"generation": "1", "group": active, "state": "active", "told_by": ["writer"], "members": 1,
                "lag_records": 0, "lag_seconds": 0.0, "cause": "caught-up"},
            {"generation": "2", "group": building, "state": "building", "told_by": ["writer"], "members": 0,
                "lag_records": null, "lag_seconds": null, "cause": null},
        ]);
        console.until("both generations", async |all| (all["generations"] == expected).then_some(())).await?;
        let both = async |all: &Value| {
            let mut told = vec![told_by(&reader, server).await?, told_by(&reader, &there).await?];
            told.sort_by_key(|row| row["replica"].as_str().map(str::to_owned));
            let is_so = told.iter().any(|row| row["healthy"] == true && row["generation"] == 1.0);
            (is_so && all["replicas"] == json!(told)).then_some(())
        };
        console.until("both replicas, as the reader says", both).await?;
        let all = console.overview().await?;
        let replica = |name: &str| all["replicas"].as_array()?.iter().find(|row| row["replica"] == name);
        ensure!(replica(server).is_some_and(|row| row["healthy"] == true), "{}", all["replicas"]);
        ensure!(replica(server).and_then(|row| row["lag_seconds"].as_f64()) < Some(30.0), "{}", all["replicas"]);
        ensure!(replica(&there).is_some_and(|row| row["healthy"] == false), "{}", all["replicas"]);
        let page = console.get("/").await?;
        for shown in [
            "<td data-label=\"State\"><strong>building</strong></td>",
            ">nobody</span></td>",
            "can be asked",
            "<span class=\"bad\">cannot be asked</span>",
            "<h3>writer <small>ready</small></h3>",
            "<h3>nobody <small>no answer</small></h3>",
        ] {
            ensure!(page.contains(shown), "{shown}: {page}");
        }

        reader.kill()?;
        writer.kill()?;
        let are_away = async |all: &Value| {
            let services = all["services"].as_array()?;
            let is_away = |row: &Value| {
                row["ready"].is_null()
                    && row["detail"][0].as_str().is_some_and(|why| why.starts_with("does not answer"))
            };
            let nothing = json!([]);
            (services.iter().all(is_away) && all["generations"] == nothing && all["replicas"] == nothing).then_some(())
        };
        console.until("all are away, and nothing is told of the view", are_away).await?;
        let page = console.get("/").await?;
        for name in ["writer", "reader", "nobody"] {
            ensure!(page.contains(&format!("<h3>{name} <small>no answer</small></h3>")), "{name}: {page}");
        }
        Ok(())
    })
    .await
}
