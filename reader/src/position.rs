//! How far a replica is, and what an answer may claim of it: no more than it contains, and no less than it shows.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use jiff::Timestamp;

/// The number of a generation of the view; its tables live in the schema `view_g<N>`.
pub(crate) type Generation = i32;

/// The values of `Projection-Position` and `Projection-As-Of`, ready to send.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    /// `<generation>/<partition>:<next_offset>[,<partition>:<next_offset>…]`, partitions ascending.
    pub(crate) position: HeaderValue,
    /// RFC 3339, UTC: changes up to this moment are contained.
    pub(crate) as_of: HeaderValue,
    /// `Projection-Staleness`: the seconds by which the replica is behind, where that is more than it should be.
    pub(crate) staleness: Option<HeaderValue>,
}

/// What an answer rests on: a sample that was taken on its replica before it was read.
#[derive(Debug, Clone)]
pub(crate) struct Grounds {
    pub(crate) sample: Arc<Sample>,
    /// The replica's lag, when it is behind and answered for want of a better one.
    pub(crate) behind: Option<Duration>,
}

impl Grounds {
    /// The claim of an answer about one site, by its row.
    pub(crate) fn of_site(&self, row: RowPosition) -> Claim {
        self.told(self.sample.of_site(row))
    }

    /// The claim of an answer about all partitions that rests on these rows too, if any.
    pub(crate) fn of_all(&self, rows: impl IntoIterator<Item = RowPosition>) -> Claim {
        self.told(self.sample.of_all(rows))
    }

    /// The claim of an answer that was read together with the positions.
    pub(crate) fn of_snapshot(&self, positions: &Positions) -> Claim {
        self.told(self.sample.of_snapshot(positions))
    }

    fn told(&self, claim: Claim) -> Claim {
        Claim { staleness: self.behind.map(|lag| lag.as_secs().into()), ..claim }
    }
}

/// How far one partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartitionPosition {
    pub(crate) partition: i32,
    pub(crate) next_offset: i64,
    /// `None` until the writer has seen the partition's end once.
    pub(crate) as_of: Option<Timestamp>,
}

/// What a row tells of its replica: everything before this offset of its partition is contained, as rows and positions
/// commit together. Where a row is newer than the sample, so is this; and only then it has to be of the row's own snapshot
/// (see `queries::Placing`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowPosition {
    pub(crate) partition: i32,
    pub(crate) next_offset: i64,
}

/// The positions of all partitions in the snapshot that was read: `<partition>:<next_offset>[,…]`; `None` before the first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Positions(pub(crate) Option<String>);

/// What tells how far one database is behind others, and behind itself. See `replicas/course.rs`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    /// The newest moment at which a position was moved, in microseconds of the primary's clock. On an idle system it moves
    /// once a second.
    pub(crate) moved_at: Option<i64>,
    /// Up to where the log was received, and replayed; `None` on a primary.
    pub(crate) received: Option<i64>,
    pub(crate) replayed: Option<i64>,
    /// Whether it follows another server.
    pub(crate) follows: bool,
}

/// A replica's state at one moment. Data read on the same replica afterwards contains at least this.
#[derive(Debug)]
pub(crate) struct Sample {
    /// The active generation.
    pub(crate) generation: Generation,
    /// The highest number served so far: after a rollback the active generation's is lower.
    newest_served: Generation,
    pub(crate) progress: Progress,
    pub(crate) taken_at: Instant,
    /// What was there by then is contained.
    pub(crate) asked_at: Instant,
    /// Sum of the positions' epochs: rises when a partition is claimed, and with it when a repair has written changes, which
    /// moves no position.
    pub(crate) claims: i64,
    all: Claim,
    /// Ascending.
    partitions: Vec<(PartitionPosition, Claim)>,
}

impl Sample {
    /// Renders the headers once; answers only clone them.
    pub(crate) fn new(
        generation: Generation,
        newest_served: Generation,
        mut positions: Vec<PartitionPosition>,
        progress: Progress,
    ) -> Self {
        positions.sort_unstable_by_key(|p| p.partition);
        let now = Instant::now();
        Self {
            generation,
            newest_served,
            progress,
            taken_at: now,
            asked_at: now,
            claims: 0,
            all: claim(generation, &positions),
            partitions: positions.iter().map(|p| (*p, claim(generation, std::slice::from_ref(p)))).collect(),
        }
    }

    /// The same, asked for at this moment, with the sum of the positions' epochs.
    pub(crate) fn asked(self, asked_at: Instant, claims: i64) -> Self {
        Self { asked_at, claims, ..self }
    }

    /// The claim of an answer about one site. Without what its row tells, a document that is newer than the sample would be
    /// shown under an older position; and a client that returns this might next meet an older document.
    pub(crate) fn of_site(&self, row: RowPosition) -> Claim {
        let RowPosition { partition, next_offset } = row;
        match self.partition(partition) {
            Some((position, claim)) if position.next_offset >= next_offset => claim.clone(),
            older => {
                let as_of = older.and_then(|(position, _)| position.as_of);
                claim(self.generation, &[PartitionPosition { partition, next_offset, as_of }])
            }
        }
    }

