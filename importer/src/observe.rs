//! Every metric of the importer, by name; those of the consumer and of the stores are the library's.

use metrics::{counter, describe_counter};
use shared::import::{RowCounts, State};

const ROWS: &str = "importer_rows_total";
const JOBS: &str = "importer_jobs_total";
const IMPORTS: &str = "importer_imports_ended_total";
const UNREADABLE: &str = "importer_unreadable_commands_total";

/// Once, at start.
pub(crate) fn describe() {
    describe_counter!(
        ROWS,
        "rows by what became of them: imported, updated, skipped, failed; a job that comes twice counts twice"
    );
    describe_counter!(JOBS, "jobs by outcome: done, failed");
    describe_counter!(IMPORTS, "imports that ended, by state; counted again when a transaction is tried again");
    describe_counter!(UNREADABLE, "commands that cannot be read and changed nothing");
    for outcome in ["imported", "updated", "skipped", "failed"] {
        counter!(ROWS, "outcome" => outcome).absolute(0);
    }
    for outcome in ["done", "failed"] {
        counter!(JOBS, "outcome" => outcome).absolute(0);
    }
    counter!(UNREADABLE).absolute(0);
}

pub(crate) fn job(counts: RowCounts) {
    let RowCounts { imported, updated, skipped, failed } = counts;
    for (outcome, rows) in [("imported", imported), ("updated", updated), ("skipped", skipped), ("failed", failed)] {
        counter!(ROWS, "outcome" => outcome).increment(rows);
    }
    counter!(JOBS, "outcome" => "done").increment(1);
}

pub(crate) fn job_failed() {
    counter!(JOBS, "outcome" => "failed").increment(1);
}

pub(crate) fn import_ended(state: State) {
    let state = match state {
        State::Completed => "completed",
        State::Failed => "failed",
        _ => "cancelled",
    };
    counter!(IMPORTS, "state" => state).increment(1);
}

pub(crate) fn unreadable_command() {
    counter!(UNREADABLE).increment(1);
}
