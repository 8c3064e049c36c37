//! What jobs has of Kafka: the topics of the import, two stores, and commands.
//!
//! `import.accepted` is jobs' own: one small record per import, in the transaction with its jobs. It says that an import exists before
//! its progress has a value, and keeps a repeat from becoming a second import. It is compacted, and forgets in time ([`KEPT`]).

use std::{sync::Arc, time::Duration};

use messaging::{
    KvStore, KvStoreConfig,
    kv_store::{self, KvStoreError},
    settings::{self, Settings},
    topics::{self, Admin, OpenError, Shape},
    transaction::{SingleTransaction, TransactionError},
};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde::{Deserialize, Serialize};
use shared::{
    admin::Condition,
    import::{
        ImportId, JOBS_TOPIC, Mode, NOTIFICATIONS_TOPIC, PROGRESS_COMMANDS_TOPIC, PROGRESS_TOPIC, Progress,
        ProgressCommand,
    },
};
use tokio_util::sync::CancellationToken;

use crate::{
    RunError,
    config::Config,
    error::Error,
    spool::{Spool, SpoolError},
};

const ACCEPTED_TOPIC: &str = "import.accepted";
/// What is known of an import is kept for 30 days after its last change; so long a repeat is known as one.
const KEPT: [(&str, &str); 2] = [("cleanup.policy", "compact,delete"), ("retention.ms", "2592000000")];
/// Names of groups that are never joined, for the brokers' access rules; and the begin of transactional ids.
const GROUP: &str = "siteview.jobs";
/// A command may take so long.
const SEND_MAX: Duration = Duration::from_secs(10);
/// A transactional id may take so long: the brokers, or the end of a predecessor's transaction.
const TAKE_MAX: Duration = Duration::from_secs(30);
/// Between two attempts at what the brokers refuse.
const PAUSE: Duration = Duration::from_secs(1);
/// A store may need so long to contain what was committed before a question.
const CONTAINED_MAX: Duration = Duration::from_secs(5);

/// An import that exists.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Accepted {
    pub(crate) jobs: u32,
    pub(crate) rows: u64,
    pub(crate) mode: Mode,
}

/// All clones are the same.
#[derive(Clone)]
pub(crate) struct Log {
    pub(crate) settings: Arc<Settings>,
    prefix: Arc<str>,
    shape: Shape,
    timeout: Duration,
    pub(crate) accepted: KvStore<Accepted>,
    pub(crate) progress: KvStore<Progress>,
    commands: FutureProducer,
    stop: CancellationToken,
}

impl Log {
    /// Makes the clients; waits for nobody.
    pub(crate) fn start(config: &Config, stop: CancellationToken) -> Result<Self, RunError> {
        let (settings, prefix) = (Arc::new(config.kafka.clone()), Arc::from(config.topic_prefix.as_str()));
        let follow = |topic: &str| KvStoreConfig {
            memory_bytes_max: config.store_bytes_max,
            ..KvStoreConfig::new(&format!("{prefix}{topic}"), GROUP)
        };
        let own = [("enable.idempotence", "true"), ("linger.ms", "0"), ("client.id", GROUP)];
        Ok(Self {
            accepted: KvStore::start(&settings, follow(ACCEPTED_TOPIC), kv_store::json)?,
            progress: KvStore::start(&settings, follow(PROGRESS_TOPIC), kv_store::json)?,
            commands: settings::client(&settings, &own).create()?,
            shape: Shape { partitions: config.topic_partitions, replicas: config.topic_replicas },
            timeout: config.transaction_timeout,
            settings,
            prefix,
            stop,
        })
    }

    pub(crate) fn jobs_topic(&self) -> String {
        format!("{}{JOBS_TOPIC}", self.prefix)
    }

    pub(crate) fn commands_topic(&self) -> String {
        format!("{}{PROGRESS_COMMANDS_TOPIC}", self.prefix)
    }

    pub(crate) fn accepted_topic(&self) -> String {
        format!("{}{ACCEPTED_TOPIC}", self.prefix)
    }

    /// Takes the transactional id of an import. Blocks.
    pub(crate) fn take(&self, id: ImportId) -> Result<SingleTransaction, TransactionError> {
        let name = format!("{GROUP}.{}{id}", self.prefix);
        SingleTransaction::take(&self.settings, &name, self.timeout, TAKE_MAX, &self.stop)
    }

