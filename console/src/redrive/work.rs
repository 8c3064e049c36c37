//! The loop of a redrive: read letters, move them and say so in one transaction, keep the pace. Blocks its thread.

use std::{
    collections::BTreeMap,
    sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    time::{Duration, Instant},
};

use messaging::settings::{Settings, client};
use rdkafka::{
    consumer::Consumer as _,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer},
};

use super::{
    REDRIVES_TOPIC, Redrive, RedriveError, RedriveState, Step, StepEvent,
    ledger::Ledger,
    scan::{Batch, BatchMax, Moved, Scan},
};
use crate::survey::{ANSWER_MAX, of_no_member, onlooker};

/// Letters of one transaction.
const LETTERS_MAX: usize = 500;
/// Bytes of values of one transaction, the last one beyond it.
const BYTES_MAX: usize = 4 << 20;
/// Letters that are looked at before it is written down how far.
const SCANNED_MAX: usize = 20_000;
/// Transactions a second while there is something to move: a pace is even, and a stop is felt soon.
const BATCHES_PER_SECOND: u32 = 5;
/// Time for a call to the coordinator, its repetitions included.
const CALL_MAX: Duration = Duration::from_secs(60);

/// Names and meaning: librdkafka, CONFIGURATION.md.
const OWN: [(&str, &str); 5] = [
    ("client.id", "siteview-console"),
    // As long as the coordinator waits for a worker that has died; who continues waits with it.
    ("transaction.timeout.ms", "30000"),
    // A record may not be under way for longer than its transaction may live; librdkafka refuses more.
    ("message.timeout.ms", "30000"),
    ("linger.ms", "5"),
    // The broker decides what is too large.
    ("message.max.bytes", "1000000000"),
];

/// Who stops a redrive, and why.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    pub(crate) by: String,
    pub(crate) reason: String,
    /// Wherever it is worked on, should that no longer be here.
    pub(crate) everywhere: bool,
}

type Producer = ThreadedProducer<DefaultProducerContext>;

/// Works on a redrive until it is done or stopped; gives what it is then. `by` and `reason` are of who begins or continues it.
pub(crate) fn work(
    settings: &Settings,
    mut redrive: Redrive,
    by: &str,
    reason: &str,
    stop: &Receiver<Stop>,
) -> Result<Redrive, RedriveError> {
    let worker = Worker::begin(settings, &redrive)?;
    let event = if worker.last.is_some() { StepEvent::Continued } else { StepEvent::Begun };
    // Whoever was fenced may have gone on since it was looked up.
    redrive = worker.last.clone().unwrap_or(redrive);
    let mut scan = Scan::new(settings, &redrive)?;
    redrive.state = RedriveState::Running;
    worker.commit(&Batch::default(), step(event, by, reason, &redrive))?;
    let max = BatchMax { letters: letters_max(redrive.rate_per_second), bytes: BYTES_MAX, scanned: SCANNED_MAX };
    let mut due = Instant::now();
    loop {
        let batch = match stopped(stop, due) {
            Some(why) => {
                redrive.state = RedriveState::Stopped;
                let stopped = step(StepEvent::Stopped, &why.by, &why.reason, &redrive);
                return match worker.commit(&Batch::default(), stopped) {
                    Err(RedriveError::Fenced(_)) if why.everywhere => stop_elsewhere(settings, &redrive.id, &why),
                    outcome => outcome.map(|()| redrive),
                };
            }
            None => scan.batch(&redrive, &worker.ledger, max)?,
        };
        redrive.next.extend(&batch.next);
        redrive.counts.add(batch.counts);
        let event = if batch.is_last { StepEvent::Done } else { StepEvent::Moved };
        redrive.state = if batch.is_last { RedriveState::Done } else { RedriveState::Running };
        worker.commit(&batch, step(event, by, reason, &redrive))?;
        if batch.is_last {
            return Ok(redrive);
        }
        // From one batch to the next, so that a slow moment is not made up for by a fast one.
        due = due.max(Instant::now().checked_sub(Duration::from_secs(1)).unwrap_or(due))
            + Duration::from_secs(1) * u32::try_from(batch.letters.len()).unwrap_or(u32::MAX) / redrive.rate_per_second;
    }
}

