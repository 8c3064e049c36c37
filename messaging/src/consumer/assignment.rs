//! Partitions that come and go: claimed when the group gives them, given back when what is running of them is done.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer as _},
    error::KafkaResult,
};
use tokio::task::JoinError;

use super::{
    claim::{self, Claim, Claims},
    group::{Rebalance, TopicPartition, give_back},
    handler::RecordHandler,
    partition::Partition,
    run::{Held, Leaving, Loop},
};
use crate::{
    blocking::{OutOfRange, PartitionState},
    brake::Brake,
};

/// Pause before a partition is looked at again that could not be claimed.
const CLAIM_RETRY: Duration = Duration::from_secs(1);

impl<H: RecordHandler> Loop<H> {
    pub(super) fn follow_rebalances(&mut self) {
        let consumer = Arc::clone(&self.consumer);
        for rebalance in consumer.client().context().take() {
            match rebalance {
                Rebalance::Assigned(partitions) => {
                    self.metrics.rebalance(partitions.len());
                    self.claiming.extend(partitions.into_iter().map(|of| (of, Some(Instant::now()))));
                }
                Rebalance::Revoking(partitions) => {
                    self.metrics.rebalance(partitions.len());
                    for of in &partitions {
                        if self.claiming.remove(of).is_some() {
                            self.metrics.holds(&of.0, of.1, false, 0);
                        }
                        if let Some(held) = self.held.get_mut(of) {
                            held.leaving = true;
                        }
                    }
                    let now = Instant::now();
                    let deadline = now + self.config.drain_max;
                    self.leaving.push(Leaving { partitions, deadline, commit_at: Some(now), is_committed: false });
                }
                Rebalance::Lost(partitions) => {
                    self.metrics.rebalance(partitions.len());
                    partitions.iter().for_each(|of| self.forget(of));
                }
            }
        }
    }

    /// Ends a tenure: what is still running of it is dropped.
    pub(super) fn forget(&mut self, of: &TopicPartition) {
        let was_claiming = self.claiming.remove(of).is_some();
        let was_held = self.held.remove(of).is_some();
        if was_claiming || was_held {
            self.metrics.holds(&of.0, of.1, false, 0);
        }
        if was_held {
            self.running.values().filter(|running| running.of == *of).for_each(|running| running.task.abort());
        }
    }

    /// Gives back what was asked back, when the group has taken what is done of it, or its time is over, or others have it
    /// already.
    pub(super) fn give_back_done(&mut self) {
        let (consumer, now) = (Arc::clone(&self.consumer), Instant::now());
        let is_lost = consumer.assignment_lost();
        if !is_lost {
            self.commit_leaving(now);
        }
        let is_over = |leaving: &mut Leaving| leaving.deadline <= now || is_lost || leaving.is_committed;
        let over: Vec<Leaving> = self.leaving.extract_if(.., is_over).collect();
        for leaving in over {
            // The rest, as far as it goes: the client sends the commit before it tells the group.
            drop(self.commit(CommitMode::Async));
            leaving.partitions.iter().for_each(|of| self.forget(of));
            if let Err(error) = give_back(&*consumer, &leaving.partitions) {
                tracing::error!(error = %error, "partitions could not be given back");
            }
        }
    }

    pub(super) fn claim_due(&mut self) {
        if !self.caught_up {
            return;
        }
        let now = Instant::now();
        let due: Vec<TopicPartition> =
            self.claiming.iter_mut().filter_map(|(of, at)| at.take_if(|at| *at <= now).map(|_| of.clone())).collect();
        if due.is_empty() {
            return;
        }
        let (consumer, reader, start) = (Arc::clone(&self.consumer), self.reader.clone(), self.config.start);
        self.claims.spawn_blocking(move || {
            let claims = claim::claim(&consumer, &reader, &due, start);
            (due, claims)
        });
    }

    pub(super) fn claimed(&mut self, claimed: Result<(Vec<TopicPartition>, KafkaResult<Claims>), JoinError>) {
        let (wanted, claims) = claimed.expect("a claim neither panics nor is aborted");
        match claims {
            Ok(claims) => claims.into_iter().for_each(|(of, claim)| self.begin_tenure(of, claim)),
            Err(error) => {
                tracing::warn!(error = %error, "where partitions continue cannot be told; they are looked at again");
                wanted.iter().for_each(|of| self.claim_later(of));
            }
        }
    }