    /// The claim of an answer about all partitions that rests on these rows too, if any.
    pub(crate) fn of_all(&self, rows: impl IntoIterator<Item = RowPosition>) -> Claim {
        let mut newer: Vec<RowPosition> = rows.into_iter().filter(|row| !self.contains(*row)).collect();
        if newer.is_empty() {
            return self.all.clone();
        }
        newer.sort_unstable_by_key(|row| (row.partition, Reverse(row.next_offset)));
        newer.dedup_by_key(|row| row.partition);
        let mut positions: Vec<PartitionPosition> = self.partitions.iter().map(|(position, _)| *position).collect();
        for RowPosition { partition, next_offset } in newer {
            match positions.binary_search_by_key(&partition, |position| position.partition) {
                Ok(index) => positions[index].next_offset = next_offset,
                Err(index) => positions.insert(index, PartitionPosition { partition, next_offset, as_of: None }),
            }
        }
        claim(self.generation, &positions)
    }

    /// The claim of an answer that was read together with the positions.
    pub(crate) fn of_snapshot(&self, positions: &Positions) -> Claim {
        match &positions.0 {
            Some(offsets) => Claim { position: header(format!("{}/{offsets}", self.generation)), ..self.all.clone() },
            None => self.all.clone(),
        }
    }

    pub(crate) fn contains(&self, row: RowPosition) -> bool {
        self.partition(row.partition).is_some_and(|(position, _)| position.next_offset >= row.next_offset)
    }

    /// Whether everything before a position is contained. Offsets are of the same topic in every generation, so those of
    /// one that was served before count as they are. One that this replica has not seen in service yet, and a partition
    /// that it does not know, are not reached.
    pub(crate) fn reaches(&self, position: &Position) -> bool {
        let is_reached = |(partition, next_offset): &(i32, i64)| {
            self.partition(*partition).is_some_and(|(reached, _)| reached.next_offset >= *next_offset)
        };
        position.generation <= self.newest_served && position.offsets.iter().all(is_reached)
    }

    fn partition(&self, partition: i32) -> Option<&(PartitionPosition, Claim)> {
        let index = self.partitions.binary_search_by_key(&partition, |(p, _)| p.partition).ok()?;
        self.partitions.get(index)
    }

    /// `(partition, next offset)`, by partition.
    pub(crate) fn offsets(&self) -> impl Iterator<Item = (i32, i64)> {
        self.partitions.iter().map(|(position, _)| (position.partition, position.next_offset))
    }
}

/// A view that knows no partition yet claims nothing of partition 0, which every topic has. A missing `as_of` is the
/// epoch: no later moment is certain.
fn claim(generation: Generation, positions: &[PartitionPosition]) -> Claim {
    const NOTHING: PartitionPosition = PartitionPosition { partition: 0, next_offset: 0, as_of: None };
    let positions = if positions.is_empty() { std::slice::from_ref(&NOTHING) } else { positions };
    let offsets: Vec<_> = positions.iter().map(|p| format!("{}:{}", p.partition, p.next_offset)).collect();
    let as_of = positions.iter().map(|p| p.as_of.unwrap_or(Timestamp::UNIX_EPOCH)).min().unwrap_or_default();
    let position = header(format!("{generation}/{}", offsets.join(",")));
    Claim { position, as_of: header(as_of.to_string()), staleness: None }
}

fn header(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("numbers and timestamps are ASCII")
}

/// A position that a client demands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) generation: Generation,
    /// `(partition, next offset)`, each partition once, as they came.
    pub(crate) offsets: Vec<(i32, i64)>,
}

impl Position {
    /// Reads a value of `Projection-Position`; `None` when it is not one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (generation, offsets) = text.split_once('/')?;
        let generation = number(generation).filter(|g| *g > 0)?;
        let mut found: Vec<(i32, i64)> = Vec::new();
        for pair in offsets.split(',') {
            let (partition, next_offset) = pair.split_once(':')?;
            let (partition, next_offset) = (number(partition)?, number(next_offset)?);
            if found.iter().any(|(p, _)| *p == partition) {
                return None;
            }
            found.push((partition, next_offset));
        }
        Some(Self { generation, offsets: found })
    }
}

