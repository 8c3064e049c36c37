//! The parts of one system, started in parallel where they can be and stopped in the order of the data's flow.

use std::collections::BTreeSet;
use std::future::Future;

use anyhow::{Context, Result, bail};

use crate::endpoints::{Endpoints, Pids};
use crate::failure::Failure;
use crate::imports::Imports;
use crate::options::{Options, Part};
use crate::place::{Place, write_whole};
use crate::postgres::View;
use crate::server::Server;
use crate::{artefacts, connect, kafka, postgres, prometheus, services};

/// A running system; everything in it is stopped and `endpoints.json` is removed on drop.
#[derive(Debug)]
pub struct Devstack {
    endpoints: Endpoints,
    servers: Servers,
    /// The server that a failover has ended, with its URL, until a new replica stands in its place.
    gone_primary: Option<(Server, String)>,
    // After the servers: the folder is let go when they have stopped.
    place: Place,
}

#[derive(Debug, Default)]
struct Servers {
    kafka: Option<Server>,
    view_primary: Option<Server>,
    /// In the order of their URLs.
    view_replicas: Vec<Server>,
    source: Option<Server>,
    connect: Option<Server>,
    writer: Option<Server>,
    reader: Option<Server>,
    relay: Option<Server>,
    jobs: Option<Server>,
    importer: Option<Server>,
    notifier: Option<Server>,
    console: Option<Server>,
    /// Prometheus, and before it the exporters that it scrapes.
    watchers: Vec<Server>,
}

impl Devstack {
    /// Starts the parts and returns when all are healthy and `endpoints.json` is written. An error names the part, the log
    /// and the way out; whatever had been started is gone then, as it is when the future is dropped.
    pub async fn start(options: Options) -> Result<Self> {
        let parts = options.closure();
        let place = Place::take(&options)?;
        artefacts::ensure(&sets(&parts), &options.cache_dir, &options.progress).await?;
        let (endpoints, servers) = (Endpoints::default(), Servers::default());
        let mut started = Self { endpoints, servers, gone_primary: None, place };
        match started.start_parts(&parts, &options).await {
            Ok(()) => Ok(started),
            Err(error) => Err(started.name_logs(error)),
        }
    }

    async fn start_parts(&mut self, parts: &BTreeSet<Part>, options: &Options) -> Result<()> {
        self.start_stores(parts, options).await?;
        self.start_movers(parts, options).await?;
        self.start_imports(parts, options).await?;
        self.start_watchers(parts, options).await?;
        self.tell()
    }

    /// An error that is no part's failure, and so quotes no log, gets the folder of all logs.
    pub(crate) fn name_logs(&self, error: anyhow::Error) -> anyhow::Error {
        if error.is::<Failure>() { error } else { error.context(format!("logs are in {}", self.logs().display())) }
    }

    fn tell(&mut self) -> Result<()> {
        self.endpoints.pids = self.servers.pids();
        write_whole(&self.place.endpoints_path(), &self.endpoints.to_json())
    }

    /// Where everything listens.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// The broker.
    pub fn kafka(&self) -> Option<&Server> {
        self.servers.kafka.as_ref()
    }

    /// The view's primary.
    pub fn view_primary(&self) -> Option<&Server> {
        self.servers.view_primary.as_ref()
    }

    /// The view's first replica.
    pub fn view_replica(&self) -> Option<&Server> {
        self.servers.view_replicas.first()
    }

    /// The view's replicas, in the order of their URLs.
    pub fn view_replicas(&self) -> &[Server] {
        &self.servers.view_replicas
    }

    /// Ends the view's primary as a crash would and promotes its first replica; from then on that one is the primary and no
    /// replica any more. What it had not received is lost. Further replicas stay as they are: they follow nobody.
    pub async fn fail_over(&mut self) -> Result<()> {
        if self.servers.view_primary.is_none() || self.servers.view_replicas.is_empty() {
            bail!("a failover takes a primary and a replica");
        }
        let promoted = (self.servers.view_replicas.remove(0), self.endpoints.view_replica_urls.remove(0));
        let primary = self.servers.view_primary.replace(promoted.0).context("a primary")?;
        primary.kill();
        let primary_url = self.endpoints.view_primary_url.replace(promoted.1).context("a primary has a URL")?;
        self.gone_primary = Some((primary, primary_url));
        self.tell()?;
        postgres::promote(self.endpoints.view_primary_url.as_deref().unwrap_or_default()).await
    }

    /// Makes a replica of the primary anew, in the place of the one that [`Self::fail_over`] ended; returns when it streams.
    pub async fn attach_replica(&mut self) -> Result<()> {
        let (gone, url) = self.gone_primary.take().context("a replica is attached after a failover")?;
        let primary_url = self.endpoints.view_primary_url.as_deref().context("a primary has a URL")?;
        self.servers.view_replicas.push(postgres::replace(&self.place, &gone, &url, primary_url).await?);
        self.endpoints.view_replica_urls.push(url);
        self.tell()
    }

