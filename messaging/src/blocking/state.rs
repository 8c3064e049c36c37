//! The state of one partition, and what commands make of it. Pure.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Ids of followed commands that a state remembers.
const COMMANDS_KEPT_MAX: usize = 16;

/// Everything that is kept about a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    /// Topic: the consumer's, or one of its retry topics.
    pub topic: String,
    /// Kafka's id of the topic that the offsets belong to; none where the brokers know no ids, or an older version wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// Partition of it.
    pub partition: i32,
    /// In one word, for people and for the console: see [`BlockingState`].
    pub state: BlockingState,
    /// What becomes of failures.
    pub mode: Mode,
    /// Nothing is begun until it is resumed.
    pub paused: bool,
    /// Records at which it stands, by offset.
    pub blocked: BTreeMap<i64, Stuck>,
    /// Records that wait with their key while others go on, by offset: the first of each key.
    pub parked: BTreeMap<i64, Stuck>,
    /// Records to be left out, and for whom and why.
    pub ignoring_once: BTreeMap<i64, String>,
    /// The group's offset, where the log does not hold it (any more): nothing is consumed until somebody resets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_range: Option<OutOfRange>,
    /// Commands below this offset of the commands topic have been looked at, or came before the partition was held.
    pub commands_from: i64,
    /// The last commands that were followed.
    pub followed: VecDeque<String>,
}

/// An offset that lies outside the log, and the log as it was then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutOfRange {
    /// Since when, RFC 3339.
    pub since: String,
    /// The group's offset.
    pub committed: i64,
    /// The first offset of the log.
    pub low: i64,
    /// The offset behind its last record.
    pub high: i64,
}

/// A partition's state in one word; Greyhound's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockingState {
    /// Errors will block: the ordinary state.
    Blocking,
    /// It stands at a record, the lowest of `blocked`.
    Blocked,
    /// A record is about to be left out.
    IgnoringOnce,
    /// Failures are passed over: each failed record goes to the dead letters.
    IgnoringAll,
}

/// What becomes of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// What the policy says.
    Blocking,
    /// They are passed over from this offset on.
    IgnoringAll {
        /// The record for which somebody said so.
        from: i64,
    },
}

/// A record that holds something up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stuck {
    /// Since when, RFC 3339.
    pub since: String,
    /// Attempts so far.
    pub attempts: u32,
    /// Class of the last error.
    pub class: String,
    /// Text of the last error.
    pub error: String,
    /// Key of the record as text, what is not UTF-8 replaced.
    pub key: Option<String>,
    /// What ends it.
    pub waits_for: WaitsFor,
    /// When, where that is its next attempt; none: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<NextAttempt>,
}

/// When a record is tried again, whoever has its partition then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextAttempt {
    /// The moment, RFC 3339.
    pub at: String,
    /// How long that was after the last attempt, in milliseconds.
    pub delay_ms: u64,
}

impl NextAttempt {
    /// So long from now, or a moment more: what is rounded is never early.
    pub fn after(delay: Duration, now: Timestamp) -> Self {
        let delay_ms = u64::try_from(delay.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        Self { at: now.checked_add(delay).unwrap_or(Timestamp::MAX).to_string(), delay_ms }
    }

    /// How long it is still to be waited for, by this machine's clock. One that is behind the last owner's cannot make it longer than
    /// the delay; one that is ahead makes it shorter by that much.
    pub fn wait(&self, now: Timestamp) -> Duration {
        let delay = Duration::from_millis(self.delay_ms);
        let left =
            self.at.parse::<Timestamp>().map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
        left.unwrap_or(delay).min(delay)
    }
}

/// What ends a record's wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitsFor {
    /// Its next attempt.
    Retry,
    /// A person.
    Operator,
}

