//! The one thread that reads Kafka: it follows the topics that tell of trouble, and asks the brokers now and then.
//!
//! What it keeps is the board (bounded, see there) and what waits in its client (8 MiB); records themselves are dropped when they
//! are folded in. Long topics of dead letters are read from their last [`LETTERS_READ_MAX`] offsets on.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use messaging::settings::Settings;
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, KafkaResult},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    board::{Board, Followed, Seen},
    letter,
    redaction::Redaction,
    redrive::{Redrive, RedriveState, Workers},
    services::Services,
    snapshot::{RedriveRow, Snapshot},
    survey::{ANSWER_MAX, Survey, Surveyor, onlooker},
    view,
};

/// Offsets of a partition of dead letters that are read.
const LETTERS_READ_MAX: i64 = 500_000;
/// Events of a group that are read.
const AUDITS_READ_MAX: i64 = 100;
/// Partitions that are followed.
const FOLLOWED_MAX: usize = 2000;
/// Shortest time between two moments that are shown.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(250);
/// When the brokers answer and nothing has come for so long, nothing is left to come.
const SILENCE_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

/// What the thread is told.
pub(crate) struct Following {
    pub(crate) settings: Settings,
    pub(crate) redaction: Redaction,
    pub(crate) only_groups: BTreeSet<String>,
    pub(crate) survey_interval: Duration,
    pub(crate) workers: Workers,
    pub(crate) services: Services,
}

/// Follows until `shutdown`; each moment is published. Blocks its thread. An error is of the client's settings.
pub(crate) fn follow(
    following: Following,
    publish: &watch::Sender<Arc<Snapshot>>,
    shutdown: &CancellationToken,
) -> KafkaResult<()> {
    let mut follower = Follower {
        consumer: onlooker(&following.settings, &[])?,
        surveyor: Surveyor::new(&following.settings, following.only_groups.clone())?,
        board: Board::new(following.redaction.clone()),
        survey: Survey::default(),
        followed: HashMap::new(),
        behind: BTreeMap::new(),
        heard: Instant::now(),
        error: None,
        left_out: 0,
        following,
    };
    let (mut survey_at, mut publish_at, mut is_changed) = (Instant::now(), Instant::now(), false);
    while !shutdown.is_cancelled() {
        if Instant::now() >= survey_at {
            follower.look_around();
            survey_at = Instant::now() + follower.following.survey_interval;
            is_changed = true;
        }
        is_changed |= follower.poll();
        if is_changed && Instant::now() >= publish_at {
            follower.see_how_far();
            publish.send_replace(Arc::new(follower.snapshot()));
            (publish_at, is_changed) = (Instant::now() + PUBLISH_INTERVAL, false);
        }
    }
    Ok(())
}

struct Follower {
    following: Following,
    /// Its ends are last stable offsets.
    consumer: BaseConsumer,
    surveyor: Surveyor,
    board: Board,
    survey: Survey,
    /// The topics that are read, with how many partitions of each.
    followed: HashMap<String, (Followed, i32)>,
    /// Partitions whose end, as it was when they were found, has not been reached: from where, to where.
    behind: BTreeMap<(String, i32), (i64, i64)>,
    /// When the last record came, or a topic was begun.
    heard: Instant,
    error: Option<String>,
    left_out: usize,
}

impl Follower {
    fn look_around(&mut self) {
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let looked = self.surveyor.survey(&self.consumer, now_ms).and_then(|survey| {
            self.survey = survey;
            self.follow_topics()
        });
        if let (Err(error), None) = (&looked, &self.error) {
            tracing::warn!(%error, "Kafka does not tell how things stand; asked again");
        }
        self.error = looked.err().map(|error| error.to_string());
    }

    /// Begins to follow what is new, and forgets what is gone.
    fn follow_topics(&mut self) -> KafkaResult<()> {
        let gone: Vec<String> =
            self.followed.keys().filter(|topic| !self.survey.topics.contains_key(*topic)).cloned().collect();
        for topic in gone {
            let Some((followed, partitions)) = self.followed.remove(&topic) else { continue };
            let mut list = TopicPartitionList::new();
            list.add_partition_range(&topic, 0, partitions - 1);
            self.consumer.incremental_unassign(&list)?;
            self.behind.retain(|(behind, _), _| *behind != topic);
            self.board.forget(&topic, &followed);
        }
        self.left_out = 0;
        for (topic, count) in self.survey.topics.clone() {
            let only = &self.following.only_groups;
            let is_shown = |followed: &Followed| only.is_empty() || followed.is_of(&topic, only);
            let Some(followed) = Followed::by_name(&topic).filter(is_shown) else { continue };
            let known = self.followed.get(&topic).map_or(0, |(_, count)| *count);
            let all: i32 = self.followed.values().map(|(_, count)| *count).sum();
            if count > known && all as usize + (count - known) as usize > FOLLOWED_MAX {
                self.left_out += 1;
                continue;
            }
            for partition in known..count {
                self.begin(&topic, partition, &followed)?;
                self.followed.insert(topic.clone(), (followed.clone(), partition + 1));
            }
        }
        Ok(())
    }

