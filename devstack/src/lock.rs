//! Lists of files with their sizes and hashes: one line `sha256 bytes name` each, sorted by name.

use std::fmt::{self, Write};
use std::path::Path;
use std::{fs, io};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// What a folder must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lock {
    files: Vec<File>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct File {
    sha256: String,
    bytes: u64,
    name: String,
}

impl Lock {
    /// Reads the text form.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let file = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let (sha256, bytes, name) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
            (sha256.len() == 64).then(|| File { sha256: sha256.to_owned(), bytes, name: name.to_owned() })
        };
        let files = text.lines().map(|line| file(line).with_context(|| format!("no `sha256 bytes name`: {line}")));
        Ok(Self { files: files.collect::<Result<_>>()? })
    }

    /// Describes the files of a folder.
    pub(crate) fn of_folder(folder: &Path) -> Result<Self> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let (name, bytes) = (entry.file_name().to_string_lossy().into_owned(), entry.metadata()?.len());
            files.push(File { sha256: sha256_of(&entry.path())?, bytes, name });
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { files })
    }

    /// How many files there are.
    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// The files' names.
    #[cfg(test)]
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|file| file.name.as_str())
    }

    /// The first difference that sizes show, which costs one `stat` per file.
    pub(crate) fn difference_in_size(&self, folder: &Path) -> Option<String> {
        self.files.iter().find_map(|file| match fs::metadata(folder.join(&file.name)) {
            Ok(about) if about.len() == file.bytes => None,
            Ok(about) => Some(format!("{} has {} bytes, not {}", file.name, about.len(), file.bytes)),
            Err(error) => Some(format!("{}: {error}", file.name)),
        })
    }

    /// The first difference in any byte, also a file too many: a class path takes every jar of the folder.
    pub(crate) fn difference(&self, folder: &Path) -> Option<String> {
        let found = match Self::of_folder(folder) {
            Ok(found) => found,
            Err(error) => return Some(format!("{} can't be read: {error:#}", folder.display())),
        };
        let changed = self.files.iter().find(|file| !found.files.contains(file));
        let surplus = found.files.iter().find(|file| !self.files.iter().any(|known| known.name == file.name));
        match (changed, surplus) {
            (Some(file), _) => Some(format!("{} is missing or not the pinned one (sha256 {})", file.name, file.sha256)),
            (None, Some(file)) => Some(format!("{} is not in the list of pinned files", file.name)),
            (None, None) => None,
        }
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.iter().try_for_each(|file| writeln!(f, "{} {} {}", file.sha256, file.bytes, file.name))
    }
}

/// The hash of some bytes in lowercase hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn sha256_of(path: &Path) -> io::Result<String> {
    fs::read(path).map(|bytes| sha256(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_difference_is_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.jar"), "aaa").unwrap();
        fs::write(dir.path().join("b.jar"), "bbb").unwrap();
        let lock = Lock::of_folder(dir.path()).unwrap();
        assert_eq!(Lock::parse(&lock.to_string()).unwrap(), lock);
        assert_eq!(lock.difference(dir.path()), None);

        fs::write(dir.path().join("c.jar"), "c").unwrap();
        assert_eq!(lock.difference(dir.path()).unwrap(), "c.jar is not in the list of pinned files");
        fs::remove_file(dir.path().join("c.jar")).unwrap();

        fs::write(dir.path().join("b.jar"), "bbx").unwrap();
        assert_eq!(lock.difference_in_size(dir.path()), None);
        assert!(lock.difference(dir.path()).unwrap().starts_with("b.jar is missing or not the pinned one"));

        fs::write(dir.path().join("b.jar"), "b").unwrap();
        assert_eq!(lock.difference_in_size(dir.path()).unwrap(), "b.jar has 1 bytes, not 3");
        fs::remove_file(dir.path().join("a.jar")).unwrap();
        assert!(lock.difference_in_size(dir.path()).unwrap().starts_with("a.jar: "));
    }

    #[test]
    fn a_line_that_is_no_entry_is_an_error() {
        assert!(Lock::parse("abc 12 a.jar").is_err());
        assert!(Lock::parse(&format!("{} x a.jar", "0".repeat(64))).is_err());
    }
}