    /// The source's Postgres.
    pub fn source(&self) -> Option<&Server> {
        self.servers.source.as_ref()
    }

    /// The Connect worker with Debezium.
    pub fn connect(&self) -> Option<&Server> {
        self.servers.connect.as_ref()
    }

    /// The writer.
    pub fn writer(&self) -> Option<&Server> {
        self.servers.writer.as_ref()
    }

    /// The reader.
    pub fn reader(&self) -> Option<&Server> {
        self.servers.reader.as_ref()
    }

    /// What takes files of contacts.
    pub fn jobs(&self) -> Option<&Server> {
        self.servers.jobs.as_ref()
    }

    /// What makes contacts of them.
    pub fn importer(&self) -> Option<&Server> {
        self.servers.importer.as_ref()
    }

    /// What tells browsers of it.
    pub fn notifier(&self) -> Option<&Server> {
        self.servers.notifier.as_ref()
    }

    /// The folder of all logs.
    pub fn logs(&self) -> std::path::PathBuf {
        self.place.logs()
    }

    /// The failure of a part that ended by itself, if one did.
    pub fn failure(&self) -> Option<Failure> {
        let ended = |server: &&Server| server.ended().is_some();
        let server = self.servers.all().find(ended)?;
        let status = server.ended()?;
        Some(server.failure(&format!("it ended by itself with {status}")).way_out("see the log, then start again"))
    }

    /// Kafka and the Postgres servers, which wait for nobody.
    async fn start_stores(&mut self, parts: &BTreeSet<Part>, options: &Options) -> Result<()> {
        let place = &self.place;
        let (kafka, view, source) = tokio::try_join!(
            wanted(parts, Part::Kafka, options, || kafka::start(place)),
            wanted(parts, Part::Postgres, options, || postgres::start_view(place, options.replicas)),
            wanted(parts, Part::Source, options, || postgres::start_source(place)),
        )?;
        (self.servers.kafka, self.endpoints.kafka) = kafka.unzip();
        (self.servers.source, self.endpoints.source_database_url) = source.unzip();
        if let Some(View { primary, primary_url, replicas }) = view {
            self.servers.view_primary = Some(primary);
            self.endpoints.view_primary_url = Some(primary_url);
            (self.servers.view_replicas, self.endpoints.view_replica_urls) = replicas.into_iter().unzip();
        }
        Ok(())
    }

    /// Connect, writer and reader, which move data between the stores.
    async fn start_movers(&mut self, parts: &BTreeSet<Part>, options: &Options) -> Result<()> {
        let (place, endpoints) = (&self.place, &self.endpoints);
        let (connect, services) =
            tokio::try_join!(wanted(parts, Part::Connect, options, || connect::start(place, endpoints)), async {
                if parts.contains(&Part::Writer) || parts.contains(&Part::Reader) {
                    services::prepare(place, endpoints).await?;
                }
                tokio::try_join!(
                    wanted(parts, Part::Writer, options, || services::start_writer(place, endpoints)),
                    wanted(parts, Part::Reader, options, || services::start_reader(place, endpoints)),
                )
            })?;
        let (writer, reader) = services;
        (self.servers.connect, self.endpoints.connect) = connect.unzip();
        (self.servers.writer, self.endpoints.writer_admin_url) = writer.unzip();
        if let Some((server, url, admin_url)) = reader {
            self.servers.reader = Some(server);
            self.endpoints.reader_url = Some(url);
            self.endpoints.reader_admin_url = Some(admin_url);
        }
        Ok(())
    }
}

impl Devstack {
    /// Jobs, importer and notifier; the topics are made by whichever comes first.
    async fn start_imports(&mut self, parts: &BTreeSet<Part>, options: &Options) -> Result<()> {
        if ![Part::Jobs, Part::Importer, Part::Notifier].iter().any(|part| parts.contains(part)) {
            return Ok(());
        }
        let imports = Imports::prepare(&self.place, &self.endpoints).await?;
        let imports = &imports;
        let start = |part| wanted(parts, part, options, move || imports.start(part));
        let (importer, notifier, jobs) =
            tokio::try_join!(start(Part::Importer), start(Part::Notifier), start(Part::Jobs))?;
        self.endpoints.contacts_database_url = imports.database_url();
        if let Some((server, _, admin_url)) = importer {
            self.servers.importer = Some(server);
            self.endpoints.importer_admin_url = Some(admin_url);
        }
        if let Some((server, url, admin_url)) = notifier {
            self.servers.notifier = Some(server);
            (self.endpoints.notifier_url, self.endpoints.notifier_admin_url) = (Some(url), Some(admin_url));
        }
        if let Some((server, url, admin_url)) = jobs {
            self.servers.jobs = Some(server);
            (self.endpoints.jobs_url, self.endpoints.jobs_admin_url) = (Some(url), Some(admin_url));
        }
        Ok(())
    }
}

