//! The `devstack` command as people meet it: whole systems, beside each other, on machines that lack something.

#![expect(clippy::unwrap_used, reason = "a step of a test that fails ends the test")]

mod beside;
mod machine;
mod whole_system;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use devstack::Endpoints;

fn devstack() -> Command {
    on(Path::new(env!("CARGO_BIN_EXE_devstack")))
}

/// The command at this place, without input.
fn on(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    command.stdin(Stdio::null());
    command
}

/// A copy of the command in a target folder of its own, which its default state folders lie in.
fn copy_into(target: &Path) -> PathBuf {
    let copy = target.join("release/devstack");
    std::fs::create_dir(target.join("release")).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_devstack"), &copy).unwrap();
    copy
}

/// `up` of a devstack that ends with this process.
fn up(mut command: Command, parts: &str, more: &[&OsStr]) -> Child {
    command.args(["up", "--until-stdin-closes", "--only", parts]).args(more);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// What `up` prints when all parts are ready.
fn endpoints(up: &mut Child) -> Endpoints {
    let printed = serde_json::Deserializer::from_reader(up.stdout.take().unwrap()).into_iter().next();
    printed.expect("endpoints are printed when all is ready").unwrap()
}

/// Ends what [`up`] started.
fn end(mut up: Child) {
    drop(up.stdin.take());
    assert!(up.wait().unwrap().success());
}