/// Stops a redrive that another process works on, or nobody any more: whoever works on its letters commits nothing behind this.
/// Blocks its thread. One that is stopped already stays as it is, and so does whoever works on another redrive of the same letters.
pub(crate) fn stop_elsewhere(settings: &Settings, id: &str, why: &Stop) -> Result<Redrive, RedriveError> {
    let redrive = running(settings, id)?;
    let worker = match redrive.state {
        RedriveState::Running => Worker::fence(settings, &redrive.dead_letter_topic)?,
        _ => return Ok(redrive),
    };
    // It may have gone on, or ended, before it was fenced.
    let mut redrive = running(settings, id)?;
    if redrive.state == RedriveState::Running {
        redrive.state = RedriveState::Stopped;
        worker.commit(&Batch::default(), step(StepEvent::Stopped, &why.by, &why.reason, &redrive))?;
    }
    Ok(redrive)
}

/// How a redrive stands that is to be stopped. Refuses what is done, or was taken over by another redrive of the same letters.
fn running(settings: &Settings, id: &str) -> Result<Redrive, RedriveError> {
    let all = Ledger::redrives(settings)?;
    let redrive = all.get(id).ok_or_else(|| RedriveError::Refused(format!("there is no redrive {id}")))?;
    if redrive.state == RedriveState::Done {
        return Err(RedriveError::Refused(format!("{id} is done")));
    }
    let is_later = |other: &&Redrive| {
        let is_running = other.state == RedriveState::Running && other.id > redrive.id;
        is_running && other.dead_letter_topic == redrive.dead_letter_topic && other.topic_id == redrive.topic_id
    };
    match all.values().find(is_later) {
        Some(other) if redrive.state == RedriveState::Running => {
            let why = format!("the redrive {} works on {}: stop that one first", other.id, redrive.dead_letter_topic);
            Err(RedriveError::Refused(why))
        }
        _ => Ok(redrive.clone()),
    }
}

fn letters_max(rate_per_second: u32) -> usize {
    (rate_per_second.div_ceil(BATCHES_PER_SECOND) as usize).clamp(1, LETTERS_MAX)
}

/// Waits until the next batch is due, or somebody stops it.
fn stopped(stop: &Receiver<Stop>, due: Instant) -> Option<Stop> {
    let process = || Stop { by: "console".to_owned(), reason: "the process ends".to_owned(), everywhere: false };
    match due.checked_duration_since(Instant::now()) {
        Some(wait) => match stop.recv_timeout(wait) {
            Ok(stop) => Some(stop),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(process()),
        },
        None => match stop.try_recv() {
            Ok(stop) => Some(stop),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(process()),
        },
    }
}

fn step(event: StepEvent, by: &str, reason: &str, redrive: &Redrive) -> Step {
    let (by, reason, at) = (by.to_owned(), reason.to_owned(), jiff::Timestamp::now().to_string());
    let (letters, kinds, before) = (Vec::new(), BTreeMap::new(), None);
    Step { at, event, by, reason, redrive: redrive.clone(), letters, kinds, before }
}

/// The only one for its dead-letter topic.
struct Worker {
    producer: Producer,
    ledger: Ledger,
    /// How this redrive stood at its last step, when there is one already.
    last: Option<Redrive>,
    /// Partitions of the source topic.
    partitions: BTreeMap<String, i32>,
    dead_letter_topic: String,
}

impl Worker {
    /// Fences whoever works on the same topic.
    fn fence(settings: &Settings, topic: &str) -> Result<Self, RedriveError> {
        let producer: Producer = client(&of_no_member(settings), &OWN)
            .set("transactional.id", format!("console-redrive-{topic}"))
            .create()
            .map_err(RedriveError::kafka("the producer"))?;
        let (ledger, partitions) = (Ledger::default(), BTreeMap::new());
        let worker = Self { producer, ledger, last: None, partitions, dead_letter_topic: topic.to_owned() };
        worker.call("taking the dead letters over", |producer| producer.init_transactions(ANSWER_MAX))?;
        Ok(worker)
    }

