//! The limit of open files, which is that of connections too.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::Config;
use crate::replicas::CONNECTIONS_BESIDE;

/// Files that are neither a client's connection nor counted by [`others`]: admin port, logs, what libraries open for a moment.
const OTHER_FILES: usize = 200;

/// Files of a worker's runtime.
const WORKER_FILES: usize = 4;

/// What the workers and the connections to the databases need, and all else.
pub(crate) fn others(config: &Config) -> usize {
    let databases = config.replicas.len() + usize::from(config.fallback.is_some());
    OTHER_FILES + config.workers * WORKER_FILES + databases * (config.replica_connections + CONNECTIONS_BESIDE)
}

/// Raises the limit to what the process may have, and gives how many connections it leaves room for beside `others`, at most `wanted`.
///
/// Shells and containers start processes with a soft limit of 1024 for the sake of `select`, which nothing here uses.
pub(crate) fn room_for(wanted: usize, others: usize) -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(usize::try_from(hard).unwrap_or(usize::MAX))
    });
    match limit {
        Ok(limit) if limit < wanted.saturating_add(others) => {
            let room = limit.saturating_sub(others).max(1);
            tracing::warn!(limit, wanted, room, "the limit of open files allows fewer connections than are configured");
            room
        }
        Ok(_) => wanted,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files can't be raised");
            wanted
        }
    }
}
