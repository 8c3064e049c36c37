//! From what a statement read to the next stretch of a log. Pure.
//!
//! Within a partition the order is that of places. Partitions are joined by the moments at which their rows were written:
//! a site that has moved to another partition then keeps the order of its changes, as far as moments tell it; nothing
//! within a partition depends on them.

use super::cursor::{Cursor, Place};
use crate::position::Generation;
use crate::queries::changes::{ChangeRow, Page, PartitionPage};

/// What comes after a cursor.
#[derive(Debug)]
pub(crate) struct Stretch {
    /// In the order in which they are told; those that a filter leaves out are without their event.
    pub(crate) rows: Vec<ChangeRow>,
    /// Where the stretch ends.
    pub(crate) to: Cursor,
    /// Whether it ends at the positions of the server that was asked.
    pub(crate) is_last: bool,
}

/// Why a log can't be read on from a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Changes after it are no longer kept.
    Expired,
}

impl Page {
    /// The stretch of a page that was read after `cursor`, of a log of this generation.
    pub(crate) fn stretch(self, cursor: &Cursor, generation: Generation) -> Result<Stretch, Broken> {
        let is_gone = |(partition, page): (&i32, &PartitionPage)| {
            page.floor.is_some_and(|floor| cursor.place(*partition).next_offset() < floor)
        };
        if self.partitions.iter().any(is_gone) {
            return Err(Broken::Expired);
        }
        let mut to = cursor.in_generation(generation);
        let (mut rows, mut open) = (Vec::new(), Vec::new());
        for (partition, page) in self.partitions {
            // A position that was set back and has passed again may have left two rows in one place.
            let mut read = cursor.place(partition);
            let mut fresh = page.rows;
            fresh.retain(|row| {
                let is_new = row.place > read;
                read = read.max(row.place);
                is_new
            });
            let end = page.whole.then(|| Place::before(page.next_offset));
            open.push(Open { partition, rows: fresh.into_iter().peekable(), end });
        }
        while let Some(next) = Open::first(&mut open) {
            let row = next.rows.next().expect("it has a first row");
            to.advance(row.partition, row.place);
            let cut = next.end.is_none() && next.rows.peek().is_none();
            rows.push(row);
            if cut {
                // What this partition holds beyond the page may be older than what others still have.
                break;
            }
        }
        let mut is_last = true;
        for partition in &mut open {
            match (partition.rows.peek(), partition.end) {
                (None, Some(end)) => to.advance(partition.partition, end),
                _ => is_last = false,
            }
        }
        Ok(Stretch { rows, to, is_last })
    }

    /// Whether some position is behind a cursor.
    pub(crate) fn is_behind(&self, cursor: &Cursor) -> bool {
        self.partitions.iter().any(|(partition, page)| page.next_offset < cursor.place(*partition).next_offset())
    }
}

/// A partition's rows that are still to be told.
struct Open {
    partition: i32,
    rows: std::iter::Peekable<std::vec::IntoIter<ChangeRow>>,
    /// The place behind all of them; `None` when there is more than the page holds.
    end: Option<Place>,
}

