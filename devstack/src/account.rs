//! Who the Postgres servers run as: they refuse to run as root.

use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::unistd::{User, geteuid};

/// An account of the machine that gives up root's rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Account {
    /// For root: `postgres` where it exists, else `nobody`. For everybody else `None`, themselves.
    pub(crate) fn for_postgres() -> Result<Option<Self>> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        for name in ["postgres", "nobody"] {
            if let Some(user) = User::from_name(name).with_context(|| format!("user {name} can't be looked up"))? {
                return Ok(Some(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw() }));
            }
        }
        bail!("Postgres refuses to run as root, and there is neither a user postgres nor nobody: run as a plain user")
    }

    /// Whether the account may pass through every folder on the way to `path`.
    pub(crate) fn reaches(&self, path: &Path) -> io::Result<bool> {
        for folder in path.canonicalize()?.ancestors() {
            let about = folder.metadata()?;
            let shift = if about.uid() == self.uid {
                6
            } else if about.gid() == self.gid {
                3
            } else {
                0
            };
            if (about.mode() >> shift) & 0o1 == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Makes a folder for the account inside `parent`, or, where the account can't go there, a temporary one with a link to it
/// at its place. Returns the real path.
pub(crate) fn folder_for(account: Option<&Account>, parent: &Path, name: &str) -> Result<PathBuf> {
    let place = parent.join(name);
    let make = || -> Result<PathBuf> {
        let Some(account) = account else {
            std::fs::create_dir(&place)?;
            return Ok(place.clone());
        };
        let folder = if account.reaches(parent)? { place.clone() } else { temporary()? };
        std::fs::create_dir(&folder)?;
        if folder != place {
            std::os::unix::fs::symlink(&folder, &place)?;
        }
        chown(&folder, Some(account.uid), Some(account.gid))?;
        Ok(folder)
    };
    make().with_context(|| format!("folder {} can't be made", place.display()))
}

fn temporary() -> io::Result<PathBuf> {
    let name = format!("siteview-devstack-{}-{:08x}", std::process::id(), rand::random::<u32>());
    Ok(std::env::temp_dir().canonicalize()?.join(name))
}

/// Removes what [`folder_for`] made outside of its parent.
pub(crate) fn remove_temporary(place: &Path) {
    if let Ok(folder) = place.read_link() {
        let _ = std::fs::remove_dir_all(folder);
        let _ = std::fs::remove_file(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_closed_folder_on_the_way_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        let stranger = Account { uid: 54_321, gid: 54_321 };
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!stranger.reaches(&inner).unwrap());
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        assert!(stranger.reaches(&inner).unwrap());
    }
}
