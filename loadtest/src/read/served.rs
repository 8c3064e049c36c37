//! Who is asked: the reader, and the peer. Both are processes over the same replica.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use devstack::Server;
use serde::Serialize;

use crate::config::{ReadOptions, ReadPeer};
use crate::stack::Stack;

/// A kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Reader,
    Naive,
    Memory,
}

impl From<ReadPeer> for Kind {
    fn from(peer: ReadPeer) -> Self {
        match peer {
            ReadPeer::Naive => Self::Naive,
            ReadPeer::Memory => Self::Memory,
        }
    }
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Naive => "naive",
            Self::Memory => "memory",
        }
    }
}

/// A server that answers.
pub(super) struct Served {
    server: Server,
    pub(super) address: SocketAddr,
    pub(super) kind: Kind,
}

/// What the reader is started with.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Setup {
    reader: PathBuf,
    reader_flags: Vec<String>,
    /// Whether a cache may answer.
    cache: bool,
}

impl Setup {
    pub(super) fn new(options: &ReadOptions) -> Result<Self> {
        let reader = match &options.reader {
            Some(binary) => binary.clone(),
            None => devstack::bin_dir()?.join("reader"),
        };
        let cache = options.reader_flags.iter().any(|flag| flag.starts_with("--cache"));
        Ok(Self { reader, reader_flags: options.reader_flags.clone(), cache })
    }
}

impl Served {
    /// Starts one over this database of the replica; returns when it can answer.
    pub(super) async fn start(kind: Kind, stack: &Stack, setup: &Setup, database_url: &str) -> Result<Self> {
        let (address, admin) = (free_address()?, free_address()?);
        let log = stack.folder.join(format!("{}.log", kind.name()));
        let (listen, admin_listen) = (address.to_string(), admin.to_string());
        let server = match kind {
            Kind::Reader => {
                let env = [
                    ("READER_DATABASE_URLS", database_url),
                    ("READER_LISTEN", &listen),
                    ("READER_ADMIN_LISTEN", &admin_listen),
                ];
                let flags: Vec<OsString> = setup.reader_flags.iter().map(OsString::from).collect();
                devstack::start_beside(&setup.reader, &flags, &env, &log, &format!("http://{admin}/readyz")).await?
            }
            Kind::Naive | Kind::Memory => {
                let binary = devstack::bin_dir()?.join("naive-reader");
                let args = [database_url, &listen, kind.name()].map(OsString::from);
                devstack::start_beside(&binary, &args, &[], &log, &format!("http://{address}/livez")).await?
            }
        };
        Ok(Self { server, address, kind })
    }

    pub(super) fn pid(&self) -> Result<i32> {
        let (name, log) = (self.kind.name(), self.server.log().display());
        self.server.pid().with_context(|| format!("{name} ended by itself; its log: {log}"))
    }

    /// Ends it in order.
    pub(super) fn stop(self) {
        self.server.stop();
    }
}

fn free_address() -> Result<SocketAddr> {
    Ok(([127, 0, 0, 1], devstack::free_port()?).into())
}
