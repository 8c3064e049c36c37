//! Machines that lack something, and users that are not root.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use devstack::{Part, default_cache_dir};
use nix::unistd::{User, geteuid};

use crate::{copy_into, devstack, end, endpoints, on, up};

/// What `install.sh` itself calls, and what building takes.
const TO_BUILD: [&str; 8] = ["head", "id", "sed", "dirname", "cc", "c++", "make", "pkg-config"];

/// A folder for `PATH` that has these tools of this machine and no other.
fn path_of(tools: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for tool in tools {
        let found = Command::new("/bin/sh").args(["-c", &format!("command -v {tool}")]).output().unwrap();
        symlink(String::from_utf8(found.stdout).unwrap().trim(), folder.path().join(tool)).unwrap();
    }
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn run_with(path: &Path, command: &mut Command) -> (Output, String) {
    let output = command.env("PATH", path).env_remove("JAVA_HOME").output().unwrap();
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output, String::from_utf8(text).unwrap())
}

/// Fills the cache of this user: a broker has been started once.
fn fill_cache() {
    devstack::shared(&[Part::Kafka]).unwrap();
}

#[test]
fn a_missing_tool_is_named_with_the_command_that_installs_it() {
    fill_cache();
    let (nothing, dir) = (path_of(&[]), tempfile::tempdir().unwrap());
    let (full, empty) = (default_cache_dir().unwrap(), dir.path().join("cache"));
    for (part, cache, what, package) in [
        ("kafka", &full, "kafka: java is missing", "default-jre-headless"),
        ("kafka", &empty, "kafka: Maven (mvn), which resolves the jars, is missing", "maven"),
        ("prometheus", &empty, "prometheus: prometheus is missing", "prometheus"),
    ] {
        let (mut command, state) = (devstack(), dir.path().join("state"));
        command.args(["up", "--only", part, "--state-dir"]).arg(state).arg("--cache-dir").arg(cache);
        let (output, text) = run_with(nothing.path(), &mut command);
        let install = format!("apt-get install -y --no-install-recommends {package}\n");
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(what) && text.contains(&install), "{text}");
    }
}

#[test]
fn what_only_tests_need_keeps_neither_a_demo_nor_the_doctor() {
    let installer = |argument: &[&str]| {
        let mut command = Command::new("/bin/sh");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/install.sh")).args(argument);
        command
    };
    let path = path_of(&[&TO_BUILD[..], &["java", "mvn"]].concat());
    let (output, text) = run_with(path.path(), &mut installer(&[]));
    assert!(output.status.success() && text.is_empty(), "a demo lacks nothing: {text}");
    let (output, text) = run_with(path.path(), &mut installer(&["--tests"]));
    assert!(!output.status.success() && text.contains("prometheus-postgres-exporter"), "{text}");
    let (output, text) = run_with(path.path(), &mut installer(&["--check"]));
    assert!(output.status.success(), "{text}");
    assert!(text.contains("--no-install-recommends prometheus prometheus-postgres-exporter chromium-"), "{text}");

    fs::remove_file(path.path().join("java")).unwrap();
    let (output, text) = run_with(path.path(), &mut installer(&["--check"]));
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("--no-install-recommends default-jre-headless prometheus "), "{text}");
}

#[test]
fn a_plain_user_starts_from_a_full_cache_without_maven() {
    fill_cache();
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (state, cache) = (dir.path().join("state"), dir.path().join("cache"));
    fs::create_dir(&state).unwrap();
    copy_jars(&default_cache_dir().unwrap(), &cache);

    let mut command = on(&copy_into(dir.path()));
    let path = path_of(&["java"]);
    command.env("PATH", path.path()).env("HOME", &state);
    if geteuid().is_root() {
        let user = User::from_name("nobody").unwrap().expect("every system has it");
        chown(&state, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    let owner = fs::metadata(&state).unwrap().uid();
    let folders = ["--state-dir".as_ref(), state.as_os_str(), "--cache-dir".as_ref(), cache.as_os_str()];
    let mut running = up(command, "kafka,postgres", &folders);
    let pids = endpoints(&mut running).pids;
    for pid in [pids.kafka, pids.view_primary, pids.view_replica] {
        assert_eq!(fs::metadata(format!("/proc/{}", pid.unwrap())).unwrap().uid(), owner);
    }
    end(running);
}

/// The broker's jars with its empty storage.
fn copy_jars(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    let folders = fs::read_dir(from).unwrap().flatten().filter(|entry| entry.path().is_dir());
    for folder in folders.filter(|entry| entry.file_name().to_string_lossy().starts_with("kafka-")) {
        let copy = to.join(folder.file_name());
        fs::create_dir(&copy).unwrap();
        for jar in fs::read_dir(folder.path()).unwrap().flatten() {
            fs::copy(jar.path(), copy.join(jar.file_name())).unwrap();
        }
    }
}
