//! The state folder of one devstack: who holds it, where things lie in it, how files appear in it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::account::{Account, folder_for, remove_temporary};
use crate::options::{Detour, Options};
use crate::ports::Ports;

/// Folder of the Postgres servers' data inside the state folder.
const POSTGRES: &str = "postgres";
/// How many devstacks may run beside each other on default folders.
const BESIDE_MAX: usize = 32;

/// A state folder, held by a lock until drop.
#[derive(Debug)]
pub(crate) struct Place {
    dir: PathBuf,
    pub(crate) cache_dir: PathBuf,
    pub(crate) bin_dir: PathBuf,
    pub(crate) ports: Ports,
    pub(crate) kafka_detour: Option<Detour>,
    /// Who Postgres runs as, and the folder it may write to.
    pub(crate) account: Option<Account>,
    pub(crate) postgres_dir: PathBuf,
    _held: File,
}

impl Place {
    /// Takes the folder, wipes what an earlier devstack left in it, and keeps that one's logs as `logs.previous`.
    pub(crate) fn take(options: &Options) -> Result<Self> {
        let base = &options.state_dir;
        let (dir, held) = if options.beside { first_held(base)? } else { made_and_held(base)? };
        wipe(&dir).with_context(|| format!("state folder {} can't be cleaned", dir.display()))?;
        let account = Account::for_postgres()?;
        let postgres_dir = folder_for(account.as_ref(), &dir, POSTGRES)?;
        Ok(Self {
            dir,
            cache_dir: options.cache_dir.clone(),
            bin_dir: options.bin_dir.clone(),
            ports: Ports::new(options.ports.clone()),
            kafka_detour: options.kafka_detour,
            account,
            postgres_dir,
            _held: held,
        })
    }

    /// The log of a part.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }

    /// The folder of all logs.
    pub(crate) fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// An empty folder of a part.
    pub(crate) fn fresh_dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        remove(&dir).and_then(|()| fs::create_dir(&dir)).with_context(|| format!("{} can't be made", dir.display()))?;
        Ok(dir)
    }

    /// Where the addresses are told.
    pub(crate) fn endpoints_path(&self) -> PathBuf {
        self.dir.join("endpoints.json")
    }
}

impl Drop for Place {
    /// Leaves the logs only: the data of one run of all tests are gigabytes. What can't be removed, the next start removes.
    fn drop(&mut self) {
        let _ = remove_all_but_logs(&self.dir);
    }
}

/// Writes a file that only this user reads (it may hold passwords); others see it whole or not at all.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<()> {
    let write = || {
        let unfinished = path.with_extension("tmp");
        remove(&unfinished)?;
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&unfinished, path)
    };
    write().with_context(|| format!("{} can't be written", path.display()))
}

/// The first of `base`, `base-2`, `base-3`, … that no devstack holds at this moment.
pub fn unused_state_dir(base: &Path) -> Result<PathBuf> {
    let free = |dir: &PathBuf| !dir.exists() || hold(dir).is_ok();
    candidates(base)
        .find(free)
        .with_context(|| format!("{BESIDE_MAX} devstacks run on {} and its like", base.display()))
}

fn candidates(base: &Path) -> impl Iterator<Item = PathBuf> {
    let numbered = (2..=BESIDE_MAX).map(|n| {
        let mut name = base.as_os_str().to_owned();
        name.push(format!("-{n}"));
        PathBuf::from(name)
    });
    std::iter::once(base.to_owned()).chain(numbered)
}

/// The first candidate that can be held, held at once: others may be choosing too. When there is none, the error of `base`.
fn first_held(base: &Path) -> Result<(PathBuf, File)> {
    let taken = made_and_held(base);
    if taken.is_ok() {
        return taken;
    }
    candidates(base).skip(1).find_map(|dir| made_and_held(&dir).ok()).map_or(taken, Ok)
}

fn made_and_held(dir: &Path) -> Result<(PathBuf, File)> {
    let made = fs::create_dir_all(dir).and_then(|()| dir.canonicalize());
    let dir = made.with_context(|| format!("state folder {} can't be made", dir.display()))?;
    let held = hold(&dir)?;
    // Not before: whoever holds it may be moving its logs.
    fs::create_dir_all(dir.join("logs")).with_context(|| format!("{} can't be written", dir.display()))?;
    Ok((dir, held))
}

fn hold(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let open = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = open.with_context(|| format!("{} can't be opened", path.display()))?;
    if file.try_lock().is_err() {
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        bail!(
            "another devstack (pid {holder}) uses {0}\n  way out: stop it, or name another folder with --state-dir DIR",
            dir.display()
        );
    }
    file.set_len(0)?;
    write!(file, "{}", std::process::id())?;
    Ok(file)
}

fn wipe(dir: &Path) -> Result<()> {
    remove(&dir.join("logs.previous"))?;
    fs::rename(dir.join("logs"), dir.join("logs.previous"))?;
    fs::create_dir(dir.join("logs"))?;
    Ok(remove_all_but_logs(dir)?)
}

fn remove_all_but_logs(dir: &Path) -> std::io::Result<()> {
    remove_temporary(&dir.join(POSTGRES));
    ["endpoints.json", POSTGRES, "kafka", "connect", "import", "prometheus"]
        .iter()
        .try_for_each(|name| remove(&dir.join(name)))
}

/// Removes a file or folder; one that is not there is fine.
pub(crate) fn remove(path: &Path) -> std::io::Result<()> {
    let outcome = match path.symlink_metadata() {
        Ok(about) if about.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match outcome {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Part;

    #[test]
    fn devstacks_that_start_at_once_take_different_folders() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { beside: true, ..Options::new([Part::Kafka], dir.path().join("state")).unwrap() };
        let all_ready = std::sync::Barrier::new(8);
        let take = || {
            all_ready.wait();
            Place::take(&options).unwrap()
        };
        let places: Vec<Place> = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..8).map(|_| scope.spawn(take)).collect();
            takers.into_iter().map(|taker| taker.join().unwrap()).collect()
        });
        let folders: std::collections::BTreeSet<_> = places.iter().map(Place::logs).collect();
        assert_eq!(folders.len(), 8, "{folders:?}");
    }

    #[test]
    fn a_state_folder_is_held_by_one_and_cleaned_for_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("state");
        assert_eq!(unused_state_dir(&base).unwrap(), base);
        let options = Options::new([Part::Kafka], &base).unwrap();
        let place = Place::take(&options).unwrap();
        assert_eq!(unused_state_dir(&base).unwrap(), dir.path().join("state-2"));
        let error = Place::take(&options).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())) && error.contains("--state-dir"), "{error}");

        write_whole(&place.endpoints_path(), "{}").unwrap();
        fs::write(place.log("kafka"), "said before").unwrap();
        fs::write(place.fresh_dir("kafka").unwrap().join("data"), "old").unwrap();
        drop(place);
        let left = ["endpoints.json", "kafka"].map(|name| base.join(name).exists());
        assert_eq!(left, [false; 2], "data that nobody reads any more");
        assert_eq!(unused_state_dir(&base).unwrap(), base);
        fs::create_dir(base.join("kafka")).unwrap();
        let _place = Place::take(&options).unwrap();
        assert!(!base.join("kafka").exists(), "what a killed devstack left");
        assert_eq!(fs::read_to_string(base.join("logs.previous/kafka.log")).unwrap(), "said before");
    }
}
