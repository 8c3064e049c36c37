//! `devstack doctor`: what the machine lacks and the command that installs it; whether the resolved jars are unharmed.
//!
//! The list of tools stands in `install.sh`, because it has to work before anything is built; a part that finds one of them
//! missing says the command for that one.

use std::path::Path;

use anyhow::{Context, Result};
use nix::unistd::geteuid;

use crate::artefacts::{ALL, Set};
use crate::failure::Failure;
use crate::progress::say;

const INSTALL: &str = include_str!("../install.sh");
const APT_INSTALL: &str = "apt-get install -y --no-install-recommends";

/// What a part can't start without.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tool {
    Java,
    Maven,
    Postgres,
    Prometheus,
}

impl Tool {
    /// What is missing, and the package that holds it; the same as in `install.sh`.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Java => ("java", "default-jre-headless"),
            Self::Maven => ("Maven (mvn), which resolves the jars,", "maven"),
            Self::Postgres => ("the server of Postgres (initdb, postgres)", "postgresql"),
            Self::Prometheus => ("prometheus", "prometheus"),
        }
    }

    /// The failure of a part that lacks it, with the command that installs it.
    pub(crate) fn missing(self, part: &str) -> Failure {
        let ((what, package), sudo) = (self.names(), if geteuid().is_root() { "" } else { "sudo " });
        let command = format!("{sudo}apt-get update && {sudo}{APT_INSTALL} {package}");
        Failure::new(part, format!("{what} is missing")).way_out(format!("on Debian and Ubuntu: {command}"))
    }
}

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
    fn a_missing_tool_is_installed_by_the_command_that_the_script_runs() {
        assert!(INSTALL.contains(APT_INSTALL));
        for tool in [Tool::Java, Tool::Maven, Tool::Postgres, Tool::Prometheus] {
            let (text, (_, package)) = (tool.missing("part").to_string(), tool.names());
            let in_script = |line: &str| line.contains("need ") && line.split(' ').any(|word| word == package);
            assert!(INSTALL.lines().any(in_script), "{package}");
            assert!(text.starts_with("part: ") && text.ends_with(&format!("{APT_INSTALL} {package}")), "{text}");
        }
    }

    #[test]
    fn jars_that_are_absent_are_fine_and_damaged_ones_are_not() {
        let cache = tempfile::tempdir().unwrap();
        assert!(examine(DEBEZIUM, cache.path()).0);
        std::fs::create_dir(DEBEZIUM.folder(cache.path())).unwrap();
        let (fine, finding) = examine(DEBEZIUM, cache.path());
        assert!(!fine && finding.contains("rm -r"), "{finding}");
    }
}
