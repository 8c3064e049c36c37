//! Where in the source's log a change was made.

use std::{cmp::Ordering, fmt, str::FromStr};

/// Position of a change in the source's log. It serves only as a guard against a source that replays older changes: events
/// of one transaction may share a position, snapshot rows all do, and across transactions positions are not monotonic.
///
/// Text form (stored by the writer): `lsn/<n>` for Postgres, `binlog/<server_id>/<file>/<pos>/<row>` for MySQL and MariaDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourcePosition {
    /// Postgres: `source.lsn`, a byte position in the write-ahead log.
    Lsn(u64),
    /// MySQL and MariaDB: number of the binlog file, byte position in it, and row within the event, of one server.
    Binlog {
        /// `source.server_id`; positions of different servers cannot be compared.
        server_id: u64,
        /// Number at the end of `source.file` (`mysql-bin.000003` → 3).
        file: u64,
        /// `source.pos`.
        pos: u64,
        /// `source.row`.
        row: u64,
    },
}

impl SourcePosition {
    /// Whether `self` lies before `other` in the same log; false when the two cannot be compared.
    pub fn is_older_than(&self, other: &Self) -> bool {
        self.compare(other) == Some(Ordering::Less)
    }

    fn compare(&self, other: &Self) -> Option<Ordering> {
        match (*self, *other) {
            (Self::Lsn(a), Self::Lsn(b)) => Some(a.cmp(&b)),
            (
                Self::Binlog { server_id: a, file, pos, row },
                Self::Binlog { server_id: b, file: other_file, pos: other_pos, row: other_row },
            ) if a == b => Some((file, pos, row).cmp(&(other_file, other_pos, other_row))),
            _ => None,
        }
    }
}

impl fmt::Display for SourcePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lsn(lsn) => write!(f, "lsn/{lsn}"),
            Self::Binlog { server_id, file, pos, row } => write!(f, "binlog/{server_id}/{file}/{pos}/{row}"),
        }
    }
}

/// The text is not a [`SourcePosition`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a source position (lsn/<n> or binlog/<server_id>/<file>/<pos>/<row>)")]
pub struct ParsePositionError(String);

impl FromStr for SourcePosition {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, rest) = text.split_once('/').unwrap_or((text, ""));
        let numbers = rest.split('/').map(str::parse).collect::<Result<Vec<u64>, _>>();
        match (kind, numbers.as_deref()) {
            ("lsn", Ok(&[lsn])) => Ok(Self::Lsn(lsn)),
            ("binlog", Ok(&[server_id, file, pos, row])) => Ok(Self::Binlog { server_id, file, pos, row }),
            _ => Err(ParsePositionError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn binlog(server_id: u64, file: u64, pos: u64, row: u64) -> SourcePosition {
        SourcePosition::Binlog { server_id, file, pos, row }
    }

    #[test]
    fn positions_compare_only_within_one_log() {
        let older = [
            (SourcePosition::Lsn(1), SourcePosition::Lsn(2)),
            (binlog(1, 9, 900, 0), binlog(1, 10, 4, 0)),
            (binlog(1, 1, 4, 9), binlog(1, 1, 5, 0)),
            (binlog(1, 1, 4, 0), binlog(1, 1, 4, 1)),
        ];
        for (a, b) in older {
            assert!(a.is_older_than(&b) && !b.is_older_than(&a), "{a} {b}");
        }
        assert!(!SourcePosition::Lsn(2).is_older_than(&SourcePosition::Lsn(2)), "equal is not older");
        assert!(!SourcePosition::Lsn(1).is_older_than(&binlog(1, 2, 3, 4)));
        assert!(!binlog(1, 1, 1, 1).is_older_than(&binlog(2, 9, 9, 9)));
    }

    #[test]
    fn the_text_form_reads_back() {
        for position in [SourcePosition::Lsn(u64::MAX), binlog(1, 2, 3, 4)] {
            assert_eq!(position.to_string().parse(), Ok(position));
        }
        for bad in ["", "lsn", "lsn/", "lsn/-1", "lsn/1/2", "binlog/1/2/3", "lsn/18446744073709551616"] {
            assert!(bad.parse::<SourcePosition>().is_err(), "{bad}");
        }
    }
}
