//! One test's own system on the shared servers: topic, group, database, logins, processes.

mod verbs;
mod watch;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use devstack::{Endpoints, bin_dir, free_port, postgres, target_dir};
use serde_json::Value;

use crate::kafka::Topic;
use crate::service::Service;

pub use verbs::{Ended, Outcome, Started};
pub use watch::{Position, Session};

/// A member that dies is missed after so long; the shorter, the faster the tests.
const SESSION: [(&str, &str); 2] = [("session.timeout.ms", "4000"), ("heartbeat.interval.ms", "500")];

/// Names, addresses and logins of one test.
#[derive(Debug)]
pub struct System {
    folder: PathBuf,
    tag: String,
    topic: Topic,
    group: String,
    kafka: String,
    primary_url: String,
    /// One at least.
    replica_urls: Vec<String>,
    started: Cell<u32>,
}

/// Runs one test on a system of its own, with a topic and a migrated database. When it fails, the error names the folder
/// of the logs, which stays; else the folder goes.
pub async fn scenario(
    endpoints: &Endpoints,
    partitions: i32,
    body: impl AsyncFnOnce(&System) -> Result<()>,
) -> Result<()> {
    let system = System::new(endpoints, partitions).await?;
    let prepared = async {
        system.topic.create().await?;
        system.create_database().await?;
        system.migrate().await
    };
    let outcome = match prepared.await {
        Ok(()) => body(&system).await,
        Err(error) => Err(error),
    };
    system.end(outcome)
}

/// As [`scenario`], on a topic that somebody else fills.
pub async fn scenario_on(
    endpoints: &Endpoints,
    topic: &str,
    partitions: i32,
    body: impl AsyncFnOnce(&System) -> Result<()>,
) -> Result<()> {
    let mut system = System::new(endpoints, partitions).await?;
    system.topic = Topic::new(&system.kafka, topic, partitions);
    let prepared = async {
        system.create_database().await?;
        system.migrate().await
    };
    let outcome = match prepared.await {
        Ok(()) => body(&system).await,
        Err(error) => Err(error),
    };
    system.end(outcome)
}

impl System {
    /// Chooses names and makes the logins; topic and database do not exist yet.
    pub async fn new(endpoints: &Endpoints, partitions: i32) -> Result<Self> {
        let test = std::thread::current().name().unwrap_or("test").replace("::", ".");
        let tag = format!("{:08x}", rand::random::<u32>());
        let folder = target_dir()?.join("acceptance").join(format!("{test}-{tag}"));
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let kafka = endpoints.kafka.clone().context("a broker")?;
        let (topic, database) = (format!("acceptance-{tag}.public.meta_site"), format!("acceptance_{tag}"));
        let primary_url = endpoints.view_primary_url.as_deref().context("a primary")?;
        ensure!(!endpoints.view_replica_urls.is_empty(), "a replica");
        let system = Self {
            folder,
            topic: Topic::new(&kafka, &topic, partitions),
            group: format!("acceptance-{tag}"),
            kafka,
            primary_url: with_database(primary_url, &database),
            replica_urls: endpoints.view_replica_urls.iter().map(|url| with_database(url, &database)).collect(),
            started: Cell::new(0),
            tag,
        };
        let server = postgres::client(primary_url).await?;
        for login in ["writer", "reader"] {
            let name = system.login(login);
            server.batch_execute(&format!("create role {name} login password '{name}'")).await?;
        }
        Ok(system)
    }

    /// Ends the test: adds the place of the logs to its error, or removes them.
    pub fn end(self, outcome: Result<()>) -> Result<()> {
        let named = || format!("topic {}, logs in {}", self.topic.name(), self.folder.display());
        outcome.with_context(named)?;
        Ok(fs::remove_dir_all(&self.folder)?)
    }

    /// The topic.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The topic of the dead letters; a writer may still have to create it.
    pub fn dead_letter_topic(&self) -> Topic {
        self.topic.named(&format!("{}-{}-dlq", self.topic.name(), self.group))
    }

    /// What `WRITER_GROUP` is.
    pub fn writer_group(&self) -> &str {
        &self.group
    }

