//! Prometheus with the configuration and the alerts of `deploy/observe`, scraping what runs beside it.
//!
//! The services are scraped as they are; Postgres and Kafka by exporters, where those are on the `PATH`. Only the files of
//! targets are devstack's own.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::doctor::Tool;
use crate::endpoints::Endpoints;
use crate::options::{PortName, tool};
use crate::place::Place;
use crate::ports::free_port;
use crate::process::Launch;
use crate::server::{Ready, Server};

const CONFIG: &str = include_str!("../../deploy/observe/prometheus.yml");
const ALERTS: &str = include_str!("../../deploy/observe/alerts.yml");
const PROMETHEUS: &str = "prometheus";
/// As Debian names it, and as its project does.
const POSTGRES_EXPORTER: [&str; 2] = ["prometheus-postgres-exporter", "postgres_exporter"];
const KAFKA_EXPORTER: &str = "kafka_exporter";
const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Whether this machine has it.
pub(crate) fn is_installed() -> bool {
    tool(PROMETHEUS).is_some()
}

/// Starts exporters and Prometheus. Returns all of them, Prometheus first, and its address.
pub(crate) async fn start(place: &Place, endpoints: &Endpoints) -> Result<(Vec<Server>, String)> {
    let dir = place.fresh_dir(PROMETHEUS)?;
    let (postgres, kafka) = (postgres_exporters(place, endpoints)?, kafka_exporter(place, endpoints)?);
    let targets = dir.join("targets");
    fs::create_dir(&targets)?;
    for (job, url) in services(endpoints) {
        write_targets(&targets, job, url.iter().map(|url| host_of(url)))?;
    }
    write_targets(&targets, "postgres", postgres.iter().map(|(_, address)| address.as_str()))?;
    write_targets(&targets, "kafka", kafka.iter().map(|(_, address)| address.as_str()))?;
    fs::write(dir.join("prometheus.yml"), CONFIG)?;
    fs::write(dir.join("alerts.yml"), ALERTS)?;

    let address = format!("127.0.0.1:{}", place.ports.get(PortName::Prometheus)?);
    let program = tool(PROMETHEUS).ok_or_else(|| Tool::Prometheus.missing(PROMETHEUS))?;
    let launch = Launch::new(PROMETHEUS, program, &dir, &place.log(PROMETHEUS)).args([
        "--config.file=prometheus.yml".to_owned(),
        "--storage.tsdb.path=data".to_owned(),
        format!("--web.listen-address={address}"),
    ]);
    let mut servers = vec![server(launch, format!("http://{address}/-/ready"))];
    servers.extend(postgres.into_iter().chain(kafka).map(|(server, _)| server));
    for server in &servers {
        server.start().await?;
    }
    Ok((servers, format!("http://{address}")))
}

/// One for the view's primary and one for the source, whose slot is what fills a disk.
fn postgres_exporters(place: &Place, endpoints: &Endpoints) -> Result<Vec<(Server, String)>> {
    let Some(program) = POSTGRES_EXPORTER.into_iter().find_map(tool) else {
        return Ok(Vec::new());
    };
    let databases = [("view-primary", &endpoints.view_primary_url), ("source", &endpoints.source_database_url)];
    let exporters = databases.into_iter().filter_map(|(name, url)| Some((name, url.as_deref()?)));
    let exporter = |(database, url): (&str, &str)| {
        let (name, address) = (format!("postgres-exporter-{database}"), format!("127.0.0.1:{}", free_port()?));
        let launch = Launch::new(&name, &program, &place.logs(), &place.log(&name))
            .args([format!("--web.listen-address={address}")])
            .env("DATA_SOURCE_NAME", format!("{url}?sslmode=disable"));
        Ok((server(launch, format!("http://{address}/metrics")), address))
    };
    exporters.map(exporter).collect()
}

fn kafka_exporter(place: &Place, endpoints: &Endpoints) -> Result<Option<(Server, String)>> {
    let (Some(program), Some(kafka)) = (tool(KAFKA_EXPORTER), endpoints.kafka.as_deref()) else {
        return Ok(None);
    };
    let address = format!("127.0.0.1:{}", free_port()?);
    let launch = Launch::new(KAFKA_EXPORTER, program, &place.logs(), &place.log(KAFKA_EXPORTER))
        .args([format!("--kafka.server={kafka}"), format!("--web.listen-address={address}")]);
    Ok(Some((server(launch, format!("http://{address}/metrics")), address)))
}

/// The services by the names of their jobs, with their admin ports.
fn services(endpoints: &Endpoints) -> [(&'static str, &Option<String>); 7] {
    [
        ("writer", &endpoints.writer_admin_url),
        ("reader", &endpoints.reader_admin_url),
        ("relay", &endpoints.relay_admin_url),
        ("console", &endpoints.console_admin_url),
        ("jobs", &endpoints.jobs_admin_url),
        ("importer", &endpoints.importer_admin_url),
        ("notifier", &endpoints.notifier_admin_url),
    ]
}

fn server(launch: Launch, ready_url: String) -> Server {
    Server::new(launch, Ready::Http(ready_url), START_DEADLINE, (Signal::SIGTERM, STOP_GRACE))
}

fn write_targets<'a>(dir: &Path, job: &str, addresses: impl Iterator<Item = &'a str>) -> Result<()> {
    let targets: Vec<&str> = addresses.collect();
    Ok(fs::write(dir.join(format!("{job}.json")), json!([{ "targets": targets }]).to_string())?)
}

fn host_of(url: &str) -> &str {
    url.trim_start_matches("http://")
}