/// What an operator wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Tells two commands from one that was sent twice; any text that is new with each.
    pub id: String,
    /// What.
    pub verb: Verb,
    /// Topic.
    pub topic: String,
    /// Partition of it.
    pub partition: i32,
    /// The record that is meant; without meaning for `pause` and `resume`.
    pub offset: i64,
    /// Who; not empty.
    pub by: String,
    /// Why; not empty.
    pub reason: String,
}

/// Verbs of a [`Command`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Leaves a blocked or parked record out, once; it goes to the dead letters.
    Skip,
    /// Leaves out a blocked record and whatever fails behind it in its partition.
    Ignore,
    /// Tries a blocked record again at once, its retries anew; or, where failures are ignored from this offset on, ends that.
    Unblock,
    /// Begins nothing more in a partition.
    Pause,
    /// Ends a pause.
    Resume,
    /// Tries a parked record again, and then those of its key behind it, in order.
    Unpark,
}

/// What the consumer has to do for a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// These records go to the dead letters.
    LeaveOut(Vec<i64>),
    /// This record is tried again.
    TryAgain(i64),
    /// What the state says has changed, and no record is concerned.
    Look,
}

impl PartitionState {
    /// A partition that nothing holds.
    pub fn new(topic: &str, partition: i32) -> Self {
        Self {
            topic: topic.to_owned(),
            topic_id: None,
            partition,
            state: BlockingState::Blocking,
            mode: Mode::Blocking,
            paused: false,
            blocked: BTreeMap::new(),
            parked: BTreeMap::new(),
            ignoring_once: BTreeMap::new(),
            out_of_range: None,
            commands_from: 0,
            followed: VecDeque::new(),
        }
    }

    /// Whether there is anything to keep: what holds the partition, or which commands have been followed, which nobody shall follow again.
    pub fn is_worth_keeping(&self) -> bool {
        !self.is_ordinary() || !self.followed.is_empty()
    }

    /// Whether nothing holds the partition.
    pub fn is_ordinary(&self) -> bool {
        self.blocked.is_empty()
            && self.parked.is_empty()
            && self.ignoring_once.is_empty()
            && self.out_of_range.is_none()
            && !self.paused
            && self.mode == Mode::Blocking
    }

    /// Whether a failure of this record is to be passed over.
    pub fn ignores(&self, offset: i64) -> bool {
        self.ignoring_once.contains_key(&offset) || matches!(self.mode, Mode::IgnoringAll { from } if offset >= from)
    }

    /// Whether a person has to say how to go on.
    pub fn waits_for_operator(&self) -> bool {
        self.out_of_range.is_some() || self.blocked.values().any(|stuck| stuck.waits_for == WaitsFor::Operator)
    }

    /// The record is done, in one way or another.
    pub fn release(&mut self, offset: i64) {
        self.blocked.remove(&offset);
        self.parked.remove(&offset);
        self.ignoring_once.remove(&offset);
        self.name();
    }

    /// The partition stands at this record. `commands_from` is how far commands have been read.
    pub fn block(&mut self, offset: i64, stuck: Stuck, commands_from: i64) {
        self.begin(commands_from);
        let since = self.blocked.get(&offset).map(|before| before.since.clone());
        self.blocked.insert(offset, Stuck { since: since.unwrap_or(stuck.since), ..stuck });
        self.name();
    }

    /// The record's key waits.
    pub fn park(&mut self, offset: i64, stuck: Stuck, commands_from: i64) {
        self.begin(commands_from);
        self.blocked.remove(&offset);
        self.parked.insert(offset, stuck);
        self.name();
    }

    /// Records below this offset are done: what is said of them was left over by a member that died.
    pub fn forget_below(&mut self, offset: i64, is_done: impl Fn(i64) -> bool) {
        let over = |stuck: &i64| *stuck < offset || is_done(*stuck);
        self.blocked.retain(|stuck, _| !over(stuck));
        self.parked.retain(|stuck, _| !over(stuck));
        self.ignoring_once.retain(|stuck, _| !over(stuck));
        self.name();
    }

