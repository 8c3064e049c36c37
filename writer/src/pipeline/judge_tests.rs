use std::sync::Arc;

use super::*;
use crate::{
    apps::InstalledApps,
    decode::{Event, Kind, Told},
    fold::Entry,
    projection::Projection,
};

const LIMITS: BrakeLimits = BrakeLimits { percent_max: 100, window_records: 1000, run_records: 4 };

/// The reasons, cuts and outcomes of records of partition 0, written as letters: `g`ood, `b`ad, `t`runcate, `s`kipped,
/// `o` the create of a key change whose delete is still to come.
struct Case {
    records: Vec<Decoded>,
    verdicts: Verdicts,
    unwritable: HashMap<i32, String>,
    on_truncate: OnTruncate,
    brakes: Brakes,
}

fn site(id: &str) -> SiteId {
    SiteId::new(id).expect("an id")
}

fn event(offset: i64, letter: char) -> Result<Option<Event>, Rejection> {
    let apps = InstalledApps::decode("[]", &Projection::default(), 10).expect("apps");
    let (apps, old_key) = match letter {
        'o' => (Told::Absent, Some(site("old"))),
        _ => (Told::Value(Arc::new(apps)), None),
    };
    match letter {
        'b' => Err(Rejection::new(Reason::InvalidJson, "bad".to_owned())),
        't' => Err(Rejection::new(Reason::Truncate, "truncated".to_owned())),
        's' => Ok(None),
        _ => Ok(Some(Event {
            site_id: site(&format!("site-{offset}")),
            kind: Kind::Write { version: Told::Absent, apps, old_key },
            source_position: Some(shared::envelope::SourcePosition::Lsn(1)),
            committed_at_ms: None,
        })),
    }
}

impl Case {
    fn new(letters: &str) -> Self {
        let record = |(offset, letter): (usize, char)| Decoded {
            partition: 0,
            offset: offset as i64,
            index: offset,
            event: event(offset as i64, letter),
        };
        Self {
            records: letters.chars().enumerate().map(record).collect(),
            verdicts: Verdicts::new(),
            unwritable: HashMap::new(),
            on_truncate: OnTruncate::DeadLetter,
            brakes: Brakes::new(),
        }
    }

    fn judge(&self) -> Judgement {
        let keys = self.records.iter().filter_map(|record| record.event.as_ref().ok()?.as_ref());
        let keys = keys.flat_map(crate::fold::keys).cloned();
        let mut sites: Sites = keys.map(|site_id| (site_id, Entry::new(None))).collect();
        let rules = Rules {
            waited_enough: &HashSet::new(),
            on_truncate: self.on_truncate,
            verdicts: &self.verdicts,
            unwritable: &self.unwritable,
            brakes: &self.brakes,
            brake_limits: LIMITS,
        };
        judge(&mut sites, self.records.iter(), &HashMap::from([(0, 0)]), rules)
    }

    /// As the lane does it: what is undelivered is delivered, until nothing is.
    fn deliver_all(&mut self) -> Judgement {
        loop {
            let judgement = self.judge();
            if judgement.undelivered.is_empty() {
                return judgement;
            }
            for (partition, offset, rejection) in judgement.undelivered {
                self.verdicts.insert((partition, offset), Verdict { rejection, delivered: true });
            }
        }
    }
}

fn offsets(letters: &[(i32, i64, Rejection)]) -> Vec<i64> {
    letters.iter().map(|(_, offset, _)| *offset).collect()
}

fn cut(judgement: &Judgement) -> Option<(i64, &'static str)> {
    let cut = judgement.cuts.get(&0)?;
    let why = match cut.why {
        Stop::Rejected(_) => "rejected",
        Stop::Braked(..) => "braked",
        Stop::AwaitsDeadLetter(_) => "awaits a dead letter",
        Stop::AwaitsOldKey(_) => "awaits its old key",
    };
    Some((cut.offset, why))
}

#[test]
fn every_record_before_a_cut_has_exactly_one_outcome() {
    for (letters, expected) in [("", None), ("gg", None), ("gbgs", None), ("bbgbb", None), ("ttttt", None)] {
        let judgement = Case::new(letters).deliver_all();
        assert_eq!(cut(&judgement), expected, "{letters}");
        assert_eq!(judgement.outcomes.values().sum::<u64>(), letters.len() as u64, "{letters}");
        let dead = letters.chars().filter(|letter| "bt".contains(*letter)).count();
        assert_eq!(judgement.dead_letters.len(), dead, "{letters}");
    }
    let judgement = Case::new("gbobg").deliver_all();
    assert_eq!(cut(&judgement), Some((2, "awaits its old key")));
    assert_eq!(judgement.outcomes.values().sum::<u64>(), 2);
}

#[test]
fn one_attempt_finds_all_bad_records_up_to_the_cut() {
    assert_eq!(offsets(&Case::new("gbgtgb").judge().undelivered), [1, 3, 5]);
    assert_eq!(offsets(&Case::new("bgob").judge().undelivered), [0], "what is behind a cut is not delivered");
    assert_eq!(offsets(&Case::new("bbbbb").judge().undelivered), [0, 1, 2], "nor is what the brake refuses");
}

#[test]
fn the_brake_cuts_at_the_record_too_many_and_goes_on_from_batch_to_batch() {
    let judgement = Case::new("gbbbbbbb").deliver_all();
    assert_eq!((cut(&judgement), judgement.dead_letters.len()), (Some((4, "braked")), 3));
    let mut next = Case::new("bbg");
    next.brakes = Case::new("gbb").deliver_all().brakes;
    let judgement = next.deliver_all();
    assert_eq!((cut(&judgement), judgement.dead_letters.len()), (Some((1, "braked")), 1));
    assert_eq!(cut(&Case::new("bbbtttb").deliver_all()), Some((6, "braked")), "a truncate neither counts nor forgives");
}

#[test]
fn a_truncate_blocks_where_the_policy_says_so() {
    let mut case = Case::new("gtg");
    assert_eq!(cut(&case.deliver_all()), None);
    case = Case::new("gtg");
    case.on_truncate = OnTruncate::Block;
    let judgement = case.deliver_all();
    assert_eq!((cut(&judgement), judgement.dead_letters.len()), (Some((1, "rejected")), 0));
}

#[test]
fn without_a_dead_letter_topic_the_partition_waits_at_the_first_letter_that_is_not_there() {
    let mut case = Case::new("gbgbg");
    let rejection = Rejection::new(Reason::InvalidJson, "bad".to_owned());
    case.verdicts.insert((0, 1), Verdict { rejection, delivered: true });
    case.unwritable.insert(0, "away".to_owned());
    let judgement = case.judge();
    assert_eq!((cut(&judgement), judgement.undelivered.len()), (Some((3, "awaits a dead letter")), 0));
    assert_eq!(judgement.outcomes.values().sum::<u64>(), 3);
}

#[test]
fn a_verdict_holds_whatever_the_fold_says() {
    let mut case = Case::new("ggg");
    let rejection = Rejection::new(Reason::RejectedByDatabase, "refused".to_owned());
    case.verdicts.insert((0, 1), Verdict { rejection, delivered: false });
    let judgement = case.deliver_all();
    assert_eq!(judgement.dead_letters, [(0, 1, Reason::RejectedByDatabase)]);
    assert_eq!(judgement.outcomes.get(&(0, RecordOutcome::Applied)), Some(&2));
}
