//! From what a statement read to what is relayed next. Pure.
//!
//! Within a partition the order is that of places. Partitions are joined by the moments at which their rows were written: a
//! site whose key has moved to an added partition then keeps the order of its changes, as far as moments tell it; nothing
//! within a partition depends on them.

use std::{iter::Peekable, vec::IntoIter};

use crate::store::change_log::{ChangeRow, LogPage, PartitionPage, Place, Places};

/// What comes after some places.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) rows: Vec<ChangeRow>,
    /// Behind them.
    pub(super) to: Places,
    /// Whether they reach the view's positions.
    pub(super) is_last: bool,
}

/// The log does not reach back to a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expired {
    pub(super) partition: i32,
    /// What was relayed.
    pub(super) next_offset: i64,
    /// What is kept.
    pub(super) floor: i64,
}

/// At most so many of a page's rows that come after these places, of which the page was read.
pub(super) fn stretch(page: LogPage, after: &Places, records_max: usize) -> Result<Rows, Expired> {
    let place = |partition: &i32| after.get(partition).copied().unwrap_or(Place::START);
    for (partition, page) in &page.partitions {
        let next_offset = place(partition).offset + 1;
        if let Some(floor) = page.floor.filter(|floor| next_offset < *floor) {
            return Err(Expired { partition: *partition, next_offset, floor });
        }
    }
    let mut to = after.clone();
    let mut open: Vec<Open> =
        page.partitions.into_iter().map(|(partition, page)| Open::new(partition, page, place(&partition))).collect();
    let mut rows = Vec::new();
    while rows.len() < records_max
        && let Some(next) = Open::first(&mut open)
    {
        let row = next.rows.next().expect("it has a first row");
        advance(&mut to, row.partition, row.place);
        let is_cut = next.end.is_none() && next.rows.peek().is_none();
        rows.push(row);
        if is_cut {
            // What this partition holds beyond the page may be older than what others still have.
            break;
        }
    }
    let mut is_last = true;
    for partition in &mut open {
        match (partition.rows.peek(), partition.end) {
            (None, Some(end)) => advance(&mut to, partition.partition, end),
            _ => is_last = false,
        }
    }
    Ok(Rows { rows, to, is_last })
}

/// A view that is behind takes nobody back.
fn advance(to: &mut Places, partition: i32, place: Place) {
    let own = to.entry(partition).or_insert(place);
    *own = place.max(*own);
}

/// A partition's rows that are still to be joined.
struct Open {
    partition: i32,
    rows: Peekable<IntoIter<ChangeRow>>,
    /// The place behind all of them; `None` when there is more than the page holds.
    end: Option<Place>,
}

impl Open {
    fn new(partition: i32, page: PartitionPage, after: Place) -> Self {
        // A position that was set back and has passed again may have left two rows in one place.
        let (mut read, mut rows) = (after, page.rows);
        rows.retain(|row| {
            let is_new = row.place > read;
            read = read.max(row.place);
            is_new
        });
        let end = page.whole.then(|| Place::before(page.next_offset));
        Self { partition, rows: rows.into_iter().peekable(), end }
    }

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
    use crate::store::change_log::Served;

    fn row(partition: i32, offset: i64, ordinal: i32, written_micros: i64) -> ChangeRow {
        let (site_id, event) = ("s".to_owned(), "{}".to_owned());
        ChangeRow { partition, place: Place { offset, ordinal }, written_micros, site_id, event }
    }

