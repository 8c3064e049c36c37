//! What the followed topics say, folded record by record, redacted on the way in. Bounded: see the limits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use messaging::blocking::{Audited, PartitionState};

use crate::{
    fingerprint::Fingerprint,
    letter,
    redaction::Redaction,
    redrive::{REDRIVES_TOPIC, Redrive, Step},
    snapshot::{AuditRow, DeadLetters, Held, Kind},
};
use messaging::record::RecordHeader;

/// Kinds of dead letters that are kept of one topic; letters of others are counted with the topic.
const KINDS_MAX: usize = 500;
/// Held partitions that are kept.
const HELD_MAX: usize = 2000;
/// Events that are kept.
const AUDITS_MAX: usize = 200;
/// Redrives that are kept, the last ones.
const REDRIVES_MAX: usize = 100;

/// What a topic holds, told by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Followed {
    /// States of this group's partitions.
    Blocking(String),
    /// What happened in this group.
    Audit(String),
    /// Dead letters.
    DeadLetters,
    /// Steps of redrives.
    Redrives,
}

impl Followed {
    pub(crate) fn by_name(topic: &str) -> Option<Self> {
        match topic {
            REDRIVES_TOPIC => Some(Self::Redrives),
            _ if topic.ends_with("-dlq") => Some(Self::DeadLetters),
            _ => {
                let blocking = topic.strip_suffix(".blocking").map(|group| Self::Blocking(group.to_owned()));
                blocking.or_else(|| topic.strip_suffix(".audit").map(|group| Self::Audit(group.to_owned())))
            }
        }
    }

    /// Whether it is of one of these groups.
    pub(crate) fn is_of(&self, topic: &str, groups: &BTreeSet<String>) -> bool {
        match self {
            Self::Blocking(group) | Self::Audit(group) => groups.contains(group),
            Self::DeadLetters => groups.iter().any(|group| topic.ends_with(&format!("-{group}-dlq"))),
            Self::Redrives => true,
        }
    }
}

/// A record of a followed topic, borrowed.
pub(crate) struct Seen<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
}

/// The fold's state.
#[derive(Default)]
pub(crate) struct Board {
    redaction: Redaction,
    held: BTreeMap<(String, String), PartitionState>,
    letters: BTreeMap<String, Letters>,
    redrives: BTreeMap<String, Redrive>,
    /// Letters given back, by topic and kind; steps may be read before the letters they are about.
    redriven: BTreeMap<String, BTreeMap<Fingerprint, u64>>,
    audits: VecDeque<AuditRow>,
    beyond: BTreeMap<&'static str, u64>,
}

#[derive(Default)]
struct Letters {
    read: u64,
    foreign: u64,
    unread: i64,
    kinds: BTreeMap<Fingerprint, Kind>,
}

impl Board {
    pub(crate) fn new(redaction: Redaction) -> Self {
        Self { redaction, ..Self::default() }
    }

    /// Folds one record in. What cannot be read is somebody else's, and passed over.
    pub(crate) fn accept(&mut self, followed: &Followed, seen: &Seen<'_>, headers: &[RecordHeader]) {
        match followed {
            Followed::Blocking(group) => self.accept_state(group, seen),
            Followed::Audit(group) => self.accept_audit(group, seen),
            Followed::DeadLetters => self.accept_letter(seen, headers),
            Followed::Redrives => self.accept_step(seen),
        }
    }

    /// A topic is there, and so many of its offsets lie before what is read.
    pub(crate) fn begin(&mut self, topic: &str, followed: &Followed, unread: i64) {
        if *followed == Followed::DeadLetters {
            self.letters.entry(topic.to_owned()).or_default().unread += unread;
        }
    }

    /// A topic is gone.
    pub(crate) fn forget(&mut self, topic: &str, followed: &Followed) {
        match followed {
            Followed::Blocking(group) => self.held.retain(|(held, _), _| held != group),
            Followed::Audit(group) => self.audits.retain(|row| row.group != *group),
            Followed::DeadLetters => drop(self.letters.remove(topic)),
            Followed::Redrives => {
                self.redrives.clear();
                self.redriven.clear();
            }
        }
    }

    /// What holds this partition for this group.
    pub(crate) fn held(&self, group: &str, topic: &str, partition: i32) -> Option<&PartitionState> {
        let key = (group.to_owned(), messaging::blocking::partition_key(topic, partition));
        self.held.get(&key)
    }

    fn accept_state(&mut self, group: &str, seen: &Seen<'_>) {
        let key = (group.to_owned(), String::from_utf8_lossy(seen.key.unwrap_or_default()).into_owned());
        let state = seen.value.map(serde_json::from_slice::<PartitionState>);
        match state {
            None => drop(self.held.remove(&key)),
            // Kept for the commands that were followed.
            Some(Ok(state)) if state.is_ordinary() => drop(self.held.remove(&key)),
            Some(Ok(_)) if self.held.len() >= HELD_MAX && !self.held.contains_key(&key) => {
                self.beyond("held partitions")
            }
            Some(Ok(mut state)) => {
                let topic = state.topic.clone();
                for stuck in state.blocked.values_mut().chain(state.parked.values_mut()) {
                    stuck.key = stuck.key.take().map(|key| self.redaction.key(&topic, key));
                    stuck.error = self.redaction.error(&topic, std::mem::take(&mut stuck.error));
                }
                self.held.insert(key, state);
            }
            Some(Err(error)) => tracing::warn!(topic = seen.topic, offset = seen.offset, %error, "not a state"),
        }
    }