    /// Fences whoever works on the same topic, and learns what was moved so far.
    fn begin(settings: &Settings, redrive: &Redrive) -> Result<Self, RedriveError> {
        let topic = &redrive.dead_letter_topic;
        let worker = Self::fence(settings, topic)?;
        let looker = onlooker(settings, &[]).map_err(RedriveError::kafka("the source topic"))?;
        let id = messaging::topic_id::fetch(&looker, topic).map_err(RedriveError::kafka("the dead-letter topic"))?;
        if redrive.topic_id.as_deref() != id.as_ref().map(|id| id.as_str()) {
            return Err(RedriveError::Refused(format!(
                "{topic} was deleted and made anew: its letters are other ones"
            )));
        }
        let mut last = None;
        let each = |step: Step| {
            if step.redrive.id == redrive.id {
                last = Some(step.redrive);
            }
        };
        let ledger = Ledger::read(settings, topic, redrive.topic_id.as_deref(), each)?;
        let metadata = looker.fetch_metadata(None, ANSWER_MAX).map_err(RedriveError::kafka("the source topic"))?;
        let count = |of: usize| i32::try_from(of).unwrap_or(i32::MAX);
        let all = metadata.topics().iter().map(|of| (of.name().to_owned(), count(of.partitions().len())));
        let partitions = all.filter(|(of, count)| *count > 0 && topic.starts_with(of.as_str())).collect();
        Ok(Self { ledger, last, partitions, ..worker })
    }

    /// Puts the records into their topic and the step beside them; both are there, or neither.
    fn commit(&self, batch: &Batch, step: Step) -> Result<(), RedriveError> {
        let Err(error) = self.try_commit(batch, step) else { return Ok(()) };
        // What is left open would be aborted by the next worker, or by the brokers. A coordinator that is just fencing this worker
        // can answer a commit with an error that does not say so; its answer to this does.
        match self.call("aborting", |producer| producer.abort_transaction(ANSWER_MAX)) {
            Err(fenced @ RedriveError::Fenced(_)) => Err(fenced),
            _ => Err(error),
        }
    }

    fn try_commit(&self, batch: &Batch, mut step: Step) -> Result<(), RedriveError> {
        self.producer.begin_transaction().map_err(|error| self.failed("beginning a transaction", error))?;
        for moved in &batch.letters {
            self.send_back(moved)?;
            step.letters.push((moved.partition, moved.offset));
            *step.kinds.entry(moved.fingerprint.clone()).or_default() += 1;
            // Where a letter is edited it is the only one.
            step.before = moved.before.clone();
        }
        let value = serde_json::to_vec(&step).expect("a step is plain data");
        let record = BaseRecord::to(REDRIVES_TOPIC).partition(0).key(&step.redrive.id).payload(&value);
        self.producer.send(record).map_err(|(error, _)| self.failed("writing a step", error))?;
        self.call("committing", |producer| producer.commit_transaction(ANSWER_MAX))
    }

    fn send_back(&self, moved: &Moved) -> Result<(), RedriveError> {
        let topic = &moved.origin.topic;
        let Some(partitions) = self.partitions.get(topic) else {
            return Err(RedriveError::Refused(format!("the source topic {topic} is not there")));
        };
        let headers = moved.record.headers.iter().fold(OwnedHeaders::new(), |headers, (name, value)| {
            headers.insert(Header { key: &String::from_utf8_lossy(name), value: value.as_deref() })
        });
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(moved.origin.partition % partitions);
        record = record.headers(headers);
        (record.key, record.payload) = (moved.record.key.as_deref(), moved.record.value.as_deref());
        self.producer.send(record).map_err(|(error, _)| self.failed("giving a record back", error))
    }

    /// Asks the coordinator until it answers, for a bounded time. A commit that was asked for cannot be taken back: what came of
    /// it stands in the steps, which the next worker reads.
    fn call(&self, step: &'static str, call: impl Fn(&Producer) -> KafkaResult<()>) -> Result<(), RedriveError> {
        let deadline = Instant::now() + CALL_MAX;
        loop {
            let Err(error) = call(&self.producer) else { return Ok(()) };
            let is_passing = matches!(&error, KafkaError::Transaction(error) if error.is_retriable());
            if !is_passing || Instant::now() >= deadline {
                return Err(self.failed(step, error));
            }
        }
    }

    fn failed(&self, step: &'static str, error: KafkaError) -> RedriveError {
        use RDKafkaErrorCode::{Fenced, InvalidProducerEpoch, ProducerFenced};
        let fatal = self.producer.client().fatal_error().map(|(code, _)| code);
        let code = fatal.or_else(|| error.rdkafka_error_code());
        match code.is_some_and(|code| [Fenced, InvalidProducerEpoch, ProducerFenced].contains(&code)) {
            true => RedriveError::Fenced(self.dead_letter_topic.clone()),
            false => RedriveError::Kafka { step, error },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_small_enough_for_their_pace() {
        for (rate, letters) in [(1, 1), (5, 1), (6, 2), (100, 20), (100_000, LETTERS_MAX)] {
            assert_eq!(letters_max(rate), letters, "{rate}");
        }
    }
}
