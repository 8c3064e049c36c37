//! Commands to a group, and what came of them. The console decides nothing: it puts a command into the group's commands topic, and
//! the member that has the partition follows it, or refuses it, and says so in the group's audit topic.

use std::time::{Duration, Instant};

use messaging::{
    blocking::{self, Audited, Command, Verb, audit_topic},
    settings::Settings,
};
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, KafkaResult},
};
use serde::Serialize;

use crate::{
    error::Error,
    snapshot::Snapshot,
    survey::{ANSWER_MAX, onlooker},
};

/// Time for the brokers to take a command.
const SEND_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

/// What somebody wants.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) group: String,
    pub(crate) verb: Verb,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// Without meaning for `pause` and `resume`.
    pub(crate) offset: Option<i64>,
    pub(crate) by: String,
    pub(crate) reason: String,
}

/// A command that was sent.
#[derive(Debug, Serialize)]
pub(crate) struct Sent {
    /// Names it in the audit topic.
    pub(crate) id: String,
    /// `followed` or `refused`; `None` when no member of the group has said so yet. Then the next owner of the partition will.
    pub(crate) event: Option<String>,
    /// Why it was refused.
    pub(crate) detail: String,
}

impl Wanted {
    /// What a person types to confirm that this is what they mean: `<partition>@<offset>`, or `<partition>`.
    pub(crate) fn confirmation(&self) -> String {
        match self.offset {
            Some(offset) => format!("{}@{offset}", self.partition),
            None => self.partition.to_string(),
        }
    }

    /// Refuses what cannot be followed, as far as the console sees; the group decides.
    pub(crate) fn check(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let is_partition_verb = matches!(self.verb, Verb::Pause | Verb::Resume);
        if is_partition_verb == self.offset.is_some() {
            let why = if is_partition_verb { "is about a partition, and takes no offset" } else { "wants an offset" };
            return Err(Error::InvalidParameter(format!("{:?} {why}", self.verb).to_lowercase()));
        }
        let held = snapshot.held.iter().filter(|held| held.group == self.group);
        let group = snapshot.groups.iter().find(|group| group.name == self.group && group.takes_commands);
        if group.is_none() && held.clone().next().is_none() {
            return Err(Error::NotFound(format!("no group {} that takes commands", self.group)));
        }
        let mut held = held.filter(|held| held.state.topic == self.topic && held.state.partition == self.partition);
        let is_of_group = |group: &&crate::snapshot::Group| {
            group.partitions.iter().any(|of| of.topic == self.topic && of.partition == self.partition)
        };
        match self.offset {
            None if held.next().is_none() && group.filter(is_of_group).is_none() => {
                Err(Error::NotFound(format!("{} has no partition {}-{}", self.group, self.topic, self.partition)))
            }
            Some(offset) if !held.any(|held| concerns(&held.state, self.verb, offset)) => {
                Err(Error::Conflict(format!(
                    "nothing of {}-{} is held at offset {offset} in that way (any more)",
                    self.topic, self.partition
                )))
            }
            _ => Ok(()),
        }
    }
}

fn concerns(state: &blocking::PartitionState, verb: Verb, offset: i64) -> bool {
    let (blocked, parked) = (state.blocked.contains_key(&offset), state.parked.contains_key(&offset));
    match verb {
        Verb::Skip => blocked || parked,
        Verb::Ignore => blocked,
        Verb::Unblock => blocked || state.mode == (blocking::Mode::IgnoringAll { from: offset }),
        Verb::Unpark => parked,
        Verb::Pause | Verb::Resume => true,
    }
}

/// Sends a command and waits for what comes of it, up to `wait`.
pub(crate) async fn send(settings: &Settings, wanted: &Wanted, wait: Duration) -> Result<Sent, Error> {
    let offset = wanted.offset.unwrap_or_default();
    let command = Command::new(wanted.verb, &wanted.topic, wanted.partition, offset, &wanted.by, &wanted.reason);
    // From here on, so that the answer cannot be missed.
    let audit = blocking_call({
        let (settings, group) = (settings.clone(), wanted.group.clone());
        move || Audit::open(&settings, &group)
    })
    .await?;
    let sent = tokio::time::timeout(SEND_MAX, blocking::send(settings, &wanted.group, &command)).await;
    let unanswered = || Error::Kafka(format!("no answer yet; the command {} may still be taken", command.id));
    sent.map_err(|_| unanswered())?.map_err(|error| Error::Kafka(error.to_string()))?;
    tracing::info!(verb = ?command.verb, group = wanted.group, topic = command.topic, partition = command.partition,
        offset, by = command.by, "a command was sent");
    let id = command.id.clone();
    let audited = blocking_call(move || audit.wait_for(&id, wait)).await?;
    let (event, detail) = audited.map_or((None, String::new()), |audited| (Some(audited.event), audited.detail));
    Ok(Sent { id: command.id, event, detail })
}

async fn blocking_call<T: Send + 'static>(call: impl FnOnce() -> KafkaResult<T> + Send + 'static) -> Result<T, Error> {
    let called = tokio::task::spawn_blocking(call).await.expect("it neither panics nor is aborted");
    called.map_err(|error| Error::Kafka(error.to_string()))
}

/// A group's audit topic from a moment on.
struct Audit(BaseConsumer);

impl Audit {
    fn open(settings: &Settings, group: &str) -> KafkaResult<Self> {
        let (consumer, topic) = (onlooker(settings, &[])?, audit_topic(group));
        let (_, end) = consumer.fetch_watermarks(&topic, 0, ANSWER_MAX)?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, 0, Offset::Offset(end))?;
        consumer.assign(&list)?;
        Ok(Self(consumer))
    }

    fn wait_for(&self, id: &str, wait: Duration) -> KafkaResult<Option<Audited>> {
        let deadline = Instant::now() + wait;
        while Instant::now() < deadline {
            match self.0.poll(POLL) {
                Some(Ok(message)) => {
                    let audited = serde_json::from_slice::<Audited>(message.payload().unwrap_or_default()).ok();
                    let is_answer = |audited: &Audited| {
                        let answers = ["followed", "refused"].contains(&audited.event.as_str());
                        answers && audited.command.as_ref().is_some_and(|command| command.id == id)
                    };
                    if let Some(answer) = audited.filter(is_answer) {
                        return Ok(Some(answer));
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) | None => {}
                Some(Err(error)) => tracing::debug!(%error, "the audit topic"),
            }
        }
        Ok(None)
    }
}
