//! Postgres servers: the source, and the view's primary with its streaming replicas.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use tokio_postgres::{Client, NoTls};

use crate::doctor::Tool;
use crate::failure::Failure;
use crate::options::{PortName, tool};
use crate::place::{Place, write_whole};
use crate::ports::free_port;
use crate::process::Launch;
use crate::server::{Ready, Server};
use crate::wait::eventually;

/// Oldest major version that is known to serve; `install.sh` has it too.
const VERSION_MIN: u32 = 15;
/// Where Debian and Ubuntu put the servers, one folder per major version.
const DEBIAN_VERSIONS: &str = "/usr/lib/postgresql";
const MAKE_DEADLINE: Duration = Duration::from_secs(60);
const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_GRACE: Duration = Duration::from_secs(10);
/// The view's database, and the source's.
const VIEW_DATABASE: &str = "siteview";
const SOURCE_DATABASE: &str = "metasite";
const SOURCE: &str = "source";
/// The first name of [`SERVERS`].
pub(crate) const VIEW_PRIMARY: &str = "view-primary";
/// The view's servers as they are at first, with the slots that they follow their primary through; a failover changes who
/// is what, not the names.
const SERVERS: [(&str, &str); 4] = [
    (VIEW_PRIMARY, "view_primary"),
    ("view-replica", "view_replica"),
    ("view-replica-2", "view_replica_2"),
    ("view-replica-3", "view_replica_3"),
];

/// Enough for many tests at once on one cluster; the replica must allow as many as its primary.
const VIEW_SETTINGS: [&str; 3] = ["max_connections=300", "wal_level=replica", "shared_buffers=256MB"];
/// A replica comes back at once when the primary was away.
const REPLICA_SETTINGS: [&str; 1] = ["wal_retrieve_retry_interval=100ms"];
/// It tells the primary what it reads. In its file and not on its command line, which would overrule `alter system`: tests
/// of recovery conflicts turn it off.
const REPLICA_FILE_SETTINGS: &str = "hot_standby_feedback = on\n";
const SOURCE_SETTINGS: [&str; 1] = ["wal_level=logical"];

/// The view's servers with the superuser's URLs of the view's database.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) primary: Server,
    pub(crate) primary_url: String,
    /// One at least.
    pub(crate) replicas: Vec<(Server, String)>,
}

/// Makes and starts a primary, copies it to so many replicas, and returns when all stream.
pub(crate) async fn start_view(place: &Place, replicas: usize) -> Result<View> {
    let primary = Cluster::new(place, SERVERS[0].0, place.ports.get(PortName::ViewPrimary)?)?;
    primary.initdb().await?;
    let primary_server = primary.start(&VIEW_SETTINGS).await?;
    primary.create_database(VIEW_DATABASE).await?;
    ensure!((1..SERVERS.len()).contains(&replicas), "the view has 1 to {} replicas", SERVERS.len() - 1);
    let mut started = Vec::new();
    for (index, (name, slot)) in SERVERS[1..].iter().take(replicas).enumerate() {
        let port = if index == 0 { place.ports.get(PortName::ViewReplica)? } else { free_port()? };
        let mut replica = Cluster::new(place, name, port)?;
        replica.password.clone_from(&primary.password);
        started.push((replica.follow(primary.port, slot).await?, replica.url(VIEW_DATABASE)));
    }
    Ok(View { primary: primary_server, primary_url: primary.url(VIEW_DATABASE), replicas: started })
}

/// The replica becomes the primary; returns once it takes writes. Its old primary must be gone.
pub(crate) async fn promote(replica_url: &str) -> Result<()> {
    let statement = "select pg_promote(true, $1)";
    let seconds = i32::try_from(START_DEADLINE.as_secs()).expect("a minute or two");
    let promoted = client(replica_url).await?.query_one(statement, &[&seconds]).await?.get(0);
    if promoted { Ok(()) } else { bail!("the replica is not promoted within {} s", START_DEADLINE.as_secs()) }
}

