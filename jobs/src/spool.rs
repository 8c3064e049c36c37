//! Files on disk until they are in the log: one folder, one process, and a bound over all of them.
//!
//! A file is named after its import. What lies here when the process starts was left by a crash; the name says which transaction may
//! still be open for it.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use shared::import::ImportId;

use crate::{RunError, observe};

const LOCK: &str = "lock";
const ENDING: &str = "csv";
const BUFFER_BYTES: usize = 64 << 10;

/// The folder.
pub(crate) struct Spool {
    folder: PathBuf,
    bytes: AtomicU64,
    bytes_max: u64,
    /// Imports whose file is here, each worked by one request.
    taken: Mutex<BTreeSet<ImportId>>,
    /// Held for as long as the process lives: two in one folder would remove each other's files.
    _lock: File,
}

/// Why there is no place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    #[error("the spool is full")]
    Full,
    #[error("an upload of this import is under way")]
    Taken,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Spool {
    /// Opens the folder, which is made unless it is there.
    pub(crate) fn open(folder: &Path, bytes_max: u64) -> Result<Self, RunError> {
        let failed = |why: String| RunError::Spool { folder: folder.display().to_string(), why };
        fs::create_dir_all(folder).map_err(|error| failed(error.to_string()))?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join(LOCK));
        let lock = lock.map_err(|error| failed(error.to_string()))?;
        lock.try_lock().map_err(|error| failed(format!("another process works in it: {error}")))?;
        let (folder, bytes, taken) = (folder.to_owned(), AtomicU64::new(0), Mutex::default());
        Ok(Self { folder, bytes, bytes_max, taken, _lock: lock })
    }

    /// Imports whose files were left by a crash, and are not taken by this process.
    pub(crate) fn left_over(&self) -> io::Result<Vec<ImportId>> {
        let mut left = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let stem =
                path.file_stem().and_then(|stem| stem.to_str()).filter(|_| path.extension() == Some(ENDING.as_ref()));
            left.extend(stem.and_then(ImportId::parse).filter(|id| !self.taken().contains(id)));
        }
        Ok(left)
    }

    /// Removes a file that was left.
    pub(crate) fn remove(&self, id: ImportId) -> io::Result<()> {
        fs::remove_file(self.path(id))
    }

    /// A place for the file of this import.
    pub(crate) fn place(self: &Arc<Self>, id: ImportId) -> Result<SpoolFile, SpoolError> {
        if !self.taken().insert(id) {
            return Err(SpoolError::Taken);
        }
        // From here on the place is given back when it is dropped.
        let mut place = SpoolFile { spool: Arc::clone(self), id, bytes: 0, file: None };
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(self.path(id))?;
        place.file = Some(BufWriter::with_capacity(BUFFER_BYTES, file));
        Ok(place)
    }

    fn path(&self, id: ImportId) -> PathBuf {
        self.folder.join(format!("{id}.{ENDING}"))
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, BTreeSet<ImportId>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, bytes: u64) {
        let before = self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        observe::spool_bytes(before - bytes);
    }
}

/// The file of one import; removed when it is dropped.
pub(crate) struct SpoolFile {
    spool: Arc<Spool>,
    id: ImportId,
    bytes: u64,
    file: Option<BufWriter<File>>,
}

impl SpoolFile {
    /// Adds text, if the bound over all files allows.
    pub(crate) fn write(&mut self, text: &str) -> Result<(), SpoolError> {
        let bytes = text.len() as u64;
        let before = self.spool.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        observe::spool_bytes(before + bytes);
        if before + bytes > self.spool.bytes_max {
            return Err(SpoolError::Full);
        }
        let file = self.file.as_mut().ok_or_else(|| io::Error::other("the file is finished"))?;
        Ok(file.write_all(text.as_bytes())?)
    }

    /// Nothing is added any more. It need not survive a crash, so it is not synced.
    pub(crate) fn finish(&mut self) -> Result<(), SpoolError> {
        let file = self.file.take().ok_or_else(|| io::Error::other("the file is finished"))?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(())
    }

    /// The file from its start.
    pub(crate) fn read(&self) -> io::Result<File> {
        File::open(self.spool.path(self.id))
    }
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        self.file = None;
        if let Err(error) = self.spool.remove(self.id)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(error = %error, "a file stays in the spool until the next start");
        }
        self.spool.give_back(self.bytes);
        self.spool.taken().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_bounded_together_and_gone_when_they_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Arc::new(Spool::open(folder.path(), 10).unwrap());
        let (first, second) = (ImportId::new(), ImportId::new());
        let mut one = spool.place(first).unwrap();
        assert!(matches!(spool.place(first), Err(SpoolError::Taken)));
        one.write("12345678").unwrap();
        one.finish().unwrap();
        assert_eq!(io::read_to_string(one.read().unwrap()).unwrap(), "12345678");
        let mut two = spool.place(second).unwrap();
        assert!(matches!(two.write("abc"), Err(SpoolError::Full)));
        drop((one, two));
        assert_eq!(spool.bytes.load(Ordering::Relaxed), 0);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the lock alone");
        assert!(spool.place(first).is_ok());
    }

    #[test]
    fn a_folder_is_one_processes_and_what_a_crash_left_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let id = ImportId::new();
        fs::write(folder.path().join(format!("{id}.csv")), "x").unwrap();
        fs::write(folder.path().join("notes.txt"), "not ours").unwrap();
        let spool = Spool::open(folder.path(), 10).unwrap();
        assert!(matches!(Spool::open(folder.path(), 10), Err(RunError::Spool { .. })));
        assert_eq!(spool.left_over().unwrap(), [id]);
        spool.remove(id).unwrap();
        assert_eq!(spool.left_over().unwrap(), []);
    }
}
