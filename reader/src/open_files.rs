//! The limit of open files, which is that of connections too.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files that are no client's connection: databases, admin port, logs, what libraries open for a moment.
const OTHER_FILES: usize = 200;

/// Raises the limit to what the process may have, and gives how many connections it leaves room for, at most `wanted`.
///
/// Shells and containers start processes with a soft limit of 1024 for the sake of `select`, which nothing here uses.
pub(crate) fn room_for(wanted: usize) -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(usize::try_from(hard).unwrap_or(usize::MAX))
    });
    match limit {
        Ok(limit) if limit < wanted.saturating_add(OTHER_FILES) => {
            let room = limit.saturating_sub(OTHER_FILES).max(1);
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