impl Devstack {
    /// The relay, which reads what a writer made; then console, Prometheus and its exporters, which look at what runs.
    async fn start_watchers(&mut self, parts: &BTreeSet<Part>, options: &Options) -> Result<()> {
        let (place, endpoints) = (&self.place, &self.endpoints);
        let relay = wanted(parts, Part::Relay, options, || services::start_relay(place, endpoints)).await?;
        (self.servers.relay, self.endpoints.relay_admin_url) = relay.unzip();
        let (place, endpoints) = (&self.place, &self.endpoints);
        let console = wanted(parts, Part::Console, options, || services::start_console(place, endpoints)).await?;
        if let Some((server, url, admin_url)) = console {
            self.servers.console = Some(server);
            self.endpoints.console_url = Some(url);
            self.endpoints.console_admin_url = Some(admin_url);
        }
        let (place, endpoints) = (&self.place, &self.endpoints);
        let started = wanted(parts, Part::Prometheus, options, || prometheus::start(place, endpoints)).await?;
        if let Some((servers, url)) = started {
            self.servers.watchers = servers;
            self.endpoints.prometheus = Some(url);
        }
        Ok(())
    }
}

impl Drop for Devstack {
    fn drop(&mut self) {
        // Nobody should be told of addresses that are going away.
        let _ = std::fs::remove_file(self.place.endpoints_path());
        self.servers.stop();
    }
}

impl Servers {
    fn all(&self) -> impl Iterator<Item = &Server> {
        self.stop_order().into_iter().flatten().flatten()
    }

    /// Groups that can stop together: first who reads and writes the stores, the replicas before their primary.
    fn stop_order(&self) -> [Vec<Option<&Server>>; 4] {
        let mut stores = vec![self.kafka.as_ref(), self.source.as_ref()];
        stores.extend(self.view_replicas.iter().map(Some));
        [
            self.watchers.iter().map(Some).chain([self.console.as_ref()]).collect(),
            [&self.reader, &self.relay, &self.writer, &self.connect, &self.jobs, &self.importer, &self.notifier]
                .map(Option::as_ref)
                .to_vec(),
            stores,
            vec![self.view_primary.as_ref()],
        ]
    }

    fn stop(&self) {
        for group in self.stop_order() {
            std::thread::scope(|scope| {
                for server in group.into_iter().flatten() {
                    scope.spawn(|| server.stop());
                }
            });
        }
    }

    fn pids(&self) -> Pids {
        let pid = |server: &Option<Server>| server.as_ref().and_then(Server::pid);
        Pids {
            writer: pid(&self.writer).into_iter().collect(),
            reader: pid(&self.reader).into_iter().collect(),
            relay: pid(&self.relay),
            jobs: pid(&self.jobs).into_iter().collect(),
            importer: pid(&self.importer).into_iter().collect(),
            notifier: pid(&self.notifier).into_iter().collect(),
            console: pid(&self.console),
            kafka: pid(&self.kafka),
            connect: pid(&self.connect),
            view_primary: pid(&self.view_primary),
            view_replica: self.view_replicas.first().and_then(Server::pid),
            view_replicas: self.view_replicas.iter().filter_map(Server::pid).collect(),
            source: pid(&self.source),
        }
    }
}

/// The jars that the parts need.
fn sets(parts: &BTreeSet<Part>) -> Vec<artefacts::Set> {
    let kafka = parts.contains(&Part::Kafka).then_some(&[artefacts::KAFKA][..]);
    let connect = parts.contains(&Part::Connect).then_some(&[artefacts::CONNECT, artefacts::DEBEZIUM][..]);
    [kafka, connect].into_iter().flatten().flatten().copied().collect()
}

/// Starts a part when it is wanted; once more when somebody took its port between its choice and its use.
async fn wanted<T, F>(parts: &BTreeSet<Part>, part: Part, options: &Options, start: impl Fn() -> F) -> Result<Option<T>>
where
    F: Future<Output = Result<T>>,
{
    if !parts.contains(&part) {
        return Ok(None);
    }
    let name = part.name();
    let step = options.progress.spinner(&format!("{name}: starting"));
    let lost_its_port = |error: &anyhow::Error| error.downcast_ref().is_some_and(Failure::lost_its_port);
    let started = match start().await {
        Err(error) if lost_its_port(&error) => start().await,
        outcome => outcome,
    };
    // A failure names its part already.
    let named = |error: anyhow::Error| {
        if error.is::<Failure>() { error } else { error.context(format!("{name} did not start")) }
    };
    let started = started.map_err(named)?;
    step.done(&format!("{name}: ready"));
    Ok(Some(started))
}
