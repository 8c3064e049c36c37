//! What is done with a job: judge, store, announce. The consumer calls; it knows about retries and dead letters.

use std::panic::{AssertUnwindSafe, catch_unwind};

use messaging::{
    KvStore,
    consumer::{HandleError, RecordHandler},
    record::Record,
};
use shared::import::{ImportId, JobRecord, Progress, ProgressCommand};

use crate::{
    announce::Announcer,
    config::Config,
    error::{Disposition, JobError},
    judge::{Country, Judged, judge},
    observe,
    store::{Order, Store},
    trace::JobTraces,
};

/// The handler of jobs.
pub(crate) struct Work {
    country: Option<Country>,
    store: Store,
    progress: KvStore<Progress>,
    announcer: Announcer,
    traces: JobTraces,
}

impl Work {
    pub(crate) fn new(
        config: &Config,
        store: Store,
        progress: KvStore<Progress>,
        announcer: Announcer,
        traces: JobTraces,
    ) -> Self {
        Self { country: config.phone_country, store, progress, announcer, traces }
    }

    async fn attempt(&self, record: &Record, traceparent: Option<&str>) -> Result<(), HandleError> {
        let (import_id, number) = key(record).ok_or(JobError::Key)?;
        let job = read(import_id, number, record);
        // How many rows it had is not known where it cannot be read.
        let rows = job.as_ref().map_or(0, |job| job.rows.len() as u64);
        let done = match job {
            Ok(job) => self.carry_out(&job, traceparent).await,
            Err(error) => Err(error),
        };
        match done {
            Err(error) if error.disposition() == Disposition::Fail => {
                self.give_up(import_id, (number, rows), error, traceparent).await?;
            }
            done => done?,
        }
        Ok(())
    }

    async fn carry_out(&self, job: &JobRecord, traceparent: Option<&str>) -> Result<(), JobError> {
        // What an import says here may be a moment old: then the job is done, and told as done.
        let is_cancelled = self.progress.get(job.import_id.to_string()).is_some_and(|progress| progress.skips_jobs());
        let counts = match is_cancelled {
            true => self.store.carry_out(job, Order::Skip).await?,
            false => {
                let judged = guarded(|| judge(job, self.country))?;
                self.store.carry_out(job, Order::Settle(&judged)).await?
            }
        };
        let done = ProgressCommand::JobDone { job: job.job, counts };
        self.announcer.announce(job.import_id, &done, traceparent).await?;
        observe::job(counts);
        Ok(())
    }

    /// A job that nobody can work has ended too, or its import would stay open for ever.
    async fn give_up(
        &self,
        import_id: ImportId,
        (job, rows): (u32, u64),
        error: JobError,
        traceparent: Option<&str>,
    ) -> Result<(), JobError> {
        tracing::error!(%import_id, job, %error, "a job cannot be worked");
        self.announcer.announce(import_id, &ProgressCommand::JobFailed { job, rows }, traceparent).await?;
        observe::job_failed();
        Err(error)
    }
}

impl RecordHandler for Work {
    async fn handle(&self, record: &Record) -> Result<(), HandleError> {
        let span = self.traces.begin(record);
        let done = self.attempt(record, span.traceparent().as_deref()).await;
        span.end(&done);
        done
    }
}

/// A row over which judging breaks down would do so at each attempt, and hold up its partition: the job is what is wrong.
fn guarded(judging: impl FnOnce() -> Judged) -> Result<Judged, JobError> {
    // Nothing outlives it that a panic could leave half done.
    let judged = catch_unwind(AssertUnwindSafe(judging));
    judged.map_err(|_| JobError::Record("judging its rows panicked".to_owned()))
}

/// `<import id>/<job>`.
fn key(record: &Record) -> Option<(ImportId, u32)> {
    let (import_id, job) = str::from_utf8(record.key.as_deref()?).ok()?.split_once('/')?;
    Some((ImportId::parse(import_id)?, job.parse().ok()?))
}

fn read(import_id: ImportId, number: u32, record: &Record) -> Result<JobRecord, JobError> {
    let value = record.value.as_deref().unwrap_or_default();
    let job: JobRecord = serde_json::from_slice(value).map_err(|error| JobError::Record(error.to_string()))?;
    match (job.import_id, job.job) == (import_id, number) {
        true => Ok(job),
        false => Err(JobError::Record("it is not the job that its key names".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_cannot_be_judged_are_a_fault_of_the_job_and_are_not_tried_again() {
        let error = guarded(|| panic!("a row that no parser bears")).unwrap_err();
        assert_eq!(error.disposition(), Disposition::Fail);
        assert_eq!(guarded(Judged::default).unwrap(), Judged::default());
    }
}