/// Makes a replica of the primary at `primary_url` in the place that another server of the view, now gone, had on `url`.
pub(crate) async fn replace(place: &Place, gone: &Server, url: &str, primary_url: &str) -> Result<Server> {
    let (name, slot) =
        SERVERS.into_iter().find(|(name, _)| *name == gone.launch.name).context("a server of the view")?;
    let ((password, primary_port), (_, port)) = (parts_of(primary_url)?, parts_of(url)?);
    let mut replica = Cluster::new(place, name, port)?;
    replica.password = password;
    replica.follow(primary_port, slot).await
}

/// Password and port of a URL that [`Cluster::url`] made.
fn parts_of(url: &str) -> Result<(String, u16)> {
    let parts = || {
        let (login, place) = url.rsplit_once('@')?;
        let (_, password) = login.rsplit_once(':')?;
        let port = place.split_once('/')?.0.rsplit_once(':')?.1.parse().ok()?;
        Some((password.to_owned(), port))
    };
    parts().context("the URL of a server of the view")
}

/// Makes and starts the source with its tables. Returns it with the superuser's URL.
pub(crate) async fn start_source(place: &Place) -> Result<(Server, String)> {
    let cluster = Cluster::new(place, SOURCE, place.ports.get(PortName::Source)?)?;
    cluster.initdb().await?;
    let server = cluster.start(&SOURCE_SETTINGS).await?;
    cluster.create_database(SOURCE_DATABASE).await?;
    let url = cluster.url(SOURCE_DATABASE);
    execute(place, SOURCE, &url, "the MetaSite table can't be made", include_str!("../sql/source.sql")).await?;
    Ok((server, url))
}

/// Runs statements on a server of this devstack. A failure says `what` it means, and quotes the server's log.
pub(crate) async fn execute(place: &Place, server: &str, url: &str, what: &str, statements: &str) -> Result<()> {
    let run = async { anyhow::Ok(client(url).await?.batch_execute(statements).await?) };
    run.await.map_err(|error| Failure::new(server, format!("{what}: {error:#}")).log(&place.log(server)).into())
}

/// Opens a connection; it ends when the client is dropped.
pub async fn client(url: &str) -> Result<Client> {
    // The URL holds the password, so an error names the place only.
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .with_context(|| format!("no connection to {}", url.rsplit('@').next().unwrap_or_default()))?;
    tokio::spawn(connection);
    Ok(client)
}

/// Whether the server takes connections and answers.
pub(crate) async fn answers(url: &str) -> bool {
    match client(url).await {
        Ok(client) => client.simple_query("select 1").await.is_ok(),
        Err(_) => false,
    }
}

async fn streams(replica_url: &str) -> bool {
    let query = "select 1 from pg_stat_wal_receiver where status = 'streaming'";
    match client(replica_url).await {
        Ok(client) => client.query_opt(query, &[]).await.is_ok_and(|row| row.is_some()),
        Err(_) => false,
    }
}

/// One data folder and the server on it.
struct Cluster<'a> {
    place: &'a Place,
    name: &'static str,
    bin: PathBuf,
    data: PathBuf,
    port: u16,
    password: String,
}

