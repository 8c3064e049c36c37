//! Why a group is behind, and for how long the next record has waited. Pure.

use std::time::Duration;

use messaging::{blocking::PartitionState, groups::GroupState};
use serde::Serialize;

/// A partition that nobody has and whose offset was not moved for so long is consumed by nobody.
pub const MOVES_WITHIN: Duration = Duration::from_secs(10);

/// Why there are records still to be consumed, from harmless to grave: the gravest speaks for a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// There are none.
    CaughtUp,
    /// Its members work on them.
    Slow,
    /// Records are behind a transaction that is still open.
    OpenTransaction,
    /// Members come or go.
    Rebalancing,
    /// Keys wait for somebody to unpark them; others go on.
    Parked,
    /// A record is tried again in place.
    Retrying,
    /// Somebody paused the partition.
    Paused,
    /// Nobody consumes.
    NoMember,
    /// It stands at a record until somebody decides.
    Blocked,
}

impl Cause {
    /// As people read it.
    pub fn words(self) -> &'static str {
        match self {
            Self::CaughtUp => "caught up",
            Self::Slow => "slow",
            Self::OpenTransaction => "open transaction",
            Self::Rebalancing => "rebalancing",
            Self::Parked => "parked keys",
            Self::Retrying => "retrying",
            Self::Paused => "paused",
            Self::NoMember => "no member",
            Self::Blocked => "blocked",
        }
    }
}

/// What is known of a group's partition.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Records up to the high watermark.
    pub lag_records: i64,
    /// Of them, those that readers of committed records may see.
    pub stable_lag_records: i64,
    /// What the group is doing.
    pub state: GroupState,
    /// A member has the partition.
    pub has_member: bool,
    /// Its offset was moved within [`MOVES_WITHIN`]: who commits in transactions of its own, as `writer relay` does, is no member.
    pub moves: bool,
    /// What holds it.
    pub held: Option<&'a PartitionState>,
}

/// Names the cause.
pub fn cause(facts: Facts<'_>) -> Cause {
    let held = |holds: fn(&PartitionState) -> bool| facts.held.is_some_and(holds);
    match facts {
        _ if held(PartitionState::waits_for_operator) => Cause::Blocked,
        _ if held(|state| state.paused) => Cause::Paused,
        Facts { lag_records: ..=0, .. } => Cause::CaughtUp,
        Facts { state: GroupState::Rebalancing, .. } => Cause::Rebalancing,
        Facts { has_member: false, moves: false, .. } => Cause::NoMember,
        _ if held(|state| !state.blocked.is_empty()) => Cause::Retrying,
        _ if held(|state| !state.parked.is_empty()) => Cause::Parked,
        Facts { stable_lag_records: ..=0, .. } => Cause::OpenTransaction,
        _ => Cause::Slow,
    }
}

/// What stands at a group's offset or behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A record of this time, Unix milliseconds.
    At(i64),
    /// A record that has no time.
    WithoutTimestamp,
    /// Nothing that readers of committed records will ever see: markers, what was aborted.
    Nothing,
    /// The brokers did not give it in time.
    Unread,
}

/// Why nobody can say for how long the next record has waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unknown {
    /// The group has no offset, so there is no next record yet.
    NoOffset,
    /// All that is left is behind a transaction that is still open, and may be taken back.
    OpenTransaction,
    /// The record has none.
    NoTimestamp,
    /// The record was not read (yet).
    NotRead,
}

impl Unknown {
    /// As people read it.
    pub fn words(self) -> &'static str {
        match self {
            Self::NoOffset => "the group has no offset",
            Self::OpenTransaction => "all of it is behind an open transaction",
            Self::NoTimestamp => "the next record has no timestamp",
            Self::NotRead => "the next record is not read yet",
        }
    }
}

/// For how long the next record has waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// There is none.
    Nothing,
    /// Since then, Unix milliseconds: the record's timestamp, set by who produced it or by the broker.
    Since(i64),
    /// That cannot be known.
    Unknown(Unknown),
}

impl Waiting {
    /// Of a partition: its lag in all records and in visible ones, and what stands at its offset, where somebody has looked.
    pub fn of(committed: Option<i64>, lag_records: i64, stable_lag_records: i64, next: Option<Next>) -> Self {
        match next {
            _ if committed.is_none() => Self::Unknown(Unknown::NoOffset),
            _ if lag_records <= 0 => Self::Nothing,
            _ if stable_lag_records <= 0 => Self::Unknown(Unknown::OpenTransaction),
            Some(Next::At(at)) => Self::Since(at),
            Some(Next::WithoutTimestamp) => Self::Unknown(Unknown::NoTimestamp),
            Some(Next::Nothing) if stable_lag_records < lag_records => Self::Unknown(Unknown::OpenTransaction),
            Some(Next::Nothing) => Self::Nothing,
            Some(Next::Unread) | None => Self::Unknown(Unknown::NotRead),
        }
    }

