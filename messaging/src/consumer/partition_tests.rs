use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{blocking::NextAttempt, record::Place, retry::Trail};

fn records(records: usize) -> Load {
    Load { records, bytes: usize::MAX }
}

/// A partition, driven by hand.
struct Case {
    partition: Partition,
    now: Instant,
    begun: HashMap<i64, Arc<Record>>,
}

impl Case {
    fn new(order: Order) -> Self {
        Self::kept(order, PartitionState::new("t", 0))
    }

    fn kept(order: Order, state: PartitionState) -> Self {
        let now = Instant::now();
        let partition = Partition::new(Offsets::resume(0, ""), state, order, (now, Timestamp::UNIX_EPOCH));
        Self { partition, now, begun: HashMap::new() }
    }

    /// Delivers records from offset 0 on, with these letters as keys.
    fn deliver(&mut self, keys: &str) {
        for (offset, key) in (0..).zip(keys.chars()) {
            self.deliver_at(offset, key, None);
        }
    }

    fn deliver_at(&mut self, offset: i64, key: char, due: Option<Instant>) {
        let place = Place { topic: "t".into(), partition: 0, offset };
        let trail = Trail::begin(place.clone(), None);
        let key = Some(Bytes::from(key.to_string()));
        let record = Record { place, timestamp_ms: None, key, value: None, headers: Vec::new(), trail };
        self.partition.accept(Arc::new(record), due);
    }

    /// Begins what may be begun; gives the offsets.
    fn begin(&mut self) -> Vec<i64> {
        let mut offsets = Vec::new();
        while let Some(job) = self.partition.next(self.now) {
            offsets.push(job.record.place.offset);
            self.begun.insert(job.record.place.offset, job.record);
        }
        offsets
    }

    fn finish(&mut self, offset: i64) {
        let record = self.begun.remove(&offset).expect("begun");
        self.partition.finish(&record);
    }

    fn retry(&mut self, offset: i64, after: Duration) {
        let record = self.begun.remove(&offset).expect("begun");
        self.partition.retry(&record, self.now + after, stuck(WaitsFor::Retry), 0);
    }

    fn block(&mut self, offset: i64) {
        let record = self.begun.remove(&offset).expect("begun");
        self.partition.block(&record, stuck(WaitsFor::Operator), 0);
    }

    fn park(&mut self, offset: i64) {
        let record = self.begun.remove(&offset).expect("begun");
        self.partition.park(&record, stuck(WaitsFor::Operator), 0);
    }

    fn next_commit(&self) -> i64 {
        self.partition.offsets.commit().0
    }
}

fn stuck(waits_for: WaitsFor) -> Stuck {
    let (since, class, error) = (String::new(), "c".to_owned(), "e".to_owned());
    Stuck { since, attempts: 1, class, error, key: None, waits_for, next_attempt: None }
}

const S: Duration = Duration::from_secs(1);
const BY_KEY: Order = Order::ByKey { parallel_max: 3 };

#[test]
fn a_partition_or_a_key_is_handled_one_record_after_another() {
    let mut case = Case::new(Order::ByPartition);
    case.deliver("abc");
    assert_eq!(case.begin(), [0]);
    case.finish(0);
    assert_eq!(case.begin(), [1]);

    let mut case = Case::new(BY_KEY);
    case.deliver("aabcdb");
    assert_eq!(case.begin(), [0, 2, 3], "three keys at once");
    case.finish(3);
    assert_eq!(case.begin(), [4]);
    case.finish(2);
    case.finish(0);
    assert_eq!(case.begin(), [5, 1]);
    assert_eq!(case.next_commit(), 1);
}

#[test]
fn a_retry_in_place_stops_the_partition_and_is_never_early() {
    let mut case = Case::new(BY_KEY);
    case.deliver("abcd");
    assert_eq!(case.begin(), [0, 1, 2]);
    case.retry(0, 5 * S);
    case.finish(1);
    assert_eq!(case.begin(), Vec::<i64>::new(), "nothing is begun behind it");
    assert_eq!(case.partition.wake_at(), Some(case.now + 5 * S));
    case.now += 5 * S - Duration::from_nanos(1);
    assert_eq!(case.begin(), Vec::<i64>::new());
    case.now += Duration::from_nanos(1);
    assert_eq!(case.begin(), [0]);
    case.finish(0);
    assert_eq!(case.begin(), [3]);
    assert!(case.partition.state.is_ordinary());
}

#[test]
fn a_blocked_record_waits_for_a_person_and_goes_on_where_that_was() {
    let mut case = Case::new(Order::ByPartition);
    case.deliver("ab");
    case.begin();
    case.block(0);
    case.now += 1000 * S;
    assert_eq!((case.begin(), case.partition.wake_at()), (vec![], None));
    case.partition.try_again(1);
    assert_eq!(case.begin(), Vec::<i64>::new(), "another record is not meant");
    case.partition.try_again(0);
    assert_eq!(case.begin(), [0]);
    case.finish(0);
    assert_eq!(case.begin(), [1]);
}