    /// Follows a command, or says why it changes nothing. `at` is the offset at which it stands in the commands topic. Each is
    /// looked at once.
    pub fn follow(&mut self, command: &Command, at: i64) -> Result<Effect, &'static str> {
        if at < self.commands_from {
            return Err("it is older than what holds the partition");
        }
        self.commands_from = at + 1;
        if command.by.trim().is_empty() || command.reason.trim().is_empty() {
            return Err("it does not say who and why");
        }
        if self.followed.contains(&command.id) {
            return Err("it was followed before");
        }
        let effect = self.change(command.verb, command.offset)?;
        if let Effect::LeaveOut(offsets) = &effect {
            let who = format!("{}: {}", command.by, command.reason);
            self.ignoring_once.extend(offsets.iter().map(|offset| (*offset, who.clone())));
        }
        self.followed.push_back(command.id.clone());
        if self.followed.len() > COMMANDS_KEPT_MAX {
            self.followed.pop_front();
        }
        self.name();
        Ok(effect)
    }

    fn change(&mut self, verb: Verb, offset: i64) -> Result<Effect, &'static str> {
        let (is_blocked, is_parked) = (self.blocked.contains_key(&offset), self.parked.contains_key(&offset));
        match verb {
            Verb::Skip if is_blocked || is_parked => Ok(Effect::LeaveOut(vec![offset])),
            Verb::Ignore if is_blocked => {
                self.mode = Mode::IgnoringAll { from: offset };
                Ok(Effect::LeaveOut(self.blocked.range(offset..).map(|(offset, _)| *offset).collect()))
            }
            Verb::Unblock if self.mode == (Mode::IgnoringAll { from: offset }) => {
                self.mode = Mode::Blocking;
                Ok(Effect::Look)
            }
            Verb::Unblock if is_blocked => Ok(Effect::TryAgain(offset)),
            Verb::Unpark if is_parked => Ok(Effect::TryAgain(offset)),
            Verb::Pause if !self.paused => self.set_paused(true),
            Verb::Resume if self.paused => self.set_paused(false),
            Verb::Pause | Verb::Resume => Err("the partition is so already"),
            Verb::Skip | Verb::Ignore | Verb::Unblock => Err("nothing is blocked at this offset"),
            Verb::Unpark => Err("nothing is parked at this offset"),
        }
    }

    fn set_paused(&mut self, paused: bool) -> Result<Effect, &'static str> {
        self.paused = paused;
        Ok(Effect::Look)
    }

    fn begin(&mut self, commands_from: i64) {
        if self.is_ordinary() {
            self.commands_from = commands_from;
        }
    }

    fn name(&mut self) {
        self.state = match self.mode {
            Mode::IgnoringAll { .. } => BlockingState::IgnoringAll,
            Mode::Blocking if !self.ignoring_once.is_empty() => BlockingState::IgnoringOnce,
            Mode::Blocking if !self.blocked.is_empty() => BlockingState::Blocked,
            Mode::Blocking => BlockingState::Blocking,
        };
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn stuck(waits_for: WaitsFor) -> Stuck {
        let (since, class, error) = (String::new(), "c".to_owned(), "e".to_owned());
        Stuck { since, attempts: 1, class, error, key: None, waits_for, next_attempt: None }
    }

    fn blocked_at(offsets: &[i64]) -> PartitionState {
        let mut state = PartitionState::new("t", 3);
        offsets.iter().for_each(|offset| state.block(*offset, stuck(WaitsFor::Operator), 10));
        state
    }

    fn command(verb: Verb, offset: i64) -> Command {
        let (topic, by, reason) = ("t".to_owned(), "me".to_owned(), "why".to_owned());
        Command { id: Uuid::now_v7().to_string(), verb, topic, partition: 3, offset, by, reason }
    }

    #[test]
    fn a_command_hits_the_record_that_it_names_or_nothing() {
        for (verb, offset, expected, state) in [
            (Verb::Skip, 7, Ok(Effect::LeaveOut(vec![7])), BlockingState::IgnoringOnce),
            (Verb::Skip, 8, Err("nothing is blocked at this offset"), BlockingState::Blocked),
            (Verb::Ignore, 7, Ok(Effect::LeaveOut(vec![7, 9])), BlockingState::IgnoringAll),
            (Verb::Ignore, 6, Err("nothing is blocked at this offset"), BlockingState::Blocked),
            (Verb::Unblock, 9, Ok(Effect::TryAgain(9)), BlockingState::Blocked),
            (Verb::Unblock, 8, Err("nothing is blocked at this offset"), BlockingState::Blocked),
            (Verb::Unpark, 7, Err("nothing is parked at this offset"), BlockingState::Blocked),
            (Verb::Pause, 0, Ok(Effect::Look), BlockingState::Blocked),
            (Verb::Resume, 0, Err("the partition is so already"), BlockingState::Blocked),
        ] {
            let mut partition = blocked_at(&[7, 9]);
            assert_eq!(partition.follow(&command(verb, offset), 10), expected, "{verb:?} {offset}");
            assert_eq!(partition.state, state, "{verb:?} {offset}");
        }
    }

    #[test]
    fn a_command_is_followed_once_and_never_when_it_is_older_than_the_block() {
        let mut state = blocked_at(&[7]);
        let unblock = command(Verb::Unblock, 7);
        assert_eq!(state.follow(&unblock, 9), Err("it is older than what holds the partition"));
        assert_eq!(state.follow(&unblock, 10), Ok(Effect::TryAgain(7)));
        assert_eq!(state.follow(&unblock, 11), Err("it was followed before"));
        let nameless = Command { by: " ".to_owned(), ..command(Verb::Skip, 7) };
        assert_eq!(state.follow(&nameless, 12), Err("it does not say who and why"));
    }

    #[test]
    fn a_record_that_is_left_out_leaves_an_ordinary_partition() {
        let mut state = blocked_at(&[7]);
        state.follow(&command(Verb::Skip, 7), 10).expect("blocked there");
        assert!(state.ignores(7) && !state.ignores(8));
        state.release(7);
        assert!(state.is_ordinary() && state.state == BlockingState::Blocking);
    }

    #[test]
    fn ignoring_from_a_record_on_ends_where_it_began() {
        let mut state = blocked_at(&[7]);
        state.follow(&command(Verb::Ignore, 7), 10).expect("blocked there");
        state.release(7);
        assert!(state.ignores(7) && state.ignores(1000) && !state.ignores(6) && !state.is_ordinary());
        assert!(state.follow(&command(Verb::Unblock, 8), 11).is_err());
        assert_eq!(state.follow(&command(Verb::Unblock, 7), 12), Ok(Effect::Look));
        assert!(state.is_ordinary());
    }

    #[test]
    fn what_a_dead_member_left_over_is_forgotten() {
        let mut state = blocked_at(&[7, 9]);
        state.park(12, stuck(WaitsFor::Operator), 10);
        state.forget_below(8, |offset| offset == 12);
        assert_eq!(state.blocked.keys().copied().collect::<Vec<_>>(), [9]);
        assert!(state.parked.is_empty());
    }

    #[test]
    fn a_state_is_kept_as_it_is() {
        let mut state = blocked_at(&[7]);
        state.park(9, stuck(WaitsFor::Operator), 10);
        let json = serde_json::to_string(&state).expect("JSON");
        assert_eq!(serde_json::from_str::<PartitionState>(&json).expect("read"), state);
        let json: serde_json::Value = serde_json::from_str(&json).expect("read");
        assert_eq!((&json["state"], &json["blocked"]["7"]["waits_for"]), (&"blocked".into(), &"operator".into()));
    }
}