    /// Whether the import exists, by everything that was committed before this call.
    pub(crate) async fn accepted(&self, id: ImportId) -> Result<Option<Arc<Accepted>>, Error> {
        contains_now(&self.accepted).await?;
        Ok(self.accepted.get(id.to_string()))
    }

    /// The import's progress, by everything that was committed before this call; `None` also of one that has none yet.
    pub(crate) async fn progress(&self, id: ImportId) -> Result<Option<Arc<Progress>>, Error> {
        contains_now(&self.progress).await?;
        Ok(self.progress.get(id.to_string()))
    }

    pub(crate) async fn cancel(&self, id: ImportId) -> Result<(), Error> {
        let (topic, key) = (self.commands_topic(), id.to_string());
        let value = serde_json::to_vec(&ProgressCommand::Cancel).expect("a word is JSON");
        let record = FutureRecord::to(&topic).key(&key).payload(&value);
        let sent = tokio::time::timeout(SEND_MAX, self.commands.send(record, SEND_MAX)).await;
        match sent {
            Ok(Ok(_)) => Ok(()),
            Ok(Err((error, _))) => Err(Error::Kafka(error.to_string())),
            Err(_) => Err(Error::Kafka("the brokers do not answer".to_owned())),
        }
    }

    /// Finds or makes every topic of the import: whichever service comes first does.
    async fn make_topics(&self) -> Result<(), OpenError> {
        let admin: Admin = settings::client(&self.settings, &[("client.id", GROUP)]).create()?;
        for (topic, config) in [
            (JOBS_TOPIC, &[][..]),
            (PROGRESS_COMMANDS_TOPIC, &[]),
            (PROGRESS_TOPIC, &KEPT),
            (NOTIFICATIONS_TOPIC, &[]),
            (ACCEPTED_TOPIC, &KEPT),
        ] {
            topics::ensure(&admin, &self.settings, &format!("{}{topic}", self.prefix), self.shape, config).await?;
        }
        Ok(())
    }
}

async fn contains_now<V: Send + Sync + 'static>(store: &KvStore<V>) -> Result<(), Error> {
    match tokio::time::timeout(CONTAINED_MAX, store.contains_now()).await {
        Ok(contained) => Ok(contained?),
        Err(_) => Err(Error::Kafka("what was committed is still being read".to_owned())),
    }
}

/// Makes the topics, ends what a crash left, waits for the stores; then tells how they are. Ends only with a store.
pub(crate) async fn prepare(log: Log, spool: Arc<Spool>, kafka: Condition, swept: Condition) {
    while let Err(error) = log.make_topics().await {
        kafka.set(false, error.to_string());
        tokio::time::sleep(PAUSE).await;
    }
    while let Err(error) = sweep(&log, &spool, &swept).await {
        swept.set(false, error.to_string());
        tokio::time::sleep(PAUSE).await;
    }
    swept.set(true, "holds nothing that a crash left");
    let mut progress = (log.accepted.watch_progress(), log.progress.watch_progress());
    loop {
        let caught_up = tokio::try_join!(log.accepted.caught_up(), log.progress.caught_up());
        match caught_up.map(drop) {
            Ok(()) => kafka.set(true, "topics are there and read"),
            // A store without its thread: the process ends, and a new one reads the topics again.
            Err(KvStoreError::Stopped { .. }) => return,
            Err(error) => kafka.set(false, error.to_string()),
        }
        tokio::select! {
            _ = progress.0.changed() => {}
            _ = progress.1.changed() => {}
        }
    }
}

/// Ends the transactions of files that a crash left, so that nobody waits for them, and removes the files.
async fn sweep(log: &Log, spool: &Arc<Spool>, swept: &Condition) -> Result<(), SpoolError> {
    for id in spool.left_over()? {
        let _place = match spool.place(id) {
            // Its end removes the file.
            Ok(place) => place,
            // Sent again by now: that upload takes the transaction's id itself, and has the file.
            Err(SpoolError::Taken) => continue,
            Err(error) => return Err(error),
        };
        while let Err(why) = end(log, id).await {
            swept.set(false, why);
            tokio::time::sleep(PAUSE).await;
        }
        tracing::info!(import = %id, "an upload that a crash left was ended; whoever sent it sends it again");
    }
    Ok(())
}

async fn end(log: &Log, id: ImportId) -> Result<(), String> {
    let log = log.clone();
    match tokio::task::spawn_blocking(move || log.take(id).map(drop)).await {
        // Fenced: another instance has taken the id, which ended what was left.
        Ok(Ok(()) | Err(TransactionError::Fenced { .. })) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