#[test]
fn a_parked_key_waits_in_order_while_others_go_on() {
    let mut case = Case::new(BY_KEY);
    case.deliver("ab");
    case.begin();
    case.park(0);
    case.finish(1);
    case.deliver_at(2, 'a', None);
    case.deliver_at(3, 'c', None);
    assert_eq!((case.begin(), case.partition.parked().records), (vec![3], 2));
    case.finish(3);
    assert_eq!(case.next_commit(), 0, "what is parked is not done");
    assert_eq!(case.partition.load(), Load::default(), "nor does it count as held");
    case.partition.try_again(0);
    assert_eq!((case.begin(), case.partition.parked().records), (vec![0], 0));
    case.finish(0);
    assert_eq!(case.begin(), [2]);
    case.finish(2);
    assert_eq!((case.next_commit(), case.partition.is_idle()), (4, true));
}

#[test]
fn too_many_parked_records_stop_the_partition_at_the_first() {
    let mut case = Case::new(BY_KEY);
    case.deliver("ab");
    case.begin();
    case.park(0);
    case.finish(1);
    case.deliver_at(2, 'a', None);
    assert_eq!(case.partition.block_if_overfull(records(2)), None);
    case.deliver_at(3, 'a', None);
    assert_eq!(case.partition.block_if_overfull(records(2)), Some(0));
    case.deliver_at(4, 'b', None);
    assert_eq!(case.begin(), Vec::<i64>::new());
    case.partition.try_again(0);
    assert_eq!(case.begin(), [0]);
    case.finish(0);
    assert_eq!(case.begin(), [4, 2]);
}

#[test]
fn too_many_parked_bytes_stop_the_partition_too() {
    let mut case = Case::new(BY_KEY);
    case.deliver("aa");
    case.begin();
    case.park(0);
    let bytes = case.partition.parked().bytes;
    assert!(bytes > 0);
    assert_eq!(case.partition.block_if_overfull(Load { records: 9, bytes }), None);
    assert_eq!(case.partition.block_if_overfull(Load { records: 9, bytes: bytes - 1 }), Some(0));
    assert_eq!(case.partition.parked(), Load::default(), "they are in hand again");
}

#[test]
fn what_was_kept_of_a_record_holds_when_it_is_delivered_again() {
    let mut state = PartitionState::new("t", 0);
    state.block(0, stuck(WaitsFor::Operator), 0);
    state.park(1, stuck(WaitsFor::Operator), 0);
    let mut case = Case::kept(BY_KEY, state);
    case.deliver("abbc");
    assert_eq!(case.begin(), Vec::<i64>::new(), "it stands without an attempt");
    case.partition.try_again(0);
    assert_eq!(case.begin(), [0]);
    case.finish(0);
    assert_eq!((case.begin(), case.partition.parked().records), (vec![3], 2));
}

#[test]
fn a_retry_that_an_earlier_owner_was_about_to_make_is_not_early_and_no_clock_makes_it_later() {
    // As it was written; by a clock that is an hour ahead; unreadable.
    for at in
        [5, 3600].map(|seconds| (Timestamp::UNIX_EPOCH + seconds * S).to_string()).into_iter().chain(["x".to_owned()])
    {
        let next = NextAttempt { at, delay_ms: 5000 };
        let mut state = PartitionState::new("t", 0);
        state.block(0, Stuck { next_attempt: Some(next), ..stuck(WaitsFor::Retry) }, 0);
        let mut case = Case::kept(BY_KEY, state.clone());
        case.deliver("ab");
        assert_eq!((case.begin(), case.partition.wake_at()), (vec![], Some(case.now + 5 * S)));
        case.now += 5 * S;
        assert_eq!(case.begin(), [0]);

        let mut hurried = Case::kept(BY_KEY, state);
        hurried.partition.try_again(0);
        hurried.deliver("a");
        assert_eq!(hurried.begin(), [0], "somebody wants it at once");
    }
    let next = NextAttempt::after(Duration::from_micros(1500), Timestamp::UNIX_EPOCH);
    assert_eq!((next.delay_ms, next.wait(Timestamp::UNIX_EPOCH)), (2, Duration::from_micros(1500)));
    assert_eq!(next.wait(Timestamp::UNIX_EPOCH + S), Duration::ZERO, "this machine's clock is the one that counts");
}

#[test]
fn what_was_kept_of_a_record_that_is_gone_holds_nothing() {
    let mut state = PartitionState::new("t", 0);
    state.block(0, stuck(WaitsFor::Operator), 0);
    let mut case = Case::kept(BY_KEY, state);
    assert_eq!(case.begin(), Vec::<i64>::new());
    case.deliver_at(1, 'a', None);
    assert_eq!(case.begin(), [1]);
}

#[test]
fn a_record_that_is_left_out_is_not_handled() {
    let mut case = Case::new(Order::ByPartition);
    case.deliver("ab");
    case.begin();
    case.block(0);
    case.partition.state.ignoring_once.insert(0, "me: why".to_owned());
    case.partition.try_again(0);
    let job = case.partition.next(case.now).expect("begun");
    assert_eq!((job.record.place.offset, job.left_out.as_deref()), (0, Some("me: why")));
    case.partition.finish(&job.record);
    assert!(case.partition.state.is_ordinary());
    assert_eq!(case.partition.next(case.now).map(|job| job.left_out), Some(None));
}

