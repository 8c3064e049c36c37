//! Why a group is behind. Pure.

use messaging::{blocking::PartitionState, groups::GroupState};
use serde::Serialize;

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
        Facts { has_member: false, .. } => Cause::NoMember,
        _ if held(|state| !state.blocked.is_empty()) => Cause::Retrying,
        _ if held(|state| !state.parked.is_empty()) => Cause::Parked,
        Facts { stable_lag_records: ..=0, .. } => Cause::OpenTransaction,
        _ => Cause::Slow,
    }
}

#[cfg(test)]
mod tests {
    use messaging::blocking::{Stuck, WaitsFor};

    use super::*;

    fn stuck(waits_for: WaitsFor) -> Stuck {
        Stuck { since: String::new(), attempts: 1, class: String::new(), error: String::new(), key: None, waits_for }
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
        let stable =
            Facts { lag_records: 5, stable_lag_records: 5, state: GroupState::Stable, has_member: true, held: None };
        for (facts, expected) in [
            (Facts { lag_records: 0, stable_lag_records: 0, ..stable }, Cause::CaughtUp),
            (stable, Cause::Slow),
            (Facts { stable_lag_records: 0, ..stable }, Cause::OpenTransaction),
            (Facts { state: GroupState::Rebalancing, has_member: false, ..stable }, Cause::Rebalancing),
            (Facts { state: GroupState::Empty, has_member: false, ..stable }, Cause::NoMember),
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
}