/// A decimal number without sign.
pub(crate) fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(partition: i32, next_offset: i64, as_of: Option<i64>) -> PartitionPosition {
        let as_of = as_of.map(|micros| Timestamp::from_microsecond(micros).unwrap());
        PartitionPosition { partition, next_offset, as_of }
    }

    fn row(partition: i32, next_offset: i64) -> RowPosition {
        RowPosition { partition, next_offset }
    }

    fn texts(claim: &Claim) -> (&str, &str) {
        (claim.position.to_str().unwrap(), claim.as_of.to_str().unwrap())
    }

    #[test]
    fn a_claim_names_sorted_partitions_and_the_oldest_moment() {
        let positions = vec![at(2, 7, Some(1_700_000_000_500_000)), at(0, 5, Some(1_700_000_000_000_000))];
        let sample = Sample::new(3, 3, positions, Progress::default());
        assert_eq!(texts(&sample.of_all([])), ("3/0:5,2:7", "2023-11-14T22:13:20Z"));
        assert_eq!(texts(&sample.of_site(row(2, 1))), ("3/2:7", "2023-11-14T22:13:20.5Z"));
    }

    #[test]
    fn what_is_newer_than_the_sample_is_claimed_with_the_moment_of_the_sample() {
        let moment = "1970-01-01T00:00:00.000001Z";
        let sample = Sample::new(3, 3, vec![at(0, 5, Some(1)), at(2, 7, Some(1))], Progress::default());
        assert_eq!(texts(&sample.of_site(row(2, 9))), ("3/2:9", moment));
        assert_eq!(texts(&sample.of_site(row(1, 4))), ("3/1:4", "1970-01-01T00:00:00Z"));
        assert_eq!(texts(&sample.of_all([row(2, 8), row(0, 1), row(2, 9)])), ("3/0:5,2:9", moment));
        assert_eq!(texts(&sample.of_all([row(1, 4)])).0, "3/0:5,1:4,2:7");
        assert_eq!(texts(&sample.of_snapshot(&Positions(Some("0:6,2:9".into())))), ("3/0:6,2:9", moment));
        assert_eq!(texts(&sample.of_snapshot(&Positions(None))), ("3/0:5,2:7", moment));
    }

    /// Records of one site are written at offsets 0, 1, …; a replica at `n` shows the one before it. Whatever was sampled before
    /// what was read: the claim is true, and a replica that has reached it shows no older record.
    #[test]
    fn a_client_that_returns_its_position_is_never_shown_an_older_row() {
        const RECORDS: i64 = 6;
        let replica = |reached| Sample::new(1, 1, vec![at(0, reached, None), at(1, 3, None)], Progress::default());
        for (sampled, read) in (1..RECORDS).flat_map(|read| (0..=read).map(move |sampled| (sampled, read))) {
            let (sample, shown) = (replica(sampled), row(0, read));
            let snapshot = Positions(Some(format!("0:{read},1:3")));
            for claim in [sample.of_site(shown), sample.of_all([shown]), sample.of_snapshot(&snapshot)] {
                let claimed = Position::parse(texts(&claim).0).unwrap();
                assert!(replica(read).reaches(&claimed), "{claimed:?} is more than {read}");
                let older = (0..read).find(|older| replica(*older).reaches(&claimed));
                assert_eq!(older, None, "sampled at {sampled}, read at {read}, claimed {claimed:?}");
            }
        }
    }

    #[test]
    fn an_answer_of_a_replica_that_is_behind_says_so() {
        let sample = Arc::new(Sample::new(1, 1, vec![at(0, 5, None)], Progress::default()));
        let staleness = |behind| Grounds { sample: sample.clone(), behind }.of_site(row(0, 5)).staleness;
        assert_eq!(staleness(Some(Duration::from_millis(12_900))), Some(HeaderValue::from(12)));
        assert_eq!(staleness(None), None);
    }

    #[test]
    fn what_is_not_known_is_claimed_as_nothing() {
        let sample = Sample::new(1, 1, vec![at(0, 5, None), at(1, 6, Some(1))], Progress::default());
        assert_eq!(texts(&sample.of_all([])), ("1/0:5,1:6", "1970-01-01T00:00:00Z"));
        assert_eq!(
            texts(&Sample::new(1, 1, vec![], Progress::default()).of_all([])),
            ("1/0:0", "1970-01-01T00:00:00Z")
        );
    }

    #[test]
    fn a_position_is_reached_when_every_partition_is() {
        // Generation 2 is active again, after 3.
        let sample = Sample::new(2, 3, vec![at(0, 5, None), at(2, 7, None)], Progress::default());
        for (position, reached) in [
            ("2/0:5", true),
            ("2/0:6", false),
            ("2/0:5,2:7", true),
            ("2/2:8,0:1", false),
            ("1/2:7", true),
            ("3/0:5", true),
            ("3/0:6", false),
            ("4/0:1", false),
            ("2/1:0", false),
        ] {
            assert_eq!(sample.reaches(&Position::parse(position).unwrap()), reached, "{position}");
        }
    }

    #[test]
    fn a_demanded_position_has_the_form_of_a_claimed_one() {
        let position = Position::parse("3/0:5,2:7");
        assert_eq!(position, Some(Position { generation: 3, offsets: vec![(0, 5), (2, 7)] }));
        for bad in
            ["", "x", "1", "1/0", "1/", "1/0:-5", "1/0:+5", "0/0:1", "-1/0:1", "1/0:1,", "1/0:1,0:2", "1/0:1 ", "1/:1"]
        {
            assert_eq!(Position::parse(bad), None, "{bad:?}");
        }
        assert_eq!(Position::parse(&"9".repeat(500)), None);
        assert_eq!(Position::parse("1/0:9223372036854775808"), None);
    }
}
