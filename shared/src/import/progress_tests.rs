//! Properties of progress: whatever order and repetition commands come in, the end comes once and the counts are those of a set.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn open(jobs: u32) -> ProgressCommand {
    let (channel_id, owner_id) = ("c".to_owned(), "o".to_owned());
    ProgressCommand::Open { channel_id, owner_id, jobs, rows: u64::from(jobs) * 10, mode: Mode::Import }
}

/// A job always tells the same counts, as its ledger does.
fn done(job: u32) -> ProgressCommand {
    let n = u64::from(job % 5);
    ProgressCommand::JobDone { job, counts: RowCounts { imported: 10 - n, failed: n, ..RowCounts::default() } }
}

fn command(jobs: u32) -> impl Strategy<Value = ProgressCommand> {
    prop_oneof![
        8 => (0..jobs + 2).prop_map(done),
        1 => (0..jobs).prop_map(|job| ProgressCommand::JobFailed { job, rows: 10 }),
        1 => Just(ProgressCommand::Cancel),
        1 => Just(open(jobs)),
    ]
}

/// All values that the commands make, one after another.
fn values(commands: &[ProgressCommand]) -> Vec<Progress> {
    let step = |now: &mut Option<Progress>, command| {
        let next = apply(now.as_ref(), command);
        if next.is_some() {
            now.clone_from(&next);
        }
        Some(next)
    };
    commands.iter().scan(None, step).flatten().collect()
}

proptest! {
    #[test]
    fn the_end_comes_once_and_last_and_each_value_has_its_number(
        (jobs, commands) in (1..90u32).prop_flat_map(|jobs| (Just(jobs), prop::collection::vec(command(jobs), 0..200)))
    ) {
        let mut commands = commands;
        commands.insert(0, open(jobs));
        // Whatever was missing comes in the end, as it does when an importer gets its jobs again.
        commands.extend((0..jobs).map(done));
        let values = values(&commands);
        let ends = values.iter().filter(|value| value.state.is_end()).count();
        let last = values.last().expect("opened");
        prop_assert_eq!(ends, 1);
        prop_assert!(last.state.is_end());
        prop_assert_eq!(last.jobs_done.len(), jobs);
        let sum = last.counts.imported + last.counts.failed;
        prop_assert_eq!(sum, last.rows);
        prop_assert!(values.iter().zip(1..).all(|(value, number)| value.updates == number));
        let cancelled = commands.iter().position(|command| *command == ProgressCommand::Cancel);
        prop_assert!(last.state != State::Cancelled || cancelled.is_some());
    }

    #[test]
    fn a_job_told_twice_counts_once(jobs in prop::collection::vec(0..40u32, 1..100)) {
        let mut commands = vec![open(41)];
        commands.extend(jobs.iter().copied().map(done));
        let counted: BTreeMap<_, _> = jobs.iter().map(|job| (job, u64::from(job % 5))).collect();
        let last = values(&commands).pop().expect("opened");
        prop_assert_eq!(last.state, State::Running);
        prop_assert_eq!(last.counts.failed, counted.values().sum::<u64>());
        prop_assert_eq!(last.jobs_done.len() as usize, counted.len());
    }
}

#[test]
fn nothing_is_said_of_an_import_that_was_not_opened() {
    assert_eq!(apply(None, &done(0)), None);
    assert_eq!(apply(None, &ProgressCommand::Cancel), None);
}

#[test]
fn a_cancel_waits_for_jobs_under_way_and_changes_no_end() {
    let values = values(&[open(2), done(0), ProgressCommand::Cancel, ProgressCommand::Cancel, done(1), done(1)]);
    let states: Vec<_> = values.iter().map(|value| value.state).collect();
    assert_eq!(states, [State::Accepted, State::Running, State::Cancelling, State::Cancelled]);
    let finished = apply(apply(None, &open(1)).as_ref(), &done(0)).expect("done");
    assert_eq!(apply(Some(&finished), &ProgressCommand::Cancel), None);
}

#[test]
fn commands_values_and_frames_are_written_as_documented() {
    let counts = RowCounts { imported: 1, updated: 2, skipped: 3, failed: 4 };
    let text = |command: &ProgressCommand| serde_json::to_string(command).unwrap();
    let job_done = ProgressCommand::JobDone { job: 0, counts };
    let expected = r#"{"job_done":{"job":0,"imported":1,"updated":2,"skipped":3,"failed":4}}"#;
    assert_eq!(text(&job_done), expected);
    assert_eq!(serde_json::from_str::<ProgressCommand>(expected).unwrap(), job_done);
    assert_eq!(text(&ProgressCommand::Cancel), r#""cancel""#);
    let opened = apply(None, &open(1)).expect("opened");
    let value = apply(Some(&opened), &job_done).expect("done");
    let stored = serde_json::to_string(&value).unwrap();
    assert_eq!(serde_json::from_str::<Progress>(&stored).unwrap(), value);
    let id = ImportId::parse("01890000-0000-7000-8000-000000000000").unwrap();
    assert_eq!(
        serde_json::to_string(&value.notification(id)).unwrap(),
        r#"{"type":"completed","import_id":"01890000-0000-7000-8000-000000000000","state":"completed","jobs":1,"jobs_done":1,"rows":10,"imported":1,"updated":2,"skipped":3,"failed":4}"#
    );
}
