//! The project's own services as child processes: binaries beside devstack's, configured by environment.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::connect::TOPIC;
use crate::endpoints::Endpoints;
use crate::failure::Failure;
use crate::options::PortName;
use crate::place::Place;
use crate::postgres::{self, VIEW_PRIMARY};
use crate::process::Launch;
use crate::server::{Ready, Server};

const MIGRATE_DEADLINE: Duration = Duration::from_secs(60);
const START_DEADLINE: Duration = Duration::from_secs(60);
/// The services promise to drain within 5 s.
const STOP_GRACE: Duration = Duration::from_secs(8);
/// The reader's login; it can only select.
const READER_LOGIN: &str = "reader";

/// Migrates the view and makes the reader's login, a member of `siteview_reader` and nothing else.
pub(crate) async fn prepare(place: &Place, endpoints: &Endpoints) -> Result<()> {
    let primary_url = endpoints.view_primary_url.as_deref().context("the services need postgres")?;
    launch(place, "writer", "writer-migrate")?
        .args(["migrate"])
        .env("DATABASE_URL", primary_url)
        .run("`writer migrate`", MIGRATE_DEADLINE)
        .await?;
    let password = password_of(primary_url)?;
    let login = format!("create role {READER_LOGIN} login password '{password}' in role siteview_reader");
    postgres::execute(place, VIEW_PRIMARY, primary_url, "the reader's login can't be made", &login).await
}

/// Starts a writer. Returns it with the address of its admin port.
pub(crate) async fn start_writer(place: &Place, endpoints: &Endpoints) -> Result<(Server, String)> {
    let admin = format!("127.0.0.1:{}", place.ports.get(PortName::WriterAdmin)?);
    let launch = launch(place, "writer", "writer")?
        .env("KAFKA_BOOTSTRAP_SERVERS", endpoints.kafka.as_deref().context("the writer needs kafka")?)
        .env("DATABASE_URL", endpoints.view_primary_url.as_deref().context("the writer needs postgres")?)
        .env("WRITER_TOPIC", TOPIC)
        .env("WRITER_ADMIN_LISTEN", &admin);
    let server = ready_server(launch, &admin);
    // A topic that is not there yet keeps a writer from being ready; without Connect nobody makes it.
    let kafka = endpoints.kafka.as_deref().context("the writer needs kafka")?;
    crate::connect::create_source_topic(place, kafka).await?;
    server.start().await?;
    Ok((server, format!("http://{admin}")))
}

/// Starts a reader. Returns it with its address and that of its admin port.
pub(crate) async fn start_reader(place: &Place, endpoints: &Endpoints) -> Result<(Server, String, String)> {
    let listen = format!("127.0.0.1:{}", place.ports.get(PortName::Reader)?);
    let admin = format!("127.0.0.1:{}", place.ports.get(PortName::ReaderAdmin)?);
    let replicas =
        endpoints.view_replica_urls.iter().map(|url| url.replacen("//postgres:", &format!("//{READER_LOGIN}:"), 1));
    let launch = launch(place, "reader", "reader")?
        .env("READER_DATABASE_URLS", replicas.collect::<Vec<_>>().join(","))
        .env("READER_LISTEN", &listen)
        .env("READER_ADMIN_LISTEN", &admin);
    let server = ready_server(launch, &admin);
    server.start().await?;
    Ok((server, format!("http://{listen}"), format!("http://{admin}")))
}

/// Starts a relay over the primary. Returns it with the address of its admin port.
pub(crate) async fn start_relay(place: &Place, endpoints: &Endpoints) -> Result<(Server, String)> {
    let admin = format!("127.0.0.1:{}", place.ports.get(PortName::RelayAdmin)?);
    let launch = launch(place, "writer", "relay")?
        .args(["relay"])
        .env("KAFKA_BOOTSTRAP_SERVERS", endpoints.kafka.as_deref().context("the relay needs kafka")?)
        .env("DATABASE_URL", endpoints.view_primary_url.as_deref().context("the relay needs postgres")?)
        .env("WRITER_TOPIC", TOPIC)
        .env("WRITER_ADMIN_LISTEN", &admin);
    let server = ready_server(launch, &admin);
    server.start().await?;
    Ok((server, format!("http://{admin}")))
}

/// Starts a console that is told of the services that run. Returns it with its address and that of its admin port.
pub(crate) async fn start_console(place: &Place, endpoints: &Endpoints) -> Result<(Server, String, String)> {
    let listen = format!("127.0.0.1:{}", place.ports.get(PortName::Console)?);
    let admin = format!("127.0.0.1:{}", place.ports.get(PortName::ConsoleAdmin)?);
    let services = [
        ("writer", &endpoints.writer_admin_url),
        ("relay", &endpoints.relay_admin_url),
        ("reader", &endpoints.reader_admin_url),
        ("jobs", &endpoints.jobs_admin_url),
        ("importer", &endpoints.importer_admin_url),
        ("notifier", &endpoints.notifier_admin_url),
    ];
    let services = services.iter().filter_map(|(name, url)| Some(format!("{name}={}", url.as_deref()?)));
    let launch = launch(place, "console", "console")?
        .env("KAFKA_BOOTSTRAP_SERVERS", endpoints.kafka.as_deref().context("the console needs kafka")?)
        .env("CONSOLE_SERVICE", services.collect::<Vec<_>>().join(","))
        .env("CONSOLE_LISTEN", &listen)
        .env("CONSOLE_ADMIN_LISTEN", &admin);
    let server = ready_server(launch, &admin);
    server.start().await?;
    Ok((server, format!("http://{listen}"), format!("http://{admin}")))
}

pub(crate) fn ready_server(launch: Launch, admin: &str) -> Server {
    let ready = Ready::Http(format!("http://{admin}/readyz"));
    Server::new(launch, ready, START_DEADLINE, (Signal::SIGTERM, STOP_GRACE))
}

/// The user's environment passes (`RUST_LOG` and the like); what devstack sets wins.
pub(crate) fn launch(place: &Place, binary: &str, name: &str) -> Result<Launch> {
    let path: PathBuf = place.bin_dir.join(binary);
    if !path.exists() {
        let missing = Failure::new(name, format!("{} is missing", path.display()));
        return Err(missing.way_out("cargo build --release --workspace").into());
    }
    Ok(Launch::new(name, path, &place.logs(), &place.log(name)).inherit_env())
}

fn password_of(url: &str) -> Result<String> {
    let config: tokio_postgres::Config = url.parse()?;
    Ok(String::from_utf8_lossy(config.get_password().context("the URL has a password")?).into_owned())
}