    fn claim_later(&mut self, of: &TopicPartition) {
        if let Some(at) = self.claiming.get_mut(of) {
            *at = Some(Instant::now() + CLAIM_RETRY);
        }
    }

    /// Fetches a claimed partition, unless it was asked back meanwhile, or given anew: then it is claimed anew.
    fn begin_tenure(&mut self, of: TopicPartition, claim: Claim) {
        if self.claiming.get(&of) != Some(&None) {
            return;
        }
        let (start, offsets, mut state, kept, is_anew) = match claim {
            Claim::At { start, offsets, state, kept, is_anew } => (start, offsets, state, kept, is_anew),
            Claim::OutOfRange { committed, low, high, state } => {
                self.stand_outside(
                    &of,
                    OutOfRange { since: jiff::Timestamp::now().to_string(), committed, low, high },
                    state,
                );
                return self.claim_later(&of);
            }
        };
        let mut list = TopicPartitionList::new();
        let assigned = list
            .add_partition_offset(&of.0, of.1, Offset::Offset(start))
            .and_then(|()| self.consumer.incremental_assign(&list))
            // A pause of an earlier tenure may outlast it.
            .and_then(|()| self.consumer.resume(&list));
        if let Err(error) = assigned {
            tracing::warn!(topic = %of.0, partition = of.1, error = %error, "a partition could not be taken; again later");
            return self.claim_later(&of);
        }
        self.claiming.remove(&of);
        self.tenures += 1;
        // Where the commands were deleted, those to come have lower offsets.
        state.commands_from = state.commands_from.min(self.commands_next);
        if let Some(kept) = kept.as_ref().filter(|_| is_anew) {
            let held = kept.blocked.keys().chain(kept.parked.keys()).min();
            let why = "the topic was deleted and made anew: what held its partition is forgotten";
            self.writer.audit(kept, held.copied().unwrap_or_default(), "topic-changed", why, None);
            tracing::warn!(topic = %of.0, partition = of.1, why, "a blocking state is of another topic");
            // Of the commands for the old one none is followed in the new one.
            state.commands_from = self.commands_next;
        }
        let kept = kept.map_or_else(|| state.clone(), |kept| *kept);
        let wall = jiff::Timestamp::now();
        // Read second: what passes between the two makes a retry later, not earlier.
        let now = (Instant::now(), wall);
        let held = Held {
            committed: offsets.commit(),
            partition: Partition::new(offsets, state, self.config.order, now),
            brake: Brake::new(self.config.brake),
            kept,
            tenure: self.tenures,
            start,
            fetch_paused: false,
            leaving: false,
        };
        self.held.insert(of.clone(), held);
        self.follow_kept(&of);
        self.look(&of);
    }

    /// The partition is not consumed until an operator resets its offset; said once for each offset.
    fn stand_outside(&mut self, of: &TopicPartition, outside: OutOfRange, mut state: PartitionState) {
        let OutOfRange { committed, low, high, .. } = outside;
        if state.out_of_range.as_ref().is_none_or(|before| before.committed != committed) {
            let why = format!("the group's offset {committed} is not in the log, which holds {low} to {high}");
            tracing::error!(topic = %of.0, partition = of.1, why, "not consumed until an operator resets the offset");
            state.out_of_range = Some(outside);
            self.writer.keep(&state);
            self.writer.audit(&state, committed, "out-of-range", &why, None);
        }
        self.metrics.holds(&of.0, of.1, true, state.parked.len());
    }

    /// The client has found a partition's next offset outside the log, and does not say which: those with nothing in hand are
    /// claimed anew, which tells.
    pub(super) fn claim_idle_anew(&mut self) {
        drop(self.commit(CommitMode::Async));
        let idle = |held: &Held| held.partition.is_idle() && !held.leaving;
        let idle: Vec<_> = self.held.iter().filter(|(_, held)| idle(held)).map(|(of, _)| of.clone()).collect();
        tracing::error!(partitions = ?idle, "an offset lies outside the log; these are looked at again");
        idle.iter().for_each(|of| self.forget(of));
        if let Err(error) = give_back(&*self.consumer, &idle) {
            tracing::error!(error = %error, "partitions could not be let go");
        }
        self.claiming.extend(idle.into_iter().map(|of| (of, Some(Instant::now() + CLAIM_RETRY))));
    }
}