impl Open {
    /// The partition whose next row was written first.
    fn first(open: &mut [Open]) -> Option<&mut Open> {
        let written = |open: &mut Open| open.rows.peek().map(|row| row.written_micros);
        let with_rows = open.iter_mut().filter_map(|open| Some((written(open)?, open)));
        with_rows.min_by_key(|(micros, open)| (*micros, open.partition)).map(|(_, open)| open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(partition: i32, offset: i64, ordinal: i32, written_micros: i64) -> ChangeRow {
        let place = Place { offset, ordinal };
        ChangeRow { partition, place, written_micros, site_id: "s".into(), app_ids: vec![], event: Some("{}".into()) }
    }

    fn page(partitions: &[(i32, i64, Option<i64>, bool, &[ChangeRow])]) -> Page {
        let partition = |(partition, next_offset, floor, whole, rows): &(i32, i64, Option<i64>, bool, &[ChangeRow])| {
            let rows = rows.to_vec();
            (*partition, PartitionPage { next_offset: *next_offset, floor: *floor, rows, whole: *whole })
        };
        Page { newest_served: 1, partitions: partitions.iter().map(partition).collect() }
    }

    fn told(stretch: &Stretch) -> Vec<(i32, i64, i32)> {
        stretch.rows.iter().map(|row| (row.partition, row.place.offset, row.place.ordinal)).collect()
    }

    fn at(places: &[(i32, i64, i32)]) -> Cursor {
        Cursor::new(
            1,
            places
                .iter()
                .map(|(partition, offset, ordinal)| (*partition, Place { offset: *offset, ordinal: *ordinal })),
        )
    }

    #[test]
    fn partitions_are_joined_by_time_and_each_keeps_its_order() {
        let page = page(&[
            (0, 20, None, true, &[row(0, 3, 0, 50), row(0, 9, 0, 10)]),
            (1, 30, None, true, &[row(1, 8, 0, 20), row(1, 9, 0, 60)]),
        ]);
        let stretch = page.stretch(&at(&[]), 1).unwrap();
        assert_eq!(told(&stretch), [(1, 8, 0), (0, 3, 0), (0, 9, 0), (1, 9, 0)]);
        assert_eq!((stretch.to, stretch.is_last), (at(&[(0, 19, 0), (1, 29, 0)]), true));
    }

    #[test]
    fn a_stretch_ends_where_a_cut_partition_runs_out() {
        let page = page(&[
            (0, 20, None, false, &[row(0, 3, 0, 10), row(0, 4, 0, 30)]),
            (1, 30, None, true, &[row(1, 8, 0, 20), row(1, 9, 0, 40)]),
            (2, 40, None, true, &[]),
        ]);
        let stretch = page.stretch(&at(&[]), 1).unwrap();
        assert_eq!(told(&stretch), [(0, 3, 0), (1, 8, 0), (0, 4, 0)]);
        assert_eq!((stretch.to, stretch.is_last), (at(&[(0, 4, 0), (1, 8, 0), (2, 39, 0)]), false));
    }

    #[test]
    fn a_repair_behind_the_last_record_is_told_to_one_who_has_read_that() {
        let stretch = page(&[(0, 5, None, true, &[row(0, 4, 1, 10)])]).stretch(&at(&[(0, 4, 0)]), 1).unwrap();
        assert_eq!((told(&stretch), &stretch.to), (vec![(0, 4, 1)], &at(&[(0, 4, 1)])));
        let after = page(&[(0, 5, None, true, &[])]).stretch(&stretch.to, 1).unwrap();
        assert_eq!(after.to, at(&[(0, 4, 1)]));
    }

    #[test]
    fn a_server_that_is_behind_takes_nobody_back() {
        let cursor = at(&[(0, 9, 0)]);
        let page = page(&[(0, 5, None, true, &[])]);
        assert!(page.is_behind(&cursor));
        assert_eq!(page.stretch(&cursor, 1).unwrap().to, cursor);
    }

    #[test]
    fn two_rows_in_one_place_are_told_once() {
        let rows = [row(0, 3, 0, 10), row(0, 3, 0, 90), row(0, 4, 0, 95)];
        let stretch = page(&[(0, 5, None, true, &rows)]).stretch(&at(&[]), 1).unwrap();
        assert_eq!(told(&stretch), [(0, 3, 0), (0, 4, 0)]);
    }

    #[test]
    fn below_the_floor_a_cursor_has_expired() {
        for (place, floor, expired) in [
            (Some(4), Some(5), false),
            (Some(3), Some(5), true),
            (None, Some(1), true),
            (None, Some(0), false),
            (Some(3), None, false),
        ] {
            let cursor = place.map_or(at(&[]), |offset| at(&[(0, offset, 0)]));
            let stretch = page(&[(0, 9, floor, true, &[])]).stretch(&cursor, 1);
            assert_eq!(stretch.is_err(), expired, "{place:?} {floor:?}");
        }
    }
}
