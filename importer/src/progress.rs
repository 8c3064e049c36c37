//! Progress of imports: commands applied once each, and what their channels are told, in the same transaction.

use std::sync::Arc;

use messaging::{
    AtomicKvStore, AtomicKvStoreConfig, KvStore,
    atomic_kv_store::{AtomicKvStoreError, Decision},
    transaction::{Output, Record, TransactionError},
};
use shared::{
    admin::Condition,
    import::{ImportId, Progress, ProgressCommand, apply},
};
use tokio_util::sync::CancellationToken;

use crate::{config::Config, observe};

/// The progress of each import, by its id.
pub(crate) type Values = AtomicKvStore<Progress>;

/// Starts to follow the values.
pub(crate) fn start(config: &Config) -> Result<Values, AtomicKvStoreError> {
    let (topics, group) = (&config.topics, format!("{}-progress", config.group));
    let store = AtomicKvStoreConfig::new(&topics.commands, &topics.progress, &group, &config.member);
    AtomicKvStore::start(&config.kafka, AtomicKvStoreConfig { memory_bytes_max: config.progress_bytes_max, ..store })
}

/// Applies commands until `stop`. Errors: fatal ones alone; the process should end.
pub(crate) fn run(
    values: &Values,
    config: &Config,
    stop: CancellationToken,
) -> impl Future<Output = Result<(), TransactionError>> + Send + 'static {
    let notifications: Arc<str> = config.topics.notifications.as_str().into();
    values.run(move |command, progress| decide(&notifications, command, progress), stop)
}

/// What a command does. Pure but for what is counted.
fn decide(notifications: &str, command: &Record, progress: Option<&Progress>) -> Decision<Progress> {
    let Some((import_id, read)) = read(command) else {
        let (topic, partition, offset) = (&*command.topic, command.partition, command.offset);
        tracing::error!(topic, partition, offset, "a command that cannot be read changes nothing");
        observe::unreadable_command();
        return Decision::keep();
    };
    let Some(next) = apply(progress, &read) else { return Decision::keep() };
    let told = serde_json::to_vec(&next.notification(import_id)).expect("numbers and names are JSON");
    if next.state.is_end() {
        observe::import_ended(next.state);
    }
    // Keyed by channel, so that a browser is told in order.
    let output = Output::new(notifications, next.channel_id.clone(), told);
    Decision::put(next).output(output)
}

fn read(command: &Record) -> Option<(ImportId, ProgressCommand)> {
    let import_id = ImportId::parse(str::from_utf8(command.key.as_deref()?).ok()?)?;
    Some((import_id, serde_json::from_slice(command.value.as_deref()?).ok()?))
}

/// Says how far the load is, and that it is done.
pub(crate) async fn tell_load(values: KvStore<Progress>, loaded: Condition) {
    let mut progress = values.watch_progress();
    loop {
        let now = progress.borrow_and_update().clone();
        let detail = if now.detail.is_empty() { format!("{} imports", now.keys) } else { now.detail.clone() };
        loaded.set(now.is_ready(), detail);
        if progress.changed().await.is_err() {
            return loaded.set(false, "the store of progress has stopped");
        }
    }
}
