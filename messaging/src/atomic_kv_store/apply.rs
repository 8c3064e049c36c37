//! Commands to values and outputs, as the work of a transactional loop.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::oneshot::{self, error::TryRecvError};

use super::{AtomicKvStoreConfig, Change, Decision, observe, overlay::Overlay};
use crate::{
    kv_store::{KvStore, Position},
    transaction::{Ends, HandlerError, Output, Record, TopicPartition, TransactionError, Work},
};

/// The store, what is over it, and what to do with a command.
pub(super) struct Apply<V, A> {
    store: KvStore<V>,
    store_topic: Arc<str>,
    group: String,
    overlay: Overlay<V>,
    /// Partitions whose state is being loaded.
    loading: HashMap<i32, oneshot::Receiver<()>>,
    apply: A,
}

impl<V: Serialize + Send + Sync + 'static, A: FnMut(&Record, Option<&V>) -> Decision<V> + Send + 'static> Apply<V, A> {
    pub(super) fn new(config: &AtomicKvStoreConfig, store: KvStore<V>, apply: A) -> Self {
        observe::describe();
        let (store_topic, group) = (config.store_topic.as_str().into(), config.group.clone());
        Self { store, store_topic, group, overlay: Overlay::default(), loading: HashMap::new(), apply }
    }

    fn apply_to(&mut self, command: &Record, outputs: &mut Vec<Output>) -> Result<(), HandlerError> {
        let Some(key) = &command.key else {
            let (topic, partition, offset) = (&*command.topic, command.partition, command.offset);
            tracing::error!(topic, partition, offset, "a command without a key changes nothing");
            observe::keyless(&self.group);
            return Ok(());
        };
        let value = self.value(key)?;
        let decision = (self.apply)(command, value.as_deref());
        let value = match decision.change {
            Change::Keep => None,
            Change::Put(value) => Some(Some(value)),
            Change::Remove => Some(None),
        };
        if let Some(value) = value {
            outputs.push(self.stored(command.partition, key.clone(), value)?);
        }
        outputs.extend(decision.outputs);
        Ok(())
    }

    /// What the key has now, by everything that this owner and those before it committed.
    fn value(&self, key: &[u8]) -> Result<Option<Arc<V>>, HandlerError> {
        if let Some(known) = self.overlay.get(key) {
            return Ok(known.map(Arc::clone));
        }
        let reading = self.store.read();
        match reading.quarantined(key) {
            Some(unreadable) => Err(format!(
                "the stored value at {}-{}, offset {}, can't be decoded: {}",
                self.store_topic, unreadable.partition, unreadable.offset, unreadable.reason
            )
            .into()),
            None => Ok(reading.get(key)),
        }
    }

    fn stored(&mut self, partition: i32, key: Bytes, value: Option<V>) -> Result<Output, HandlerError> {
        let json = value.as_ref().map(serde_json::to_vec).transpose()?.map(Bytes::from);
        self.overlay.stage(key.clone(), partition, value.map(Arc::new));
        let (topic, partition) = (self.store_topic.to_string(), Some(partition));
        Ok(Output { topic, partition, key: Some(key), value: json, headers: Vec::new() })
    }
}

impl<V, A> Work for Apply<V, A>
where
    V: Serialize + Send + Sync + 'static,
    A: FnMut(&Record, Option<&V>) -> Decision<V> + Send + 'static,
{
    /// By now the predecessor's transactions are decided: their offsets are stable. So what the store's partition holds at
    /// this moment contains all they wrote, and the store is asked for exactly that.
    fn admits(&mut self, given: &TopicPartition) -> Result<bool, TransactionError> {
        let partitions = self.store.progress().partitions;
        if partitions > 0 && usize::try_from(given.partition).is_ok_and(|number| number >= partitions) {
            let (topic, number) = (&self.store_topic, given.partition);
            let why = format!("store topic {topic} has {partitions} partitions; commands come in partition {number}");
            return Err(TransactionError::State(why));
        }
        let loaded = self.loading.entry(given.partition).or_insert_with(|| self.store.end_of(given.partition));
        match loaded.try_recv() {
            Ok(()) => {
                self.loading.remove(&given.partition);
                Ok(true)
            }
            Err(TryRecvError::Empty) => Ok(false),
            Err(TryRecvError::Closed) => {
                Err(TransactionError::State(format!("the store of topic {} has stopped", self.store_topic)))
            }
        }
    }

    fn taken(&mut self, taken: &TopicPartition) {
        self.loading.remove(&taken.partition);
        self.overlay.forget(taken.partition);
    }

    fn transform(&mut self, records: &[Record]) -> Result<Vec<Output>, HandlerError> {
        self.overlay.follow(&self.store.read().position());
        let mut outputs = Vec::with_capacity(records.len());
        records.iter().try_for_each(|command| self.apply_to(command, &mut outputs))?;
        Ok(outputs)
    }

    fn committed(&mut self, ends: Ends) {
        let of_store = |(at, end): (TopicPartition, i64)| (at.topic == self.store_topic).then_some((at.partition, end));
        let ends: Position = ends.into_iter().filter_map(of_store).collect();
        self.overlay.commit(ends);
    }

    fn aborted(&mut self) {
        self.overlay.abort();
    }
}
