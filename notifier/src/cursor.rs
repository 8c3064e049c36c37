//! Cursors: where in the stream of a channel a client is. Pure.
//!
//! A frame about an import has the cursor of its record in topic `notifications`, `<partition>-<offset>`. A client that returns a
//! cursor has seen that frame and all of its channel before it. Before the first frame the cursor is `start`. Opaque to clients.

use std::{fmt, str::FromStr};

const START: &str = "start";

/// Where a record stands in topic `notifications`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

/// What a client has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cursor {
    /// Nothing.
    Start,
    /// This record and what came before it.
    At(Place),
}

/// A text that no frame had as its cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`after` is the cursor of a frame, or `{START}`")]
pub(crate) struct NoCursor;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str(START),
            Self::At(Place { partition, offset }) => write!(f, "{partition}-{offset}"),
        }
    }
}

impl FromStr for Cursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        if text.is_empty() || text == START {
            return Ok(Self::Start);
        }
        let (partition, offset) = text.split_once('-').ok_or(NoCursor)?;
        let place = Place {
            partition: partition.parse().map_err(|_| NoCursor)?,
            offset: offset.parse().map_err(|_| NoCursor)?,
        };
        match place.partition >= 0 && place.offset >= 0 {
            true => Ok(Self::At(place)),
            false => Err(NoCursor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_written_and_nothing_else_is() {
        let at = Cursor::At(Place { partition: 3, offset: 70 });
        for cursor in [Cursor::Start, at] {
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        assert_eq!(("".parse(), "3-70".parse()), (Ok(Cursor::Start), Ok(at)));
        for text in ["3", "3-", "-3", "3--1", "-1-3", "a-b", "3-70-1", "99999999999-1"] {
            assert_eq!(text.parse::<Cursor>(), Err(NoCursor), "{text}");
        }
    }
}
