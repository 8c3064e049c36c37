//! How far somebody has read the change log: per partition of the source, the place of the last change that was read.

use std::collections::BTreeMap;

use crate::position::Generation;

/// A place in one partition's log; everything up to it, itself included, has been read.
///
/// The offset alone would not do: a repair has no record of its own, and writes its change behind those of the last record
/// that was applied, under the same offset and the next ordinal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) offset: i64,
    pub(crate) ordinal: i32,
}

impl Place {
    /// Before everything.
    pub(crate) const START: Place = Place { offset: -1, ordinal: 0 };

    /// The place from which all changes below an offset have been read.
    pub(crate) const fn before(next_offset: i64) -> Place {
        Place { offset: next_offset - 1, ordinal: 0 }
    }

    /// The offset from which on something is still to be read.
    pub(crate) const fn next_offset(self) -> i64 {
        self.offset.saturating_add(1)
    }
}

/// A place in each partition, and the generation whose log it was read from.
///
/// Offsets are of the same topic in every generation, so places of one generation hold in another. A partition that is
/// not named was not there yet: nothing of it has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) generation: Generation,
    places: BTreeMap<i32, Place>,
}

impl Cursor {
    pub(crate) fn new(generation: Generation, places: impl IntoIterator<Item = (i32, Place)>) -> Self {
        Self { generation, places: places.into_iter().collect() }
    }

    /// The same places in another generation's log.
    pub(crate) fn in_generation(&self, generation: Generation) -> Self {
        Self { generation, ..self.clone() }
    }

    pub(crate) fn place(&self, partition: i32) -> Place {
        self.places.get(&partition).copied().unwrap_or(Place::START)
    }

    /// By partition, ascending.
    pub(crate) fn places(&self) -> impl ExactSizeIterator<Item = (i32, Place)> {
        self.places.iter().map(|(partition, place)| (*partition, *place))
    }

    /// Goes on to a place; a place that is behind changes nothing.
    pub(crate) fn advance(&mut self, partition: i32, place: Place) {
        let own = self.places.entry(partition).or_insert(place);
        *own = place.max(*own);
    }

    /// Whether everything up to another cursor has been read, whatever its generation.
    pub(crate) fn covers(&self, other: &Cursor) -> bool {
        other.places().all(|(partition, place)| self.place(partition) >= place)
    }

    /// Goes on to wherever another cursor is ahead; takes its generation.
    pub(crate) fn join(&mut self, other: &Cursor) {
        self.generation = other.generation;
        other.places().for_each(|(partition, place)| self.advance(partition, place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(places: &[(i32, i64, i32)]) -> Cursor {
        Cursor::new(
            1,
            places
                .iter()
                .map(|(partition, offset, ordinal)| (*partition, Place { offset: *offset, ordinal: *ordinal })),
        )
    }

    #[test]
    fn a_cursor_covers_what_is_behind_it_in_every_partition() {
        let here = cursor(&[(0, 5, 1), (1, 7, 0)]);
        for (other, covered) in [
            (cursor(&[]), true),
            (cursor(&[(0, 5, 1)]), true),
            (cursor(&[(0, 5, 2)]), false),
            (cursor(&[(0, 6, 0), (1, 1, 0)]), false),
            (cursor(&[(2, -1, 0)]), true),
            (cursor(&[(2, 0, 0)]), false),
        ] {
            assert_eq!(here.covers(&other), covered, "{other:?}");
        }
    }

    #[test]
    fn joining_never_goes_back() {
        let mut here = cursor(&[(0, 5, 1), (1, 7, 0)]);
        here.join(&cursor(&[(0, 4, 9), (1, 8, 0), (2, 3, 0)]));
        assert_eq!(here, cursor(&[(0, 5, 1), (1, 8, 0), (2, 3, 0)]));
        assert!(Place::before(0) == Place::START && Place::before(8).next_offset() == 8);
    }
}