    fn begin(&mut self, topic: &str, partition: i32, followed: &Followed) -> KafkaResult<()> {
        let (low, end) = self.consumer.fetch_watermarks(topic, partition, ANSWER_MAX)?;
        let start = match followed {
            Followed::Blocking(_) | Followed::Redrives => low,
            Followed::Audit(_) => low.max(end - AUDITS_READ_MAX),
            Followed::DeadLetters => low.max(end - LETTERS_READ_MAX),
        };
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(start))?;
        self.consumer.incremental_assign(&list)?;
        self.board.begin(topic, followed, start - low);
        self.heard = Instant::now();
        if start < end {
            self.behind.insert((topic.to_owned(), partition), (start, end));
        }
        Ok(())
    }

    /// Folds in what has come; whether there was anything.
    fn poll(&mut self) -> bool {
        let mut wait = POLL;
        let mut is_changed = false;
        let until = Instant::now() + POLL;
        while Instant::now() < until {
            match self.consumer.poll(wait) {
                Some(Ok(message)) => {
                    let Some((followed, _)) = self.followed.get(message.topic()) else { continue };
                    let headers =
                        if *followed == Followed::DeadLetters { letter::copied(&message) } else { Vec::new() };
                    let seen = Seen {
                        topic: message.topic(),
                        partition: message.partition(),
                        offset: message.offset(),
                        timestamp_ms: message.timestamp().to_millis(),
                        key: message.key(),
                        value: message.payload(),
                    };
                    self.board.accept(followed, &seen, &headers);
                    self.heard = Instant::now();
                    is_changed = true;
                    wait = Duration::ZERO;
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                // The client goes on by itself; what lasts is found by the next survey.
                Some(Err(error)) => tracing::debug!(%error, "the Kafka client"),
                None => break,
            }
        }
        is_changed
    }

    /// Takes out of `behind` what has been read to its end: a position passes transaction markers too. What compaction has
    /// removed at the end is told by silence alone.
    fn see_how_far(&mut self) {
        if self.behind.is_empty() {
            return;
        }
        if self.heard.elapsed() > SILENCE_MAX && self.error.is_none() {
            self.behind.clear();
            return;
        }
        let Ok(positions) = self.consumer.position() else { return };
        for element in positions.elements() {
            let of = (element.topic().to_owned(), element.partition());
            if let (Offset::Offset(position), Some((_, end))) = (element.offset(), self.behind.get(&of))
                && position >= *end
            {
                self.behind.remove(&of);
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        let now = jiff::Timestamp::now();
        let groups = self.survey.groups(&self.board, now.as_millisecond());
        let (workers, services) = (&self.following.workers, self.following.services.all());
        let row = |redrive: &Redrive| {
            let (works_here, failure) = workers.look(&redrive.id);
            // What became of it elsewhere has ended the matter.
            let failure = failure.filter(|_| redrive.state == RedriveState::Running);
            RedriveRow { redrive: redrive.clone(), works_here, failure }
        };
        let mut beyond_limits = [self.survey.beyond_limits.clone(), self.board.beyond_limits()].concat();
        if self.left_out > 0 {
            beyond_limits.push(format!("topics: {} are not followed, beyond {FOLLOWED_MAX} partitions", self.left_out));
        }
        Snapshot {
            at: now.to_string(),
            complete: self.error.is_none() && self.behind.is_empty(),
            error: self.error.clone(),
            retry_topics: self.survey.retry_topics(&groups),
            generations: view::generations(&services, &groups),
            replicas: view::replicas(&services),
            services,
            groups,
            held: self.board.held_rows(),
            dead_letters: self.board.dead_letters(),
            redrives: self.board.redrives().map(row).collect(),
            open_transactions: self.survey.open_transactions.clone(),
            audits: self.board.audits(),
            beyond_limits,
            page: std::sync::OnceLock::new(),
        }
    }
}
