//! `devstack doctor`: what the machine lacks and the command that installs it; whether the resolved jars are unharmed.
//!
//! The list of tools stands in `install.sh` alone, because it has to work before anything is built.

use std::path::Path;

use anyhow::{Context, Result};

use crate::artefacts::{ALL, Set};
use crate::progress::say;

/// Said where a single tool is found missing in passing.
pub(crate) const WAY_OUT: &str =
    "`devstack doctor` says the command that installs it; `make` targets run that themselves";

const INSTALL: &str = include_str!("../install.sh");

/// Prints the findings; `true` when nothing keeps the parts from starting.
pub fn run(cache_dir: &Path) -> Result<bool> {
    say("tools");
    let check = std::process::Command::new("sh").args(["-c", INSTALL, "install.sh", "--check"]).status();
    let tools = check.context("sh can't be started")?.success();
    say(&format!("jars in {}", cache_dir.display()));
    let mut jars = true;
    for set in ALL {
        let (fine, finding) = examine(set, cache_dir);
        jars &= fine;
        say(&finding);
    }
    Ok(tools && jars)
}

/// Reads every byte of a set. One that is not there yet is fine: the first start resolves it.
fn examine(set: Set, cache_dir: &Path) -> (bool, String) {
    let (folder, lock) = (set.folder(cache_dir), set.lock());
    if !folder.exists() {
        return (true, format!("  ok       {:<36} the first start resolves {} jars", set.name, lock.len()));
    }
    match lock.difference(&folder) {
        None => (true, format!("  ok       {:<36} {} jars, all bytes as pinned", set.name, lock.len())),
        Some(difference) => {
            let way_out = format!("rm -r '{}', the next start resolves it again", folder.display());
            (false, format!("  damaged  {:<36} {difference}: {way_out}", set.name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artefacts::DEBEZIUM;

    #[test]
    fn jars_that_are_absent_are_fine_and_damaged_ones_are_not() {
        let cache = tempfile::tempdir().unwrap();
        assert!(examine(DEBEZIUM, cache.path()).0);
        std::fs::create_dir(DEBEZIUM.folder(cache.path())).unwrap();
        let (fine, finding) = examine(DEBEZIUM, cache.path());
        assert!(!fine && finding.contains("rm -r"), "{finding}");
    }
}