impl<'a> Cluster<'a> {
    fn new(place: &'a Place, name: &'static str, port: u16) -> Result<Self> {
        let Some(bin) = server_binaries() else {
            return Err(Tool::Postgres.missing(name).into());
        };
        let data = place.postgres_dir.join(name);
        crate::place::remove(&data)?;
        Ok(Self { place, name, bin, data, port, password: format!("{:032x}", rand::random::<u128>()) })
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    fn launch(&self, program: &str) -> Launch {
        Launch::new(self.name, self.bin.join(program), &self.place.postgres_dir, &self.place.log(self.name))
            .account(self.place.account.clone())
            .env("LC_ALL", "C.UTF-8")
    }

    /// An empty cluster with the superuser `postgres`. Not synced: a machine that crashes takes the whole devstack along.
    async fn initdb(&self) -> Result<()> {
        let password_file = self.place.postgres_dir.join(format!("{}.password", self.name));
        write_whole(&password_file, &self.password)?;
        if let Some(account) = &self.place.account {
            chown(&password_file, Some(account.uid), Some(account.gid))?;
        }
        let made = self
            .launch("initdb")
            .args(["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--no-sync", "--pwfile"])
            .args([&password_file])
            .args(["-D".as_ref(), self.data.as_os_str()])
            .run("making the cluster", MAKE_DEADLINE)
            .await;
        fs::remove_file(&password_file)?;
        made
    }

    /// Copies a running primary and follows it through a replication slot; returns when it streams.
    async fn follow(&self, primary_port: u16, slot: &str) -> Result<Server> {
        self.launch("pg_basebackup")
            .args(["--host=127.0.0.1", "--username=postgres", "--checkpoint=fast", "--no-sync", "-X", "stream"])
            .args([format!("--port={primary_port}")])
            .args(["-R", "-C", "-S", slot, "-D"])
            .args([&self.data])
            .env("PGPASSWORD", &self.password)
            .run("copying the primary", MAKE_DEADLINE)
            .await?;
        let file = self.data.join("postgresql.auto.conf");
        let appended = fs::OpenOptions::new().append(true).open(&file).and_then(|mut file| {
            use std::io::Write;
            file.write_all(REPLICA_FILE_SETTINGS.as_bytes())
        });
        appended.with_context(|| file.display().to_string())?;
        let server = self.start(&[&VIEW_SETTINGS[..], &REPLICA_SETTINGS[..]].concat()).await?;
        let url = self.url(VIEW_DATABASE);
        eventually("the replica streams from the primary", START_DEADLINE, async || streams(&url).await.then_some(()))
            .await
            .map_err(|error| server.failure(&error.to_string()))?;
        Ok(server)
    }

    async fn start(&self, settings: &[&str]) -> Result<Server> {
        // No Unix socket: its path would have to be short and writable.
        let common = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "timezone=UTC", "log_timezone=UTC"];
        let settings = common.iter().chain(settings).flat_map(|setting| ["-c", setting]);
        let launch = self
            .launch("postgres")
            .args(["-D".as_ref(), self.data.as_os_str()])
            .args([format!("-p{}", self.port)])
            .args(settings);
        // SIGINT is Postgres' fast shutdown: sessions end, data are written.
        let ready = Ready::Postgres(self.url("postgres"));
        let server = Server::new(launch, ready, START_DEADLINE, (Signal::SIGINT, STOP_GRACE));
        server.start().await?;
        Ok(server)
    }

    async fn create_database(&self, name: &str) -> Result<()> {
        let (what, create) = (format!("database {name} can't be made"), format!("create database {name}"));
        execute(self.place, self.name, &self.url("postgres"), &what, &create).await
    }
}

/// The folder of `initdb` and `postgres`: Debian's newest version, else that of `PATH`.
fn server_binaries() -> Option<PathBuf> {
    newest_version(Path::new(DEBIAN_VERSIONS)).or_else(|| Some(tool("initdb")?.parent()?.to_owned()))
}

fn newest_version(versions: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(versions).ok()?.flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let bin = |number: u32| versions.join(number.to_string()).join("bin");
    numbers.filter(|number| *number >= VERSION_MIN && bin(*number).join("initdb").exists()).max().map(bin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    #[tokio::test]
    async fn statements_that_fail_are_an_error_that_names_the_servers_log() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::take(&Options::new([], dir.path()).unwrap()).unwrap();
        fs::write(place.log(VIEW_PRIMARY), "the server's last words").unwrap();
        let nobody = format!("postgres://postgres@127.0.0.1:{}/siteview", free_port().unwrap());
        let failure = execute(&place, VIEW_PRIMARY, &nobody, "the login can't be made", "select 1").await;
        let text = failure.unwrap_err().to_string();
        assert!(text.starts_with("view-primary: the login can't be made: no connection to 127.0.0.1"), "{text}");
        assert!(text.contains(&place.log(VIEW_PRIMARY).display().to_string()) && text.contains("last words"), "{text}");
    }

    #[test]
    fn the_newest_installed_version_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(newest_version(dir.path()), None);
        for version in ["9.6", "15", "16", "2", "14"] {
            fs::create_dir_all(dir.path().join(version).join("bin")).unwrap();
        }
        assert_eq!(newest_version(dir.path()), None, "clients only, no servers");
        for version in ["9.6", "14", "15"] {
            fs::write(dir.path().join(version).join("bin/initdb"), "").unwrap();
        }
        assert_eq!(newest_version(dir.path()), Some(dir.path().join("15/bin")));
    }
}
