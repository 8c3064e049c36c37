//! What a failure says: the part, what failed, the log and its last lines, and the way out.

use std::fmt;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Last lines of the log that an error quotes.
const TAIL_LINES: usize = 10;
/// Lines before those that speak of an error, which a long shutdown (Kafka's) would otherwise hide.
const CAUSE_LINES: usize = 6;
/// Bytes of the log that are read for them.
const TAIL_BYTES: u64 = 64 * 1024;
const CAUSES: [&str; 6] = ["ERROR", "FATAL", "Exception", "Caused by", "panicked", "error:"];
/// What the programs write when somebody else has their port.
const PORT_TAKEN: [&str; 4] = ["Address already in use", "BindException", "could not bind", "AddrInUse"];

/// A part that failed.
#[derive(Debug)]
pub struct Failure {
    part: String,
    what: String,
    /// The file and what is quoted of it.
    log: Option<(PathBuf, String)>,
    port_taken: bool,
    way_out: Option<String>,
}

impl Failure {
    pub(crate) fn new(part: &str, what: impl Into<String>) -> Self {
        Self { part: part.to_owned(), what: what.into(), log: None, port_taken: false, way_out: None }
    }

    /// Quotes the log as it is now.
    pub(crate) fn log(mut self, path: &Path) -> Self {
        let end = end_of(path);
        self.port_taken = PORT_TAKEN.iter().any(|text| end.contains(text));
        self.log = Some((path.to_owned(), quote(&end)));
        self
    }

    pub(crate) fn way_out(mut self, text: impl Into<String>) -> Self {
        self.way_out = Some(text.into());
        self
    }

    /// True when the log says that a port was taken by somebody else between its choice and its use.
    pub(crate) fn lost_its_port(&self) -> bool {
        self.port_taken
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.part, self.what)?;
        if let Some((path, tail)) = &self.log {
            write!(f, "\n  log: {}", path.display())?;
            for line in tail.lines() {
                write!(f, "\n    | {line}")?;
            }
        }
        let way_out = match &self.way_out {
            Some(way_out) => way_out,
            None if self.port_taken => "somebody else has its port: stop that program, or choose another with --port",
            None => "read the log above; `devstack doctor` checks tools and jars",
        };
        write!(f, "\n  way out: {way_out}")
    }
}

impl std::error::Error for Failure {}

/// The last lines, and before them the last of the earlier ones that speak of an error.
fn quote(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let (earlier, tail) = lines.split_at(lines.len().saturating_sub(TAIL_LINES));
    let speaks_of_error = |line: &&&str| !line.contains(" INFO ") && CAUSES.iter().any(|cause| line.contains(cause));
    let mut causes: Vec<&str> = earlier.iter().rev().filter(speaks_of_error).take(CAUSE_LINES).copied().collect();
    causes.reverse();
    [causes.as_slice(), tail].concat().join("\n")
}

/// The end of a log, empty when it can't be read.
fn end_of(path: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_part_cause_log_and_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("kafka.log");
        let lines: Vec<String> = (0..40).map(|n| format!("line {n}")).collect();
        std::fs::write(&log, lines.join("\n")).unwrap();
        let failure = Failure::new("kafka", "it ended with exit status: 1").log(&log).way_out("free some memory");
        let text = failure.to_string();
        assert!(text.starts_with("kafka: it ended with exit status: 1\n  log: "), "{text}");
        assert!(text.contains("| line 30\n") && text.contains("| line 39\n") && !text.contains("line 29"), "{text}");
        assert!(text.ends_with("way out: free some memory"), "{text}");
        assert!(!failure.lost_its_port());
    }

    #[test]
    fn the_cause_is_quoted_although_many_lines_follow_it() {
        let log = format!("INFO start\nERROR no room\n{}", "INFO closing\n".repeat(50));
        assert_eq!(quote(&log), format!("ERROR no room{}", "\nINFO closing".repeat(TAIL_LINES)));
    }

    #[test]
    fn a_taken_port_is_told_from_other_failures() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("postgres.log");
        std::fs::write(&log, "LOG:  could not bind IPv4 address \"127.0.0.1\": Address already in use").unwrap();
        assert!(Failure::new("view-primary", "ended").log(&log).lost_its_port());
    }
}