    /// Partition, next offset, floor, whether it is whole, rows.
    type Read<'r> = (i32, i64, Option<i64>, bool, &'r [ChangeRow]);

    fn page(partitions: &[Read<'_>]) -> LogPage {
        let partition = |(partition, next_offset, floor, whole, rows): &Read<'_>| {
            let rows = rows.to_vec();
            (*partition, PartitionPage { next_offset: *next_offset, floor: *floor, rows, whole: *whole })
        };
        let served = Served { generation: 1, activation: 1 };
        LogPage { served, partitions: partitions.iter().map(partition).collect() }
    }

    fn at(places: &[(i32, i64, i32)]) -> Places {
        places
            .iter()
            .map(|(partition, offset, ordinal)| (*partition, Place { offset: *offset, ordinal: *ordinal }))
            .collect()
    }

    fn told(rows: &Rows) -> Vec<(i32, i64, i32)> {
        rows.rows.iter().map(|row| (row.partition, row.place.offset, row.place.ordinal)).collect()
    }

    #[test]
    fn partitions_are_joined_by_time_and_each_keeps_its_order() {
        let page = page(&[
            (0, 20, None, true, &[row(0, 3, 0, 50), row(0, 9, 0, 10)]),
            (1, 30, None, true, &[row(1, 8, 0, 20), row(1, 9, 0, 60)]),
        ]);
        let rows = stretch(page, &at(&[]), 10).expect("kept");
        assert_eq!(told(&rows), [(1, 8, 0), (0, 3, 0), (0, 9, 0), (1, 9, 0)]);
        assert_eq!((rows.to, rows.is_last), (at(&[(0, 19, 0), (1, 29, 0)]), true));
    }

    #[test]
    fn a_stretch_ends_where_a_cut_partition_runs_out_and_at_its_limit() {
        let pages = || {
            page(&[
                (0, 20, None, false, &[row(0, 3, 0, 10), row(0, 4, 0, 30)]),
                (1, 30, None, true, &[row(1, 8, 0, 20), row(1, 9, 0, 40)]),
                (2, 40, None, true, &[]),
            ])
        };
        for (records_max, expected, to) in [
            (10, &[(0, 3, 0), (1, 8, 0), (0, 4, 0)][..], at(&[(0, 4, 0), (1, 8, 0), (2, 39, 0)])),
            (2, &[(0, 3, 0), (1, 8, 0)], at(&[(0, 3, 0), (1, 8, 0), (2, 39, 0)])),
        ] {
            let rows = stretch(pages(), &at(&[]), records_max).expect("kept");
            assert_eq!((told(&rows).as_slice(), &rows.to, rows.is_last), (expected, &to, false));
        }
    }

    #[test]
    fn a_repair_behind_the_last_record_is_told_once() {
        let rows = stretch(page(&[(0, 5, None, true, &[row(0, 4, 1, 10)])]), &at(&[(0, 4, 0)]), 9).expect("kept");
        assert_eq!((told(&rows), &rows.to), (vec![(0, 4, 1)], &at(&[(0, 4, 1)])));
        let after = stretch(page(&[(0, 5, None, true, &[])]), &rows.to, 9).expect("kept");
        assert_eq!(after.to, at(&[(0, 4, 1)]));
    }

    #[test]
    fn a_view_that_is_behind_takes_nobody_back() {
        let rows = stretch(page(&[(0, 5, None, true, &[])]), &at(&[(0, 9, 0)]), 9).expect("kept");
        assert_eq!((told(&rows), rows.to), (vec![], at(&[(0, 9, 0)])));
    }

    #[test]
    fn two_rows_in_one_place_are_told_once() {
        let rows = [row(0, 3, 0, 10), row(0, 3, 0, 90), row(0, 4, 0, 95)];
        let rows = stretch(page(&[(0, 5, None, true, &rows)]), &at(&[]), 9).expect("kept");
        assert_eq!(told(&rows), [(0, 3, 0), (0, 4, 0)]);
    }

    #[test]
    fn below_the_floor_nothing_is_relayed() {
        for (place, floor, expired) in
            [(Some(4), Some(5), false), (Some(3), Some(5), true), (None, Some(1), true), (None, Some(0), false)]
        {
            let after = place.map_or(at(&[]), |offset| at(&[(0, offset, 0)]));
            let read = stretch(page(&[(0, 9, floor, true, &[row(0, 8, 0, 1)])]), &after, 9);
            assert_eq!(read.is_err(), expired, "{place:?} {floor:?}");
        }
    }
}