    /// In seconds; never negative, whatever the clocks say.
    pub fn seconds(self, now_ms: i64) -> Option<f64> {
        match self {
            Self::Nothing => Some(0.0),
            Self::Since(at) => Some((now_ms - at).max(0) as f64 / 1000.0),
            Self::Unknown(_) => None,
        }
    }

    /// Since when, Unix milliseconds.
    pub fn since(self) -> Option<i64> {
        if let Self::Since(at) = self { Some(at) } else { None }
    }

    /// Why it is not told.
    pub fn unknown(self) -> Option<Unknown> {
        if let Self::Unknown(why) = self { Some(why) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use messaging::blocking::{Stuck, WaitsFor};

    use super::*;

    fn stuck(waits_for: WaitsFor) -> Stuck {
        let (since, class, error) = Default::default();
        Stuck { since, attempts: 1, class, error, key: None, waits_for, next_attempt: None }
    }

    #[test]
    fn the_gravest_cause_is_named() {
        let state = |change: fn(&mut PartitionState)| {
            let mut state = PartitionState::new("t", 0);
            change(&mut state);
            state
        };
        let blocked = state(|state| state.block(3, stuck(WaitsFor::Operator), 0));
        let retrying = state(|state| state.block(3, stuck(WaitsFor::Retry), 0));
        let parked = state(|state| state.park(3, stuck(WaitsFor::Operator), 0));
        let paused = state(|state| state.paused = true);
        let stable = Facts {
            lag_records: 5,
            stable_lag_records: 5,
            state: GroupState::Stable,
            has_member: true,
            moves: false,
            held: None,
        };
        for (facts, expected) in [
            (Facts { lag_records: 0, stable_lag_records: 0, ..stable }, Cause::CaughtUp),
            (stable, Cause::Slow),
            (Facts { stable_lag_records: 0, ..stable }, Cause::OpenTransaction),
            (Facts { state: GroupState::Rebalancing, has_member: false, ..stable }, Cause::Rebalancing),
            (Facts { state: GroupState::Empty, has_member: false, ..stable }, Cause::NoMember),
            (Facts { state: GroupState::Empty, has_member: false, moves: true, ..stable }, Cause::Slow),
            (Facts { held: Some(&parked), ..stable }, Cause::Parked),
            (Facts { held: Some(&retrying), ..stable }, Cause::Retrying),
            (Facts { held: Some(&paused), lag_records: 0, ..stable }, Cause::Paused),
            (Facts { held: Some(&blocked), has_member: false, ..stable }, Cause::Blocked),
            (Facts { held: Some(&retrying), state: GroupState::Empty, has_member: false, ..stable }, Cause::NoMember),
        ] {
            assert_eq!(cause(facts), expected, "{facts:?}");
        }
        assert!(Cause::Slow < Cause::Blocked && Cause::CaughtUp < Cause::Slow);
    }

    #[test]
    fn a_wait_is_told_or_why_it_is_not() {
        use Unknown::{NoOffset, NoTimestamp, NotRead, OpenTransaction};
        let unknown = |why| (Waiting::Unknown(why), None);
        for (committed, lag, stable, next, (expected, seconds)) in [
            (None, 0, 0, None, unknown(NoOffset)),
            (Some(7), 0, 0, None, (Waiting::Nothing, Some(0.0))),
            (Some(7), 5, 5, Some(Next::At(9_000)), (Waiting::Since(9_000), Some(1.0))),
            (Some(7), 5, 2, Some(Next::At(9_000)), (Waiting::Since(9_000), Some(1.0))),
            (Some(7), 5, 5, Some(Next::At(11_000)), (Waiting::Since(11_000), Some(0.0))),
            (Some(7), 5, 5, None, unknown(NotRead)),
            (Some(7), 5, 5, Some(Next::Unread), unknown(NotRead)),
            (Some(7), 5, 5, Some(Next::WithoutTimestamp), unknown(NoTimestamp)),
            (Some(7), 5, 0, None, unknown(OpenTransaction)),
            (Some(7), 5, 2, Some(Next::Nothing), unknown(OpenTransaction)),
            (Some(7), 5, 5, Some(Next::Nothing), (Waiting::Nothing, Some(0.0))),
        ] {
            let waiting = Waiting::of(committed, lag, stable, next);
            assert_eq!(
                (waiting, waiting.seconds(10_000)),
                (expected, seconds),
                "{committed:?} {lag} {stable} {next:?}"
            );
        }
    }
}