    /// Writes a file that goes with the test; gives its path.
    pub fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.folder.join(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    /// The consumer group of the first generation.
    pub fn group(&self) -> String {
        format!("{}-g1", self.group)
    }

    /// Makes the database, empty.
    pub async fn create_database(&self) -> Result<()> {
        let (server, database) = self.primary_url.rsplit_once('/').context("a URL names a database")?;
        let client = postgres::client(&format!("{server}/postgres")).await?;
        Ok(client.batch_execute(&format!("create database {database}")).await?)
    }

    /// Runs `writer migrate` as the superuser, and lets the logins into the roles that it made.
    pub async fn migrate(&self) -> Result<()> {
        let env = [("DATABASE_URL", self.primary_url.as_str())];
        self.writer_verb(&["migrate"], &env)?;
        self.let_logins_in().await
    }

    /// Lets the logins of the test into the roles of the view.
    pub async fn let_logins_in(&self) -> Result<()> {
        let client = self.primary().await?;
        for login in ["writer", "reader"] {
            client.batch_execute(&format!("grant siteview_{login} to {}", self.login(login))).await?;
        }
        Ok(())
    }

    /// The folder of this test's logs and files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A login that owns the database and has no other right. Gives its URL.
    pub async fn owner_login(&self) -> Result<String> {
        let (login, (_, database)) = (self.login("owner"), self.primary_url.rsplit_once('/').context("a database")?);
        let make = format!("create role {login} login password '{login}'; alter database {database} owner to {login}");
        self.primary().await?.batch_execute(&make).await?;
        Ok(with_login(&self.primary_url, &login))
    }

    /// Another login in the writer's role, so that `pg_stat_activity` tells whose session it is. Gives name and URL.
    pub async fn writer_login(&self, name: &str) -> Result<(String, String)> {
        let login = self.login(name);
        let create = format!("create role {login} login password '{login}' in role siteview_writer");
        self.primary().await?.batch_execute(&create).await?;
        let url = with_login(&self.primary_url, &login);
        Ok((login, url))
    }

    /// Starts a writer; returns before it is ready. `env` goes over the test's own settings.
    pub fn writer(&self, env: &[(&str, &str)]) -> Result<Service> {
        self.writer_in_session(env, &[])
    }

    /// As [`Self::writer`], with further client properties (a static membership, another session).
    pub fn writer_in_session(&self, env: &[(&str, &str)], properties: &[(&str, &str)]) -> Result<Service> {
        // Under KIP-848 the session's limits are the broker's.
        let session = if properties.iter().any(|(key, _)| *key == "group.protocol") { &[][..] } else { &SESSION };
        self.writer_with_properties(env, &[session, properties].concat())
    }

    /// As [`Self::writer`], with these client properties and no other.
    pub fn writer_with_properties(&self, env: &[(&str, &str)], properties: &[(&str, &str)]) -> Result<Service> {
        self.writer_process("writer", &[], env, properties)
    }

    /// Starts `writer relay` into the topic of [`Self::relay_topic`]; returns before it is ready.
    pub fn relay(&self, env: &[(&str, &str)]) -> Result<Service> {
        self.writer_process("relay", &["relay"], env, &[])
    }

    /// The topic of the relays; one of them may still have to create it.
    pub fn relay_topic(&self) -> Topic {
        self.topic.named(&format!("{}-changed", self.topic.name()))
    }

    fn writer_process(
        &self,
        kind: &str,
        arguments: &[&str],
        env: &[(&str, &str)],
        properties: &[(&str, &str)],
    ) -> Result<Service> {
        let (name, admin_port) = (self.next_name(kind), free_port()?);
        let properties = properties.iter().map(|(key, value)| format!("{key}={value}\n"));
        let file = self.folder.join(format!("{name}.properties"));
        fs::write(&file, properties.collect::<String>())?;
        let mut environment = self.writer_environment(env);
        environment.insert("KAFKA_PROPERTIES_FILE".to_owned(), file.display().to_string());
        environment.insert("WRITER_ADMIN_LISTEN".to_owned(), format!("127.0.0.1:{admin_port}"));
        let binary = bin_dir()?.join("writer");
        Service::start(&name, (&binary, arguments), &self.folder, &environment, admin_port, None)
    }

    /// The primary's URL for the writer's login, as writers have it.
    pub fn writer_url(&self) -> String {
        with_login(&self.primary_url, &self.login("writer"))
    }

    /// The primary's URL for the reader's login, for a reader that falls back to it.
    pub fn reader_url_of_primary(&self) -> String {
        with_login(&self.primary_url, &self.login("reader"))
    }

    /// The replicas' URLs for the reader's login, in the order of the devstack's.
    pub fn reader_urls(&self) -> Vec<String> {
        self.replica_urls.iter().map(|url| with_login(url, &self.login("reader"))).collect()
    }

    /// Replica and primary as `READER_DATABASE_URLS` takes them: a reader over two databases.
    pub fn reader_urls_of_both(&self) -> String {
        format!("{},{}", with_login(&self.replica_urls[0], &self.login("reader")), self.reader_url_of_primary())
    }

    /// Starts a reader on all replicas; returns before it is ready.
    pub fn reader(&self, env: &[(&str, &str)]) -> Result<Service> {
        let (name, admin_port, port) = (self.next_name("reader"), free_port()?, free_port()?);
        let own = [
            ("READER_LISTEN", format!("127.0.0.1:{port}")),
            ("READER_ADMIN_LISTEN", format!("127.0.0.1:{admin_port}")),
            ("READER_DATABASE_URLS", self.reader_urls().join(",")),
        ];
        let environment = environment(own, env);
        let binary = bin_dir()?.join("reader");
        Service::start(&name, (&binary, &[]), &self.folder, &environment, admin_port, Some(port))
    }

    /// What `writer position --json` says, by partition.
    pub fn writer_position(&self) -> Result<BTreeMap<i32, Value>> {
        self.writer_position_of(self.topic.name())
    }

    /// As [`Self::writer_position`], of another topic than the test's own.
    pub fn writer_position_of(&self, topic: &str) -> Result<BTreeMap<i32, Value>> {
        let answer = self.writer_verb(&["position", "--json"], &[("WRITER_TOPIC", topic)])?;
        let lines: Vec<Value> = serde_json::from_str(&answer).with_context(|| answer.clone())?;
        let partition = |line: &Value| line["partition"].as_i64().and_then(|partition| i32::try_from(partition).ok());
        lines.into_iter().map(|line| Ok((partition(&line).context("a line names its partition")?, line))).collect()
    }

    fn login(&self, name: &str) -> String {
        format!("{name}_{}", self.tag)
    }

    fn next_name(&self, binary: &str) -> String {
        self.started.set(self.started.get() + 1);
        format!("{binary}-{}", self.started.get())
    }

    fn writer_environment(&self, over: &[(&str, &str)]) -> BTreeMap<String, String> {
        let own = [
            ("KAFKA_BOOTSTRAP_SERVERS", self.kafka.clone()),
            ("DATABASE_URL", self.writer_url()),
            ("WRITER_TOPIC", self.topic.name().to_owned()),
            ("WRITER_GROUP", self.group.clone()),
            ("WRITER_RELAY_TOPIC", self.relay_topic().name().to_owned()),
        ];
        environment(own, over)
    }

    /// A verb of the writer, to be run as operators do.
    pub fn writer_command(&self, arguments: &[&str], env: &[(&str, &str)]) -> Result<Command> {
        let mut command = Command::new(bin_dir()?.join("writer"));
        command.args(arguments).env_clear().envs(self.writer_environment(env)).current_dir(&self.folder);
        Ok(command)
    }

    /// Runs a verb that must succeed; gives the JSON that it answers.
    pub fn operate(&self, arguments: &[&str]) -> Result<Value> {
        let answer = self.writer_verb(&[arguments, &["--json"]].concat(), &[])?;
        serde_json::from_str(&answer).with_context(|| format!("writer {arguments:?} answers {answer}"))
    }

    /// Runs a verb that must be refused as bad usage; gives what it says.
    pub fn refused(&self, arguments: &[&str]) -> Result<String> {
        let output = self.writer_command(arguments, &[])?.output()?;
        let said = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(2), "writer {arguments:?} ended with {}: {said}", output.status);
        ensure!(output.stdout.is_empty(), "a refusal answers nothing on standard output");
        Ok(said)
    }

    /// Runs a verb to its end and gives its standard output.
    fn writer_verb(&self, arguments: &[&str], env: &[(&str, &str)]) -> Result<String> {
        let mut command = self.writer_command(arguments, env)?;
        let output = command.output().context("writer: cargo build --release --workspace")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "writer {arguments:?} ended with {}: {said}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    }
}

fn environment<const N: usize>(own: [(&str, String); N], over: &[(&str, &str)]) -> BTreeMap<String, String> {
    let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
    own.chain(over.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).collect()
}

/// The URL of another database on the same server.
fn with_database(url: &str, database: &str) -> String {
    let (server, _) = url.rsplit_once('/').expect("a URL names a database");
    format!("{server}/{database}")
}

/// The URL for another login, whose password is its name.
fn with_login(url: &str, login: &str) -> String {
    let (_, place) = url.rsplit_once('@').expect("a URL names a login");
    format!("postgres://{login}:{login}@{place}")
}