    fn accept_audit(&mut self, group: &str, seen: &Seen<'_>) {
        let Ok(mut audited) = serde_json::from_slice::<Audited>(seen.value.unwrap_or_default()) else { return };
        // Of a command the detail says why it was refused; else it is the text of an error.
        if audited.command.is_none() {
            audited.detail = self.redaction.error(&audited.topic, audited.detail);
        }
        // Groups are read one after another, so their events are put in order.
        let at = self.audits.partition_point(|row| row.audited.at <= audited.at);
        self.audits.insert(at, AuditRow { group: group.to_owned(), audited });
        if self.audits.len() > AUDITS_MAX {
            self.audits.pop_front();
        }
    }

    fn accept_letter(&mut self, seen: &Seen<'_>, headers: &[RecordHeader]) {
        let letters = self.letters.entry(seen.topic.to_owned()).or_default();
        let Some(origin) = letter::origin(seen.topic, headers) else {
            letters.foreign += 1;
            return;
        };
        letters.read += 1;
        let (fingerprint, pattern) = letter::kind(&origin);
        if letters.kinds.len() >= KINDS_MAX && !letters.kinds.contains_key(&fingerprint) {
            return self.beyond("kinds of dead letters");
        }
        let at = seen.timestamp_ms.map(rfc3339).unwrap_or_default();
        let kind = letters.kinds.entry(fingerprint.clone()).or_insert_with(|| Kind {
            fingerprint,
            reason: origin.reason,
            pattern: self.redaction.error(&origin.topic, pattern),
            letters: 0,
            redriven: 0,
            returned: 0,
            first_at: at.clone(),
            last_at: String::new(),
            last_letter: (0, 0),
        });
        kind.letters += 1;
        kind.returned += u64::from(origin.redrive_count > 0);
        kind.first_at = at.clone().min(std::mem::take(&mut kind.first_at));
        if at >= kind.last_at {
            (kind.last_at, kind.last_letter) = (at, (seen.partition, seen.offset));
        }
    }

    fn accept_step(&mut self, seen: &Seen<'_>) {
        let Ok(step) = serde_json::from_slice::<Step>(seen.value.unwrap_or_default()) else {
            tracing::warn!(topic = seen.topic, offset = seen.offset, "not a step of a redrive");
            return;
        };
        let of_topic = self.redriven.entry(step.redrive.dead_letter_topic.clone()).or_default();
        for (fingerprint, letters) in step.kinds {
            *of_topic.entry(fingerprint).or_default() += letters;
        }
        self.redrives.insert(step.redrive.id.clone(), step.redrive.without_contents());
        // Ids are ordered by time.
        if self.redrives.len() > REDRIVES_MAX {
            self.redrives.pop_first();
        }
    }

    fn beyond(&mut self, what: &'static str) {
        *self.beyond.entry(what).or_default() += 1;
    }

    pub(crate) fn held_rows(&self) -> Vec<Held> {
        self.held.iter().map(|((group, _), state)| Held { group: group.clone(), state: state.clone() }).collect()
    }

    pub(crate) fn dead_letters(&self) -> Vec<DeadLetters> {
        self.letters.iter().map(|(topic, letters)| letters.row(topic, self.redriven.get(topic))).collect()
    }

    pub(crate) fn redrives(&self) -> impl Iterator<Item = &Redrive> {
        self.redrives.values().rev()
    }

    pub(crate) fn audits(&self) -> Vec<AuditRow> {
        self.audits.iter().rev().cloned().collect()
    }

    pub(crate) fn beyond_limits(&self) -> Vec<String> {
        self.beyond.iter().map(|(what, count)| format!("{what}: {count} records beyond what is kept")).collect()
    }
}

impl Letters {
    fn row(&self, topic: &str, redriven: Option<&BTreeMap<Fingerprint, u64>>) -> DeadLetters {
        let of_kind = |kind: &Kind| redriven.and_then(|all| all.get(&kind.fingerprint)).copied().unwrap_or_default();
        let mut kinds: Vec<Kind> =
            self.kinds.values().map(|kind| Kind { redriven: of_kind(kind), ..kind.clone() }).collect();
        kinds.sort_by(|a, b| b.last_at.cmp(&a.last_at));
        DeadLetters {
            topic: topic.to_owned(),
            letters: self.read,
            redriven: redriven.map(|all| all.values().sum()).unwrap_or_default(),
            unread: self.unread,
            foreign: self.foreign,
            kinds,
        }
    }
}

pub(crate) fn rfc3339(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map(|at| at.to_string()).unwrap_or_default()
}
