//! Which letters of a topic were moved, by whichever redrive: read from the steps.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use messaging::settings::Settings;
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
};

use super::{REDRIVES_TOPIC, Redrive, RedriveError, Step};
use crate::survey::{ANSWER_MAX, onlooker};

/// Time for reading all steps.
const READ_MAX: Duration = Duration::from_secs(300);
/// A worker of another topic may have a transaction open among the steps; it ends, or the brokers end it, within this.
const OPEN_MAX: Duration = Duration::from_secs(90);
/// Letters that are remembered, some twenty bytes each.
const LETTERS_MAX: usize = 5_000_000;
const POLL: Duration = Duration::from_millis(100);

/// The letters of one dead-letter topic that were moved, and the last state of each of its redrives.
#[derive(Default)]
pub(super) struct Ledger {
    moved: HashMap<i32, HashSet<i64>>,
    letters: usize,
}

impl Ledger {
    /// Reads all steps that are committed by now; blocks. `each` sees every step of this console's topic.
    pub(super) fn read(
        settings: &Settings,
        dead_letter_topic: &str,
        topic_id: Option<&str>,
        mut each: impl FnMut(Step),
    ) -> Result<Self, RedriveError> {
        let mut ledger = Self::default();
        let failed = RedriveError::kafka("reading what was redriven before");
        let consumer = onlooker(settings, &[]).map_err(&failed)?;
        until_stable(settings, &consumer)?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(REDRIVES_TOPIC, 0, Offset::Beginning).map_err(&failed)?;
        consumer.assign(&list).map_err(&failed)?;
        let deadline = Instant::now() + READ_MAX;
        while Instant::now() < deadline {
            match consumer.poll(POLL) {
                Some(Ok(message)) => {
                    let Ok(step) = serde_json::from_slice::<Step>(message.payload().unwrap_or_default()) else {
                        return Err(RedriveError::Refused(format!(
                            "{REDRIVES_TOPIC}, offset {}: not a step; letters might be moved twice",
                            message.offset()
                        )));
                    };
                    let redrive = &step.redrive;
                    if redrive.dead_letter_topic == dead_letter_topic && redrive.topic_id.as_deref() == topic_id {
                        ledger.note(&step)?;
                    }
                    each(step);
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(ledger),
                // The client goes on by itself; if it does not, time ends it.
                Some(Err(error)) => tracing::warn!(%error, "reading the steps of redrives"),
                None => {}
            }
        }
        Err(RedriveError::TimedOut("reading what was redriven before"))
    }

    /// Every redrive that is committed by now, as it stands; blocks.
    pub(super) fn redrives(settings: &Settings) -> Result<BTreeMap<String, Redrive>, RedriveError> {
        let mut all = BTreeMap::new();
        Self::read(settings, "", None, |step| drop(all.insert(step.redrive.id.clone(), step.redrive)))?;
        Ok(all)
    }

    pub(super) fn holds(&self, partition: i32, offset: i64) -> bool {
        self.moved.get(&partition).is_some_and(|offsets| offsets.contains(&offset))
    }

    fn note(&mut self, step: &Step) -> Result<(), RedriveError> {
        for (partition, offset) in &step.letters {
            self.letters += usize::from(self.moved.entry(*partition).or_default().insert(*offset));
        }
        match self.letters > LETTERS_MAX {
            true => Err(RedriveError::Refused(format!("more than {LETTERS_MAX} letters of this topic were redriven"))),
            false => Ok(()),
        }
    }
}

/// Waits until no open transaction hides a step that is committed already: steps of several topics stand in one partition, and
/// readers of committed records see none behind the first that is open.
fn until_stable(settings: &Settings, committed: &BaseConsumer) -> Result<(), RedriveError> {
    let failed = RedriveError::kafka("the end of what was redriven before");
    let uncommitted = onlooker(settings, &[("isolation.level", "read_uncommitted")]).map_err(&failed)?;
    let (_, wanted) = uncommitted.fetch_watermarks(REDRIVES_TOPIC, 0, ANSWER_MAX).map_err(&failed)?;
    let deadline = Instant::now() + OPEN_MAX;
    loop {
        let (_, stable) = committed.fetch_watermarks(REDRIVES_TOPIC, 0, ANSWER_MAX).map_err(&failed)?;
        if stable >= wanted {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(RedriveError::TimedOut("another worker's transaction"));
        }
        // Nothing is assigned yet: this only waits.
        committed.poll(POLL);
    }
}
