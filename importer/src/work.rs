//! What is done with a job: judge, store, announce. The consumer calls; it knows about retries and dead letters.

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
    judge::{Country, judge},
    observe,
    store::{Order, Store},
};

/// The handler of jobs.
pub(crate) struct Work {
    country: Option<Country>,
    store: Store,
    progress: KvStore<Progress>,
    announcer: Announcer,
}

impl Work {
    pub(crate) fn new(config: &Config, store: Store, progress: KvStore<Progress>, announcer: Announcer) -> Self {
        Self { country: config.phone_country, store, progress, announcer }
    }

    async fn carry_out(&self, import_id: ImportId, number: u32, record: &Record) -> Result<(), JobError> {
        let job = read(import_id, number, record)?;
        // What an import says here may be a moment old: then the job is done, and told as done.
        let is_cancelled = self.progress.get(import_id.to_string()).is_some_and(|progress| progress.skips_jobs());
        let counts = match is_cancelled {
            true => self.store.carry_out(&job, Order::Skip).await?,
            false => self.store.carry_out(&job, Order::Settle(&judge(&job, self.country))).await?,
        };
        self.announcer.announce(import_id, &ProgressCommand::JobDone { job: number, counts }).await?;
        observe::job(counts);
        Ok(())
    }

    /// A job that nobody can work has ended too, or its import would stay open for ever.
    async fn give_up(&self, import_id: ImportId, job: u32, error: JobError) -> Result<(), JobError> {
        tracing::error!(%import_id, job, %error, "a job cannot be worked");
        // How many rows it had is not known where it cannot be read.
        self.announcer.announce(import_id, &ProgressCommand::JobFailed { job, rows: 0 }).await?;
        observe::job_failed();
        Err(error)
    }
}

impl RecordHandler for Work {
    async fn handle(&self, record: &Record) -> Result<(), HandleError> {
        let (import_id, job) = key(record).ok_or(JobError::Key)?;
        let done = match self.carry_out(import_id, job, record).await {
            Err(error) if error.disposition() == Disposition::Fail => self.give_up(import_id, job, error).await,
            done => done,
        };
        Ok(done?)
    }
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
