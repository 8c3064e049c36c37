//! A devstack in a process of its own, for test binaries: statics are never dropped, so a value could not stop it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::endpoints::Endpoints;
use crate::failure::Failure;
use crate::options::{Part, bin_dir, target_dir};
use crate::place::unused_state_dir;

struct Companion {
    endpoints: Endpoints,
    _child: Child,
    /// Held open until this process ends, however it ends; its end of file stops the devstack.
    _stdin: ChildStdin,
}

/// Starts `devstack up --only PARTS` beside this process, once per set of parts, and returns where everything listens.
/// Blocks while it starts. It stops in order when this process has ended. State and logs lie in
/// `target/devstack-tests/<name of this executable>`.
pub fn shared(parts: &[Part]) -> Result<Endpoints> {
    static RUNNING: Mutex<BTreeMap<BTreeSet<Part>, Companion>> = Mutex::new(BTreeMap::new());
    let parts: BTreeSet<Part> = parts.iter().copied().collect();
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(companion) = running.get(&parts) {
        return Ok(companion.endpoints.clone());
    }
    let companion = start(&parts)?;
    let endpoints = companion.endpoints.clone();
    running.insert(parts, companion);
    Ok(endpoints)
}

fn start(parts: &BTreeSet<Part>) -> Result<Companion> {
    let tests = target_dir()?.join("devstack-tests");
    let executable = std::env::current_exe()?;
    let state_dir = unused_state_dir(&tests.join(name_of(&executable)))?;
    std::fs::create_dir_all(&state_dir).with_context(|| format!("{} can't be made", state_dir.display()))?;
    let log = state_dir.join("devstack.log");
    let names: Vec<String> = parts.iter().map(|part| part.name()).collect();
    let binary = bin_dir()?.join("devstack");
    let mut child = Command::new(&binary)
        .args(["up", "--until-stdin-closes", "--only", &names.join(","), "--state-dir"])
        .arg(&state_dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(File::create(&log)?)
        .spawn()
        .with_context(|| {
            format!("{} can't be started\n  way out: cargo build --release --workspace", binary.display())
        })?;
    let stdin = child.stdin.take().context("the child's standard input is a pipe")?;
    let stdout = child.stdout.take().context("the child's standard output is a pipe")?;
    // The child prints the endpoints when all is ready, and ends when it can't become so.
    match serde_json::Deserializer::from_reader(stdout).into_iter().next() {
        Some(Ok(endpoints)) => Ok(Companion { endpoints, _child: child, _stdin: stdin }),
        _ => {
            drop(stdin);
            let status = child.wait()?;
            Err(Failure::new("devstack", format!("it ended with {status} before it was ready")).log(&log).into())
        }
    }
}

/// The executable's name without the hash that Cargo appends to test binaries.
fn name_of(executable: &Path) -> String {
    let stem = executable.file_stem().unwrap_or_default().to_string_lossy();
    match stem.rsplit_once('-') {
        Some((name, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => name.to_owned(),
        _ => stem.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_folder_is_named_without_cargos_hash() {
        assert_eq!(name_of(Path::new("/t/release/deps/whole_system-0123456789abcdef")), "whole_system");
        assert_eq!(name_of(Path::new("/t/release/load-test")), "load-test");
    }
}
