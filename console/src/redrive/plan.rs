//! How a redrive begins: checked, its ends taken; or only counted.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use messaging::{
    settings::{Settings, client},
    topic_id,
    topics::{self, Admin, Shape},
};
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::{
    Counts, Edit, Editable, REDRIVES_TOPIC, Redrive, RedriveError, RedriveState, Selection, Stop,
    ledger::Ledger,
    scan::{BatchMax, Scan},
    work,
};
use crate::{
    letter::{Raw, origin},
    records,
    redaction::Redaction,
    survey::{ANSWER_MAX, onlooker},
};

/// Time for a count; a topic that takes longer is too long to be counted before it is redriven.
const COUNT_MAX: Duration = Duration::from_secs(60);

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) dead_letter_topic: String,
    pub(crate) selection: Selection,
    pub(crate) rate_per_second: u32,
    pub(crate) redrive_max: u64,
    pub(crate) by: String,
    pub(crate) reason: String,
    /// Of one letter, checked.
    pub(crate) edit: Option<Edit>,
}

/// Checks what is asked for and makes a redrive of it, which nobody works on yet. Makes the topic of steps where it is missing.
pub(crate) async fn begin(settings: &Settings, wanted: Wanted) -> Result<Redrive, RedriveError> {
    let (asked, of) = (settings.clone(), wanted);
    let (redrive, brokers) = blocking(move || plan(&asked, of)).await?;
    let failed = RedriveError::kafka("making the topic of redrives");
    let admin: Admin = client(settings, &[("client.id", "siteview-console")]).create().map_err(failed)?;
    // Who lost the steps would move letters twice.
    let shape = Shape { partitions: 1, replicas: brokers.min(3) };
    let kept = [("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "-1")];
    topics::ensure(&admin, settings, REDRIVES_TOPIC, shape, &kept).await?;
    Ok(redrive)
}

fn plan(settings: &Settings, wanted: Wanted) -> Result<(Redrive, i32), RedriveError> {
    let failed = RedriveError::kafka("looking up the dead letters");
    let topic = wanted.dead_letter_topic;
    let consumer = onlooker(settings, &[]).map_err(&failed)?;
    let metadata = consumer.fetch_metadata(Some(&topic), ANSWER_MAX).map_err(&failed)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
    let partitions: Vec<i32> = found.map_or(&[][..], |found| found.partitions()).iter().map(|of| of.id()).collect();
    if partitions.is_empty() || !topic.ends_with("-dlq") {
        return Err(RedriveError::Refused(format!("there is no dead-letter topic {topic}")));
    }
    let edit = match (wanted.edit, &wanted.selection) {
        (None, _) => None,
        (Some(edit), Selection::Letter { partition, offset }) => {
            let changes = edit.changes(&letter(settings, &topic, *partition, *offset)?);
            Some(changes.ok_or_else(|| RedriveError::Refused("the edit changes nothing".to_owned()))?)
        }
        (Some(_), _) => return Err(RedriveError::Refused("an edit is of one letter".to_owned())),
    };
    let id = topic_id::fetch(&consumer, &topic).map_err(&failed)?;
    let (next, ends) = range(&consumer, &topic, &partitions, &wanted.selection)?;
    let redrive = Redrive {
        id: uuid::Uuid::now_v7().to_string(),
        dead_letter_topic: topic,
        topic_id: id.map(|id| id.as_str().to_owned()),
        selection: wanted.selection,
        rate_per_second: wanted.rate_per_second,
        redrive_max: wanted.redrive_max,
        by: wanted.by,
        reason: wanted.reason,
        begun_at: jiff::Timestamp::now().to_string(),
        state: RedriveState::Stopped,
        next,
        ends,
        counts: Counts::default(),
        edited: edit.as_ref().map(Edit::parts).unwrap_or_default(),
        edit,
    };
    Ok((redrive, i32::try_from(metadata.brokers().len()).unwrap_or(1)))
}

/// A letter as it stands there.
fn letter(settings: &Settings, topic: &str, partition: i32, offset: i64) -> Result<Raw, RedriveError> {
    let found = records::raw(settings, topic, partition, offset).map_err(RedriveError::kafka("reading the letter"))?;
    let is_letter = |raw: &Raw| origin(topic, &raw.headers).is_some();
    found
        .filter(is_letter)
        .ok_or_else(|| RedriveError::Refused(format!("{topic}-{partition} has no letter at offset {offset}")))
}

/// A letter as a person may edit it: what the rules hide is left out.
pub(crate) async fn editable(
    settings: &Settings,
    redaction: &Redaction,
    topic: &str,
    (partition, offset): (i32, i64),
) -> Result<Editable, RedriveError> {
    let (settings, redaction, topic) = (settings.clone(), redaction.clone(), topic.to_owned());
    blocking(move || {
        let letter = letter(&settings, &topic, partition, offset)?;
        Ok(Editable::of(&redaction, &topic, &letter))
    })
    .await
}

type Offsets = BTreeMap<i32, i64>;

/// From where to where.
fn range(
    consumer: &BaseConsumer,
    topic: &str,
    partitions: &[i32],
    selection: &Selection,
) -> Result<(Offsets, Offsets), RedriveError> {
    let failed = RedriveError::kafka("the ends of the dead letters");
    let mut logs = BTreeMap::new();
    for of in partitions {
        logs.insert(*of, consumer.fetch_watermarks(topic, *of, ANSWER_MAX).map_err(&failed)?);
    }
    range_of(&logs, selection).map_err(|why| RedriveError::Refused(format!("{topic} {why}")))
}

/// The same of logs that begin and end there. Pure. What lies between chosen letters is read, and not meant.
fn range_of(logs: &BTreeMap<i32, (i64, i64)>, selection: &Selection) -> Result<(Offsets, Offsets), String> {
    let chosen: Vec<(i32, i64)> = match selection {
        Selection::Letter { partition, offset } => vec![(*partition, *offset)],
        Selection::Letters(places) => places.iter().copied().collect(),
        Selection::Fingerprint(_) => {
            return Ok((
                logs.iter().map(|(of, log)| (*of, log.0)).collect(),
                logs.iter().map(|(of, log)| (*of, log.1)).collect(),
            ));
        }
    };
    let (mut next, mut ends) = (Offsets::new(), Offsets::new());
    for (partition, offset) in chosen {
        let (low, high) = logs.get(&partition).ok_or_else(|| format!("has no partition {partition}"))?;
        if !(low..high).contains(&&offset) {
            return Err(format!("has no offset {offset} in partition {partition}: it has {low} to {high}"));
        }
        // Places are in order.
        next.entry(partition).or_insert(offset);
        ends.insert(partition, offset + 1);
    }
    Ok((next, ends))
}

/// What a redrive would do, as things stand: moves nothing.
pub(crate) async fn count(settings: &Settings, redrive: Redrive) -> Result<Counts, RedriveError> {
    let settings = settings.clone();
    blocking(move || {
        let ledger = Ledger::read(&settings, &redrive.dead_letter_topic, redrive.topic_id.as_deref(), drop)?;
        let (mut scan, mut counts, deadline) =
            (Scan::new(&settings, &redrive)?, Counts::default(), Instant::now() + COUNT_MAX);
        loop {
            let batch = scan.batch(&redrive, &ledger, BatchMax { letters: 1000, bytes: 8 << 20, scanned: 10_000 })?;
            counts.add(batch.counts);
            match batch.is_last {
                true => return Ok(counts),
                false if Instant::now() >= deadline => return Err(RedriveError::TimedOut("counting")),
                false => {}
            }
        }
    })
    .await
}

/// A redrive as it stands in the topic of steps.
pub(crate) async fn last(settings: &Settings, id: &str) -> Result<Redrive, RedriveError> {
    let (settings, id) = (settings.clone(), id.to_owned());
    blocking(move || {
        let last = Ledger::redrives(&settings)?.remove(&id);
        last.ok_or_else(|| RedriveError::Refused(format!("there is no redrive {id}")))
    })
    .await
}

/// Stops one that is not worked on here, perhaps nowhere: its process may have been killed.
pub(crate) async fn halt(settings: &Settings, id: &str, why: Stop) -> Result<Redrive, RedriveError> {
    let (settings, id) = (settings.clone(), id.to_owned());
    blocking(move || work::stop_elsewhere(&settings, &id, &why)).await
}

pub(super) async fn blocking<T: Send + 'static>(
    look: impl FnOnce() -> Result<T, RedriveError> + Send + 'static,
) -> Result<T, RedriveError> {
    tokio::task::spawn_blocking(look).await.expect("it neither panics nor is aborted")
}

impl Counts {
    pub(super) fn add(&mut self, other: Self) {
        self.moved += other.moved;
        self.moved_before += other.moved_before;
        self.guarded += other.guarded;
        self.without_value += other.without_value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redrive_reads_from_the_first_letter_to_the_last_of_each_partition() {
        let logs = BTreeMap::from([(0, (10, 20)), (1, (0, 5)), (2, (0, 0))]);
        let of = |places: &[(i32, i64)]| range_of(&logs, &Selection::of_places(places.iter().copied()).unwrap());
        assert_eq!(of(&[(1, 3)]), Ok(([(1, 3)].into(), [(1, 4)].into())));
        assert_eq!(of(&[(1, 3), (0, 12), (0, 19), (0, 10)]), Ok(([(0, 10), (1, 3)].into(), [(0, 20), (1, 4)].into())));
        for (places, why) in
            [([(0, 9), (1, 3)], "offset 9"), ([(0, 20), (1, 3)], "offset 20"), ([(0, 10), (3, 0)], "partition 3")]
        {
            assert!(of(&places).unwrap_err().contains(why), "{places:?}");
        }
        let kind = Selection::Fingerprint("f".to_owned().into());
        let all = ([(0, 10), (1, 0), (2, 0)].into(), [(0, 20), (1, 5), (2, 0)].into());
        assert_eq!(range_of(&logs, &kind), Ok(all));
    }

    #[test]
    fn chosen_letters_are_some_and_not_too_many() {
        let of = |count: i64| Selection::of_places((0..count).chain(0..count).map(|offset| (0, offset)));
        assert_eq!(of(1).unwrap().confirmation(), "0@0");
        assert_eq!(of(3).unwrap().confirmation(), "3 letters");
        assert!(of(1000).is_ok() && of(1001).is_err() && of(0).is_err());
    }
}