#[test]
fn a_record_of_a_retry_topic_waits_until_it_is_due() {
    let mut case = Case::new(BY_KEY);
    let due = case.now + 3 * S;
    case.deliver_at(0, 'a', Some(due));
    case.deliver_at(1, 'b', Some(due + S));
    assert_eq!((case.begin(), case.partition.wake_at()), (vec![], Some(due)));
    case.now = due;
    assert_eq!((case.begin(), case.partition.wake_at()), (vec![0], Some(due + S)));
    case.now = due + S;
    assert_eq!(case.begin(), [1]);
}

#[test]
fn a_pause_begins_nothing() {
    let mut case = Case::new(BY_KEY);
    case.partition.state.paused = true;
    case.deliver("ab");
    assert_eq!((case.begin(), case.partition.wake_at()), (vec![], None));
    case.partition.state.paused = false;
    assert_eq!(case.begin(), [0, 1]);
}

/// What the world does next to a partition with records of four keys.
#[derive(Debug, Clone, Copy)]
enum Step {
    Deliver(u8),
    Succeed(usize),
    Retry(usize),
    Block(usize),
    Park(usize),
    TryAgain(usize),
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..4_u8).prop_map(Step::Deliver),
        6 => (0..9_usize).prop_map(Step::Succeed),
        2 => (0..9_usize).prop_map(Step::Retry),
        1 => (0..9_usize).prop_map(Step::Block),
        2 => (0..9_usize).prop_map(Step::Park),
        4 => (0..9_usize).prop_map(Step::TryAgain),
        2 => Just(Step::Wait),
    ];
    proptest::collection::vec(step, 0..200)
}

proptest! {
    #[test]
    fn whatever_happens_each_key_is_in_order_and_every_record_is_done_once(steps in steps(), parallel_max in 1..4_usize) {
        let mut case = Case::new(Order::ByKey { parallel_max });
        let (mut delivered, mut done) = (Vec::<(i64, u8)>::new(), Vec::<i64>::new());
        let key_of = |offset: i64, delivered: &[(i64, u8)]| delivered[offset as usize].1;
        for step in steps {
            let begun: Vec<i64> = { let mut all: Vec<_> = case.begun.keys().copied().collect(); all.sort(); all };
            let pick = |index: usize| (!begun.is_empty()).then(|| begun[index % begun.len().max(1)]);
            match step {
                Step::Deliver(key) => {
                    let offset = delivered.len() as i64;
                    delivered.push((offset, key));
                    case.deliver_at(offset, char::from(b'a' + key), None);
                }
                Step::Succeed(index) => if let Some(offset) = pick(index) {
                    case.finish(offset);
                    done.push(offset);
                },
                Step::Retry(index) => if let Some(offset) = pick(index) { case.retry(offset, S) },
                Step::Block(index) => if let Some(offset) = pick(index) { case.block(offset) },
                Step::Park(index) => if let Some(offset) = pick(index) { case.park(offset) },
                Step::TryAgain(index) => {
                    let state = &case.partition.state;
                    let held: Vec<i64> = state.blocked.keys().chain(state.parked.keys()).copied().collect();
                    if let Some(offset) = held.get(index % held.len().max(1)) { case.partition.try_again(*offset) }
                }
                Step::Wait => case.now += S,
            }
            case.partition.block_if_overfull(records(5));
            let is_held = !case.partition.state.blocked.is_empty();
            let new = case.begin();
            prop_assert!(is_held || new.is_empty() || case.begun.len() <= parallel_max);
            let mut keys: Vec<u8> = case.begun.keys().map(|offset| key_of(*offset, &delivered)).collect();
            keys.sort();
            keys.dedup();
            prop_assert_eq!(keys.len(), case.begun.len(), "one record of a key at a time");
            let lowest = (0..delivered.len() as i64).find(|offset| !done.contains(offset)).unwrap_or(delivered.len() as i64);
            prop_assert_eq!(case.next_commit(), lowest, "what is committed is done, all of it");
        }
        // In the end everybody is well and everything is released.
        for _ in 0..10 * delivered.len() + 10 {
            case.now += S;
            let state = &case.partition.state;
            let held: Vec<i64> = state.blocked.keys().chain(state.parked.keys()).copied().collect();
            held.into_iter().for_each(|offset| case.partition.try_again(offset));
            case.begin();
            let begun: Vec<i64> = case.begun.keys().copied().collect();
            for offset in begun {
                case.finish(offset);
                done.push(offset);
            }
        }
        for key in 0..4 {
            let of_key = |offset: &i64| key_of(*offset, &delivered) == key;
            let expected: Vec<i64> = (0..delivered.len() as i64).filter(of_key).collect();
            let found: Vec<i64> = done.iter().copied().filter(of_key).collect();
            prop_assert_eq!(found, expected, "each once, in order");
        }
        prop_assert!(case.partition.is_idle() && case.partition.state.is_ordinary());
        prop_assert_eq!((case.partition.load(), case.partition.parked()), (Load::default(), Load::default()));
    }
}
