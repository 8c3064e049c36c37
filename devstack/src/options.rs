//! What to start and where: plain data, and the few things that come from the environment.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::progress::Progress;

/// A part of the system that can be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Part {
    /// One Kafka broker (KRaft).
    Kafka,
    /// The view's Postgres: primary and streaming replicas.
    Postgres,
    /// The source's Postgres with the MetaSite table.
    Source,
    /// Kafka Connect with Debezium on the source; brings `kafka` and `source`.
    Connect,
    /// The writer; brings `kafka` and `postgres`.
    Writer,
    /// The reader; brings `postgres`.
    Reader,
    /// `writer relay`, the change log as a topic; brings `kafka`, `postgres` and `writer`.
    Relay,
    /// What takes files of contacts; brings `kafka` and `postgres`.
    Jobs,
    /// What makes contacts of them; brings `kafka` and `postgres`.
    Importer,
    /// What tells browsers of it; brings `kafka`.
    Notifier,
    /// The console over it all; brings `kafka`.
    Console,
    /// Prometheus, scraping whatever else runs; no part of the system itself, so only started when named.
    Prometheus,
}

impl Part {
    /// The parts without which this one can't run.
    fn needs(self) -> &'static [Self] {
        match self {
            Self::Kafka | Self::Postgres | Self::Source | Self::Prometheus => &[],
            Self::Connect => &[Self::Kafka, Self::Source],
            Self::Writer | Self::Jobs | Self::Importer => &[Self::Kafka, Self::Postgres],
            Self::Reader => &[Self::Postgres],
            Self::Relay => &[Self::Kafka, Self::Postgres, Self::Writer],
            Self::Notifier | Self::Console => &[Self::Kafka],
        }
    }

    /// Its name on the command line.
    pub(crate) fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// Every part of the system.
    pub fn all() -> BTreeSet<Self> {
        Self::value_variants().iter().copied().filter(|part| *part != Self::Prometheus).collect()
    }
}

/// What [`crate::Devstack::start`] starts.
#[derive(Debug, Clone)]
pub struct Options {
    /// The parts asked for; what they need comes along.
    pub parts: BTreeSet<Part>,
    /// Holds data (wiped at start), logs (kept) and `endpoints.json`. One devstack at a time.
    pub state_dir: PathBuf,
    /// While another devstack holds `state_dir`, takes the first free one of `state_dir-2`, `state_dir-3`, ….
    pub beside: bool,
    /// Holds the resolved jars; shared by all devstacks of a user.
    pub cache_dir: PathBuf,
    /// Where the binaries of the services are.
    pub bin_dir: PathBuf,
    /// Ports that must be these; others are free ones.
    pub ports: BTreeMap<PortName, u16>,
    /// Streaming replicas of the view's primary.
    pub replicas: usize,
    /// Another way to the broker, for tests that put a proxy before it.
    pub kafka_detour: Option<Detour>,
    /// How it speaks.
    pub progress: Progress,
}

/// A second listener of the broker, whose clients are told to come back by another port: that of a proxy before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detour {
    /// Where the broker listens.
    pub port: u16,
    /// The port of 127.0.0.1 that it advertises there.
    pub advertised_port: u16,
}

impl Options {
    /// The parts with state in `state_dir`, silent, all else by default.
    pub fn new(parts: impl IntoIterator<Item = Part>, state_dir: impl Into<PathBuf>) -> Result<Self> {
        Ok(Self {
            parts: parts.into_iter().collect(),
            state_dir: state_dir.into(),
            beside: false,
            cache_dir: default_cache_dir()?,
            bin_dir: bin_dir()?,
            ports: BTreeMap::new(),
            replicas: 1,
            kafka_detour: None,
            progress: Progress::silent(),
        })
    }

    /// The parts asked for and all that they need.
    pub(crate) fn closure(&self) -> BTreeSet<Part> {
        self.parts.iter().flat_map(|part| part.needs().iter().copied().chain([*part])).collect()
    }
}

