//! One test's own topics and database on the shared servers, and services of the import that can be killed.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use devstack::{Endpoints, bin_dir, free_port, postgres, target_dir};
use nix::sys::signal::Signal;
use tokio_postgres::Client;

use crate::kafka::Topic;
use crate::service::Service;

/// Of every topic of the import.
const PARTITIONS: i32 = 6;
/// Whose page may listen.
pub(super) const ORIGIN: &str = "http://jobs.example:8081";
/// A member of a group that is killed is missed after so long.
const SESSION: &str = "session.timeout.ms=4000\nheartbeat.interval.ms=500\n";

/// Names and addresses of one test.
#[derive(Debug)]
pub struct ImportStage {
    folder: PathBuf,
    tag: String,
    kafka: String,
    database_url: String,
}

/// Runs one test on topics and a migrated database of its own. When it fails, the error names the folder of the logs, which stays.
pub async fn import_scenario(endpoints: &Endpoints, body: impl AsyncFnOnce(&ImportStage) -> Result<()>) -> Result<()> {
    let stage = ImportStage::new(endpoints).await?;
    body(&stage).await.with_context(|| format!("logs in {}", stage.folder.display()))?;
    Ok(fs::remove_dir_all(&stage.folder)?)
}

impl ImportStage {
    async fn new(endpoints: &Endpoints) -> Result<Self> {
        let tag = format!("imports_{:08x}", rand::random::<u32>());
        let folder = target_dir()?.join("acceptance").join(&tag);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        fs::write(folder.join("importer.properties"), SESSION)?;
        let kafka = endpoints.kafka.clone().context("a broker")?;
        let primary = endpoints.view_primary_url.as_deref().context("a primary")?;
        postgres::client(primary).await?.batch_execute(&format!("create database {tag}")).await?;
        let (server, _) = primary.rsplit_once('/').context("a URL names a database")?;
        let stage = Self { folder, kafka, database_url: format!("{server}/{tag}"), tag };
        let mut migrate = Command::new(bin_dir()?.join("importer"));
        let migrated = migrate.arg("migrate").env_clear().env("DATABASE_URL", &stage.database_url).output()?;
        ensure!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
        Ok(stage)
    }

    /// A topic of the import by its own name.
    pub fn topic(&self, name: &str) -> Topic {
        Topic::new(&self.kafka, &format!("{}.{name}", self.tag), PARTITIONS)
    }

    /// A connection to the contacts.
    pub async fn database(&self) -> Result<Client> {
        postgres::client(&self.database_url).await
    }

    /// Starts jobs with a spool of its own; returns before it is ready, as the others do.
    pub fn jobs(&self, name: &str, env: &[(&str, &str)]) -> Result<Member> {
        let spool = self.folder.join(format!("{name}-spool"));
        let own = [("JOBS_SPOOL", spool.display().to_string())];
        Member::start(self, "jobs", name, own.into(), env)
    }

    /// Starts an importer.
    pub fn importer(&self, name: &str, env: &[(&str, &str)]) -> Result<Member> {
        let properties = self.folder.join("importer.properties").display().to_string();
        let own = [
            ("IMPORTER_MEMBER", name.to_owned()),
            ("IMPORTER_GROUP", format!("{}.importer", self.tag)),
            ("KAFKA_PROPERTIES_FILE", properties),
        ];
        Member::start(self, "importer", name, own.into(), env)
    }

    /// Starts a notifier.
    pub fn notifier(&self, name: &str, env: &[(&str, &str)]) -> Result<Member> {
        let own = [
            ("NOTIFIER_ORIGINS", ORIGIN.to_owned()),
            // On a busy machine an instance may be behind for longer than the default; a gap would then be told, and rightly.
            ("NOTIFIER_BEHIND_MAX", "60s".to_owned()),
        ];
        Member::start(self, "notifier", name, own.into(), env)
    }

    /// Starts a console.
    pub fn console(&self, name: &str, env: &[(&str, &str)]) -> Result<Member> {
        Member::start(self, "console", name, Vec::new(), env)
    }
}

/// A service of the import: always at the same address, on the same topics, whatever process it is at the moment.
#[derive(Debug)]
pub struct Member {
    name: String,
    binary: &'static str,
    folder: PathBuf,
    env: BTreeMap<String, String>,
    admin_port: u16,
    port: u16,
    service: Service,
    peak_kib: u64,
}

impl Member {
    fn start(
        stage: &ImportStage,
        binary: &'static str,
        name: &str,
        own: Vec<(&str, String)>,
        over: &[(&str, &str)],
    ) -> Result<Self> {
        let (admin_port, port) = (free_port()?, free_port()?);
        let kind = binary.to_uppercase();
        let mut env = BTreeMap::from([
            ("KAFKA_BOOTSTRAP_SERVERS".to_owned(), stage.kafka.clone()),
            ("DATABASE_URL".to_owned(), stage.database_url.clone()),
            ("CHANNEL_SECRET".to_owned(), "a secret of the tests, of 32 bytes or more".to_owned()),
            ("IMPORT_TOPIC_PREFIX".to_owned(), format!("{}.", stage.tag)),
            ("IMPORT_PARTITIONS".to_owned(), PARTITIONS.to_string()),
            (format!("{kind}_ADMIN_LISTEN"), format!("127.0.0.1:{admin_port}")),
            (format!("{kind}_LISTEN"), format!("127.0.0.1:{port}")),
        ]);
        env.extend(own.into_iter().map(|(name, value)| (name.to_owned(), value)));
        env.extend(over.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let program = bin_dir()?.join(binary);
        let service = Service::start(name, (&program, &[]), &stage.folder, &env, admin_port, Some(port))?;
        let (name, folder) = (name.to_owned(), stage.folder.clone());
        Ok(Self { name, binary, folder, env, admin_port, port, service, peak_kib: 0 })
    }

    /// Which service it is.
    pub fn binary(&self) -> &'static str {
        self.binary
    }

    /// Its name, also of its log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `host:port` of its API; an importer has none.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The process as it is now.
    pub fn service(&mut self) -> &mut Service {
        &mut self.service
    }

    /// Waits until it is ready.
    pub async fn ready(&mut self) -> Result<()> {
        self.service.ready().await
    }

    /// SIGKILL, in whatever it is doing.
    pub fn kill(&mut self) -> Result<()> {
        self.peak_kib();
        self.service.kill()
    }

    /// SIGSTOP: it does nothing until it is killed, or goes on.
    pub fn freeze(&self) -> Result<()> {
        self.service.signal(Signal::SIGSTOP)
    }

    /// SIGCONT.
    pub fn go_on(&self) -> Result<()> {
        self.service.signal(Signal::SIGCONT)
    }

    /// A new process at the same address, with the same spool.
    pub fn start_again(&mut self) -> Result<()> {
        let (program, port) = (bin_dir()?.join(self.binary), Some(self.port));
        self.service = Service::start(&self.name, (&program, &[]), &self.folder, &self.env, self.admin_port, port)?;
        Ok(())
    }

    /// The most memory that any of its processes had, as the kernel counts it.
    pub fn peak_kib(&mut self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.service.pid())).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
        self.peak_kib = self.peak_kib.max(peak.unwrap_or_default());
        self.peak_kib
    }

    /// Files in the spool of jobs.
    pub fn spooled(&self) -> Result<usize> {
        let is_file = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|ending| ending == "csv");
        Ok(fs::read_dir(&self.env["JOBS_SPOOL"])?.filter(|entry| entry.as_ref().is_ok_and(is_file)).count())
    }
}
