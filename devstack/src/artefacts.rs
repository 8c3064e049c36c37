//! The jars of Kafka, Kafka Connect and Debezium: resolved once by Maven, checked at every start.
//!
//! `artefacts/<set>.pom.xml` names what is wanted and `artefacts/<set>.lock` pins what that must resolve to, one line
//! `sha256 bytes name` per jar, so a changed jar is refused. A set lives in `<cache>/<set>-<hash of its lock>/`; it is
//! filled under a temporary name and renamed when every hash is right, so the folder is there whole or not at all. A start
//! looks at presence and size; `devstack doctor` reads all bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::doctor::Tool;
use crate::failure::Failure;
use crate::lock::{Lock, sha256};
use crate::options::tool;
use crate::process::Launch;
use crate::progress::Progress;
use crate::wait::eventually;

/// Bound of one Maven run; a slow line needs minutes for about 50 MB.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(15 * 60);
/// Another devstack may be resolving all sets.
const TURN_DEADLINE: Duration = Duration::from_secs(45 * 60);
const GOAL: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

/// A group of jars that are one class path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) name: &'static str,
    pom: &'static str,
    lock: &'static str,
}

macro_rules! set {
    ($name:literal) => {
        Set {
            name: $name,
            pom: include_str!(concat!("../artefacts/", $name, ".pom.xml")),
            lock: include_str!(concat!("../artefacts/", $name, ".lock")),
        }
    };
}

pub(crate) const KAFKA: Set = set!("kafka");
pub(crate) const CONNECT: Set = set!("connect");
pub(crate) const DEBEZIUM: Set = set!("debezium");
pub(crate) const JDBC_SINK: Set = set!("jdbc-sink");
/// What the parts of a devstack need; the JDBC sink is for benchmarks only.
pub(crate) const ALL: [Set; 3] = [KAFKA, CONNECT, DEBEZIUM];

impl Set {
    /// Where the set's jars are, or will be.
    pub(crate) fn folder(self, cache: &Path) -> PathBuf {
        cache.join(format!("{}-{}", self.name, &sha256(self.lock.as_bytes())[..12]))
    }

    /// What the set must consist of.
    pub(crate) fn lock(self) -> Lock {
        Lock::parse(self.lock).expect("the committed lock files are well-formed, a test reads them")
    }
}

/// Makes sure that the sets are in the cache and returns when they are. Needs no network when they already were.
pub(crate) async fn ensure(sets: &[Set], cache: &Path, progress: &Progress) -> Result<()> {
    let missing = |set: &Set| set.lock().difference_in_size(&set.folder(cache)).is_some();
    if !sets.iter().any(missing) {
        return Ok(());
    }
    fs::create_dir_all(cache).with_context(|| format!("cache folder {} can't be made", cache.display()))?;
    let _turn = turn(cache, progress).await?;
    for set in sets.iter().filter(|set| missing(set)) {
        resolve(*set, cache, progress).await?;
    }
    Ok(())
}

/// Waits until no other process resolves into this cache (nor into Maven's own, which two runs at once could spoil). The
/// lock ends with the returned file, also when this process is killed.
async fn turn(cache: &Path, progress: &Progress) -> Result<fs::File> {
    let path = cache.join("resolving.lock");
    let file = fs::File::create(&path).with_context(|| format!("{} can't be written", path.display()))?;
    if file.try_lock().is_err() {
        let step = progress.spinner("artefacts: another devstack is resolving them");
        let what = format!("the lock {} of another devstack", path.display());
        eventually(&what, TURN_DEADLINE, async || file.try_lock().ok()).await?;
        step.done("artefacts: resolved by another devstack");
    }
    Ok(file)
}

async fn resolve(set: Set, cache: &Path, progress: &Progress) -> Result<()> {
    let lock = set.lock();
    let working = cache.join(format!(".{}-{}.tmp", set.name, std::process::id()));
    let _removed_in_any_case = Scratch(&working);
    fs::create_dir_all(working.join("jars"))?;
    fs::write(working.join("pom.xml"), set.pom)?;
    // The log stays when the working folder goes: errors name it.
    let log = cache.join(format!("{}.log", set.name));
    fs::write(&log, "")?;
    run_maven(set, &working, &log, lock.len(), progress).await?;
    if let Some(difference) = lock.difference(&working.join("jars")) {
        fs::write(cache.join(format!("{}.lock", set.name)), Lock::of_folder(&working.join("jars"))?.to_string())?;
        let way_out = format!(
            "clear the jar from Maven's repository (~/.m2) and start again; after a deliberate change of \
             devstack/artefacts/{0}.pom.xml copy {1}/{0}.lock over devstack/artefacts/{0}.lock",
            set.name,
            cache.display()
        );
        return Err(Failure::new(set.name, difference).log(&log).way_out(way_out).into());
    }
    let folder = set.folder(cache);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("{} is damaged and can't go", folder.display()))?;
    }
    fs::rename(working.join("jars"), &folder).with_context(|| format!("{} can't be made", folder.display()))
}

async fn run_maven(set: Set, working: &Path, log: &Path, jars: usize, progress: &Progress) -> Result<()> {
    let Some(maven) = tool("mvn") else {
        return Err(Tool::Maven.missing(set.name).into());
    };
    let mut output = std::ffi::OsString::from("-DoutputDirectory=");
    output.push(working.join("jars"));
    let launch = Launch::new(set.name, maven, working, log)
        .args(["--batch-mode", "--file", "pom.xml", GOAL, "-DincludeScope=runtime"])
        .args([output])
        .inherit_env();
    let bar = progress.bar(&format!("artefacts of {}", set.name), jars as u64);
    let followed = async {
        loop {
            let (downloaded, copied) = counts(&fs::read_to_string(log).unwrap_or_default());
            bar.position(copied as u64, &format!("{downloaded} files downloaded"));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        result = launch.run("resolving the jars with Maven", RESOLVE_DEADLINE) => result?,
        () = followed => {}
    }
    bar.done(&format!("artefacts of {}: {jars} jars", set.name));
    Ok(())
}

/// Files downloaded and jars copied so far, by what Maven has written.
fn counts(log: &str) -> (usize, usize) {
    let count = |start: &str| log.lines().filter(|line| line.starts_with(start)).count();
    (count("[INFO] Downloaded from"), count("[INFO] Copying "))
}

/// A folder that goes with the scope.
struct Scratch<'a>(&'a Path);

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_locks_name_what_is_started() {
        for (set, jar) in [
            (KAFKA, "kafka_2.13-4.3.1.jar"),
            (CONNECT, "connect-runtime-4.3.1.jar"),
            (DEBEZIUM, "debezium-connector-postgres-3.7.0.Final.jar"),
            (JDBC_SINK, "debezium-connector-jdbc-3.5.0.Final.jar"),
        ] {
            assert!(set.lock().names().any(|name| name == jar), "{jar}");
            assert_eq!(set.lock().to_string(), set.lock, "sorted, one line each");
        }
    }

    #[test]
    fn progress_is_read_from_what_maven_writes() {
        let log = "[INFO] Downloading from central: a\n[INFO] Downloaded from central: a (1 kB)\n[INFO] Copying a.jar to /b\n";
        assert_eq!(counts(log), (1, 1));
    }
}