/// A port that `--port NAME=PORT` can fix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
#[expect(missing_docs, reason = "the names say it")]
pub enum PortName {
    Kafka,
    Connect,
    Source,
    ViewPrimary,
    ViewReplica,
    WriterAdmin,
    Reader,
    ReaderAdmin,
    RelayAdmin,
    Jobs,
    JobsAdmin,
    ImporterAdmin,
    Notifier,
    NotifierAdmin,
    Console,
    ConsoleAdmin,
    Prometheus,
}

/// Reads `NAME=PORT`.
pub fn parse_port(text: &str) -> Result<(PortName, u16), String> {
    let (name, port) = text.split_once('=').ok_or("expected NAME=PORT, as in reader=8080")?;
    let port = port.parse().ok().filter(|port| *port > 0).ok_or("a port is a number from 1 to 65535")?;
    Ok((PortName::from_str(name, false)?, port))
}

/// `$XDG_CACHE_HOME/siteview` or `~/.cache/siteview`.
pub fn default_cache_dir() -> Result<PathBuf> {
    let base = variable("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    match base.or_else(|| Some(std::env::home_dir()?.join(".cache"))) {
        Some(base) => Ok(base.join("siteview")),
        None => bail!("neither XDG_CACHE_HOME nor HOME is set\n  way out: name a folder with --cache-dir DIR"),
    }
}

/// The folder of the running executable; for a test or an example the one above it, where Cargo puts the workspace's
/// binaries.
pub fn bin_dir() -> Result<PathBuf> {
    let executable = std::env::current_exe().context("the path of this executable is unknown")?;
    let folder = executable.parent().context("an executable lies in a folder")?;
    let above = folder.parent().filter(|_| folder.ends_with("deps") || folder.ends_with("examples"));
    Ok(above.unwrap_or(folder).to_owned())
}

/// Cargo's target folder, two above the executable: the home of everything that may be deleted.
pub fn target_dir() -> Result<PathBuf> {
    let bin_dir = bin_dir()?;
    Ok(bin_dir.parent().unwrap_or(&bin_dir).to_owned())
}

/// Finds an executable on `PATH`.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path()?).map(|folder| folder.join(name)).find(|path| is_executable(path))
}

/// `java` of `JAVA_HOME`, else of `PATH`.
pub(crate) fn java() -> Option<PathBuf> {
    let home = variable("JAVA_HOME").map(|home| Path::new(&home).join("bin/java"));
    home.filter(|path| is_executable(path)).or_else(|| tool("java"))
}

pub(crate) fn search_path() -> Option<OsString> {
    variable("PATH")
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where devstack reads the environment: PATH, JAVA_HOME, XDG_CACHE_HOME"
)]
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_brings_what_it_needs() {
        let closure = |parts: &[Part]| Options::new(parts.iter().copied(), "/tmp").unwrap().closure();
        assert_eq!(closure(&[Part::Kafka, Part::Postgres]), [Part::Kafka, Part::Postgres].into());
        assert_eq!(closure(&[Part::Connect]), [Part::Kafka, Part::Source, Part::Connect].into());
        assert_eq!(closure(&[Part::Relay]), [Part::Kafka, Part::Postgres, Part::Writer, Part::Relay].into());
        assert_eq!(closure(&[Part::Reader]), [Part::Postgres, Part::Reader].into());
        assert_eq!(closure(&Part::all().into_iter().collect::<Vec<_>>()), Part::all());
    }

    #[test]
    fn ports_are_given_by_name() {
        assert_eq!(parse_port("reader-admin=9102"), Ok((PortName::ReaderAdmin, 9102)));
        for bad in ["reader", "reader=0", "reader=65536", "nobody=1"] {
            assert!(parse_port(bad).is_err(), "{bad}");
        }
    }
}
