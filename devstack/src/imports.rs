//! The services of the import, which know each other: who signs channels, from where the page comes, where it finds the notifier.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::RngExt;

use crate::endpoints::Endpoints;
use crate::options::{Part, PortName};
use crate::place::{Place, write_whole};
use crate::postgres::{self, VIEW_PRIMARY};
use crate::server::Server;
use crate::services::{launch, ready_server};

const MIGRATE_DEADLINE: Duration = Duration::from_secs(60);
/// Contacts are no part of the view: they have a database of their own on its primary.
const DATABASE: &str = "contacts";
const SECRET_CHARACTERS: usize = 64;

/// What the three have in common, settled before any of them starts.
pub(crate) struct Imports<'a> {
    place: &'a Place,
    kafka: String,
    secret: PathBuf,
    spool: PathBuf,
    database_url: Option<String>,
    jobs: String,
    notifier: String,
}

/// A service with the addresses of its API and of its admin port.
pub(crate) type Started = (Server, String, String);

impl<'a> Imports<'a> {
    /// Settles it, and makes the database with its tables where there is a server for it.
    pub(crate) async fn prepare(place: &'a Place, endpoints: &Endpoints) -> Result<Self> {
        let dir = place.fresh_dir("import")?;
        let secret = dir.join("channel-secret");
        let characters = rand::rng().sample_iter(rand::distr::Alphanumeric).take(SECRET_CHARACTERS);
        write_whole(&secret, &characters.map(char::from).collect::<String>())?;
        let database_url = match endpoints.view_primary_url.as_deref() {
            Some(url) => Some(make_database(place, url).await?),
            None => None,
        };
        let address = |name| Ok::<_, anyhow::Error>(format!("127.0.0.1:{}", place.ports.get(name)?));
        Ok(Self {
            place,
            kafka: endpoints.kafka.clone().context("the services of the import need kafka")?,
            secret,
            spool: dir.join("spool"),
            database_url,
            jobs: address(PortName::Jobs)?,
            notifier: address(PortName::Notifier)?,
        })
    }

    /// The database of the contacts, with a superuser's login.
    pub(crate) fn database_url(&self) -> Option<String> {
        self.database_url.clone()
    }

    /// Starts one of the three; returns when it is ready.
    pub(crate) async fn start(&self, part: Part) -> Result<Started> {
        let (name, port) = match part {
            Part::Jobs => ("jobs", PortName::JobsAdmin),
            Part::Importer => ("importer", PortName::ImporterAdmin),
            _ => ("notifier", PortName::NotifierAdmin),
        };
        let admin = format!("127.0.0.1:{}", self.place.ports.get(port)?);
        let mut settings = vec![
            ("KAFKA_BOOTSTRAP_SERVERS", self.kafka.clone()),
            ("CHANNEL_SECRET_FILE", self.secret.display().to_string()),
        ];
        settings.extend(self.database_url.clone().map(|url| ("DATABASE_URL", url)));
        let (own, url) = match part {
            Part::Jobs => (self.of_jobs(&admin), format!("http://{}", self.jobs)),
            Part::Importer => (vec![("IMPORTER_ADMIN_LISTEN", admin.clone())], String::new()),
            _ => (self.of_notifier(&admin), format!("ws://{}", self.notifier)),
        };
        let launch = launch(self.place, name, name)?;
        let launch = settings.into_iter().chain(own).fold(launch, |launch, (name, value)| launch.env(name, value));
        let server = ready_server(launch, &admin);
        server.start().await?;
        Ok((server, url, format!("http://{admin}")))
    }

    fn of_jobs(&self, admin: &str) -> Vec<(&'static str, String)> {
        vec![
            ("JOBS_LISTEN", self.jobs.clone()),
            ("JOBS_ADMIN_LISTEN", admin.to_owned()),
            ("JOBS_NOTIFIER_URL", format!("http://{}", self.notifier)),
            ("JOBS_SPOOL", self.spool.display().to_string()),
        ]
    }

    fn of_notifier(&self, admin: &str) -> Vec<(&'static str, String)> {
        let by_name = self.jobs.replace("127.0.0.1", "localhost");
        vec![
            ("NOTIFIER_LISTEN", self.notifier.clone()),
            ("NOTIFIER_ADMIN_LISTEN", admin.to_owned()),
            ("NOTIFIER_ORIGINS", format!("http://{},http://{by_name}", self.jobs)),
        ]
    }
}

async fn make_database(place: &Place, primary_url: &str) -> Result<String> {
    let create = format!("create database {DATABASE}");
    postgres::execute(place, VIEW_PRIMARY, primary_url, "the database of the contacts can't be made", &create).await?;
    let (server, _) = primary_url.rsplit_once('/').context("a database URL ends with a database")?;
    let url = format!("{server}/{DATABASE}");
    let migrate = launch(place, "importer", "importer-migrate")?.args(["migrate"]).env("DATABASE_URL", &url);
    migrate.run("`importer migrate`", MIGRATE_DEADLINE).await?;
    Ok(url)
}
