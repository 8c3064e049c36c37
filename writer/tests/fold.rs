//! The rules of the view, held against chance: for random histories of a source table, as the records that Debezium makes of
//! them (its crashes, repeats and snapshots included), cut into any batches, with any batch lost before its commit, the view
//! equals the table. And the property is worth something: defects put into the way of the records are found.
//!
//! Everything between the record's bytes and the rows of the transaction is the writer's own code; only the tables, in
//! memory, and the loop that cuts batches belong to the test.

#[path = "fold/reading.rs"]
mod reading;
#[path = "fold/samples.rs"]
mod samples;
#[path = "fold/source.rs"]
mod source;
#[path = "fold/topic.rs"]
mod topic;
#[path = "fold/truth.rs"]
mod truth;
#[path = "fold/view.rs"]
mod view;

use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

use crate::{
    reading::{Cuts, Read, Sabotage, read},
    source::{Positions, Statement},
    topic::{Case, Topic, case, swap_neighbours},
    view::ensure,
};

/// Histories that each property is tried on.
const CASES: u32 = 20_000;
/// Histories within which a defect must be found.
const SABOTAGE_CASES: u32 = 4_000;

/// Tries a property on random histories; the seed is a new one in each run, a failure prints the smallest history found.
#[expect(clippy::result_large_err, reason = "made once per test")]
fn try_all(cases: u32, property: impl Fn(&Case) -> Result<(), String>) -> Result<(), TestError<Case>> {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
    TestRunner::new(config).run(&case(), |case| property(&case).map_err(TestCaseError::fail))
}

fn holds(cases: u32, property: impl Fn(&Case) -> Result<(), String>) {
    if let Err(TestError::Fail(why, case)) = try_all(cases, property) {
        let topic = case.topic();
        panic!("{why}\n{case:#?}\n{}", truth::listing(&topic));
    }
}

/// The view after reading a topic equals the source, and what a history of this kind may leave out is all that it left out.
fn view_equals_source(case: &Case, topic: &Topic, sabotage: Sabotage) -> Result<(), String> {
    let Read { view, incomplete, .. } = read(topic, Cuts::Anywhere(&case.cuts), sabotage)?;
    let complete = case.positions != Positions::All || incomplete.is_empty();
    ensure(complete, || format!("incomplete rows at {incomplete:?}"))?;
    truth::check(&view, topic)
}

#[test]
fn the_view_equals_the_source() {
    holds(CASES, |case| view_equals_source(case, &case.topic(), Sabotage::Nothing));
}

#[test]
fn the_view_is_the_same_wherever_batches_are_cut() {
    holds(CASES, |case| {
        let topic = case.topic();
        let [mut any, mut one] = [
            read(&topic, Cuts::Anywhere(&case.cuts), Sabotage::Nothing)?,
            read(&topic, Cuts::Every(1), Sabotage::Nothing)?,
        ];
        if case.positions != Positions::All && (any.has_run_out || one.has_run_out) {
            return Ok(());
        }
        ensure(any.incomplete == one.incomplete, || format!("incomplete: {:?}, {:?}", any.incomplete, one.incomplete))?;
        // Several changes of a site in one batch may be one event with the net effect.
        any.view.changes.clear();
        one.view.changes.clear();
        ensure(any.view == one.view, || format!("the view is {:#?}\nin batches of one it is {:#?}", any.view, one.view))
    });
}

/// A defect is found within [`SABOTAGE_CASES`] histories.
fn is_found(sabotage: Sabotage) {
    found(|case| view_equals_source(case, &case.topic(), sabotage));
}

fn found(property: impl Fn(&Case) -> Result<(), String>) {
    let found = try_all(SABOTAGE_CASES, property);
    assert!(matches!(found, Err(TestError::Fail(..))), "the defect was not found: {found:?}");
}

#[test]
fn a_broken_guard_is_found() {
    // Small values only: key changes without positions are found for a reason of their own.
    found(|case| {
        let mut case = case.clone();
        let initial = case.initial.iter_mut();
        let put =
            case.transactions.iter_mut().flat_map(|(statements, _)| statements).filter_map(
                |statement| match statement {
                    Statement::Put { apps, .. } => Some(apps),
                    _ => None,
                },
            );
        initial.chain(put).for_each(|apps| apps.large = false);
        view_equals_source(&case, &case.topic(), Sabotage::NoGuard)
    });
}

#[test]
fn a_lost_large_value_is_found() {
    is_found(Sabotage::AbsentIsEmpty);
}

#[test]
fn a_swapped_order_is_found() {
    found(|case| {
        let mut topic = case.topic();
        swap_neighbours(&mut topic, case.swap);
        view_equals_source(case, &topic, Sabotage::Nothing)
    });
}

#[test]
fn a_tombstone_that_forgets_its_delete_is_found() {
    is_found(Sabotage::ForgetDeletes);
}

#[test]
fn a_position_committed_without_its_rows_is_found() {
    is_found(Sabotage::PositionFirst);
}
