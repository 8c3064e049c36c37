//! The parts that a benchmark runs on: a devstack of its own, or one that is up.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use devstack::postgres::client;
use devstack::{Devstack, Endpoints, Options, Part, Progress, eventually};

use crate::config::PlaceOptions;
use crate::window::{PRIMARY, Processes};

/// How long the replica may take for what the primary has written.
const REPLAY_MAX: Duration = Duration::from_secs(300);

/// Kafka, and the view's primary with its replica.
pub struct Stack {
    endpoints: Endpoints,
    /// How it speaks.
    pub progress: Progress,
    /// Folder for logs of this run.
    pub folder: PathBuf,
    /// Stops with this value; none when it was up before.
    _own: Option<Devstack>,
}

impl Stack {
    /// Takes what is up, or starts a devstack below `target/loadtest`.
    pub async fn take(place: &PlaceOptions) -> Result<Self> {
        let progress = Progress::visible();
        let base = devstack::target_dir()?.join("loadtest");
        let folder = devstack::unused_state_dir(&base)?;
        let (endpoints, own) = match &place.endpoints {
            Some(file) => (Endpoints::read(file)?, None),
            None => {
                let mut options = Options::new([Part::Kafka, Part::Postgres], &folder)?;
                options.progress = progress.clone();
                let own = Devstack::start(options).await?;
                (own.endpoints().clone(), Some(own))
            }
        };
        std::fs::create_dir_all(&folder).with_context(|| format!("{} can't be made", folder.display()))?;
        Ok(Self { endpoints, progress, folder, _own: own })
    }

    /// Address of the broker.
    pub fn kafka(&self) -> Result<&str> {
        self.endpoints.kafka.as_deref().context("the devstack has no kafka")
    }

    /// URL of the view's database on the primary.
    pub fn primary_url(&self) -> Result<&str> {
        self.endpoints.view_primary_url.as_deref().context("the devstack has no postgres")
    }

    /// URL of the view's database on the replica.
    pub fn replica_url(&self) -> Result<&str> {
        self.endpoints.view_replica_urls.first().map(String::as_str).context("the devstack has no replica")
    }

    /// The postmaster of the replica.
    pub fn replica_pid(&self) -> Result<i32> {
        self.endpoints.pids.view_replica.context("the devstack has no replica")
    }

    /// Waits until the replica shows all that the primary has written so far.
    pub async fn replayed(&self) -> Result<()> {
        let (primary, replica) = (client(self.primary_url()?).await?, client(self.replica_url()?).await?);
        let written: String = primary.query_one("select pg_current_wal_insert_lsn()::text", &[]).await?.get(0);
        let replayed = async || {
            let sql = "select pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
            let shown = replica.query_one(sql, &[&written]).await.map(|row| row.get::<_, bool>(0));
            shown.map(|is_shown| is_shown.then_some(())).transpose()
        };
        Ok(eventually("the replica shows what the primary has", REPLAY_MAX, replayed).await??)
    }

    /// The processes that work beside any contender.
    pub fn processes(&self) -> Processes {
        let pids = &self.endpoints.pids;
        let named = [("broker", pids.kafka), (PRIMARY, pids.view_primary), ("replica", pids.view_replica)];
        named.into_iter().filter_map(|(name, pid)| Some((name.to_owned(), pid?))).collect()
    }
}

/// A name that no earlier run has used, good for a topic, a group and a database.
pub fn unused_name(kind: &str) -> String {
    format!("{kind}_{:08x}", rand::random::<u32>())
}
