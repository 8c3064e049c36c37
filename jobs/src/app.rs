//! What all requests share.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use shared::import::{ChannelId, ChannelSecret};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{config::Config, error::Error, log::Log, spool::Spool};

/// Connections to the database of the errors; each error file has one for as long as it is sent.
const DATABASE_CONNECTIONS_MAX: u32 = 4;
/// How long a request waits for one of them.
const DATABASE_WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(5);

/// Built once in [`crate::serve`], held by every request.
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) log: Log,
    pub(crate) spool: Arc<Spool>,
    channel_secret: ChannelSecret,
    uploads: Arc<Semaphore>,
    database: Option<PgPool>,
    /// Cancelled when no new upload is wanted.
    pub(crate) ending: CancellationToken,
}

impl App {
    pub(crate) fn new(config: &Config, log: Log, spool: Arc<Spool>, ending: CancellationToken) -> Self {
        let pool = PgPoolOptions::new().max_connections(DATABASE_CONNECTIONS_MAX).acquire_timeout(DATABASE_WAIT_MAX);
        Self {
            log,
            spool,
            channel_secret: config.channel_secret.clone().expect("who serves has a secret"),
            uploads: Arc::new(Semaphore::new(config.uploads_max)),
            database: config.database.clone().map(|options| pool.connect_lazy_with(options)),
            ending,
            config: config.clone(),
        }
    }

    /// A place among the uploads, for as long as it is held.
    pub(crate) fn place(&self) -> Result<OwnedSemaphorePermit, Error> {
        match self.ending.is_cancelled() {
            true => Err(Error::Overloaded),
            false => Arc::clone(&self.uploads).try_acquire_owned().map_err(|_| Error::Overloaded),
        }
    }

    /// Checks a channel's id.
    pub(crate) fn channel(&self, text: &str) -> Result<ChannelId, Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(self.channel_secret.check(text, now.as_secs())?)
    }

    pub(crate) fn database(&self) -> Result<&PgPool, Error> {
        self.database.as_ref().ok_or(Error::ErrorsNotKept)
    }
}
