//! From the poll to the lanes: batches are filled, sent when due, and held back while a lane is full.

use std::{
    collections::HashMap,
    sync::mpsc::RecvTimeoutError,
    time::{Duration, Instant},
};

use rdkafka::{Offset, TopicPartitionList, consumer::Consumer, error::KafkaResult};
use tokio::sync::mpsc;

use super::{POLL_MAX, Source, State};
use crate::{batch::Batch, lane::Command};

/// Batches that a lane has in hand: one at work and one waiting.
pub(super) const BATCHES_MAX: usize = 2;
/// Commands that can wait for a lane: its batches and one list of claims.
pub const COMMANDS_MAX: usize = BATCHES_MAX + 1;
/// How long a full lane may hold up the others before its partitions are paused.
pub(super) const STALL_MAX: Duration = Duration::from_secs(2);

/// One lane, seen from the source.
pub(super) struct LaneLink {
    commands: mpsc::Sender<Command>,
    pub(super) filling: Batch,
    pub(super) in_hand: usize,
    pub(super) claiming: bool,
    full_since: Option<Instant>,
    paused: bool,
}

impl LaneLink {
    /// A lane without partitions.
    pub(super) fn new(commands: mpsc::Sender<Command>) -> Self {
        let filling = Batch::default();
        Self { commands, filling, in_hand: 0, claiming: false, full_since: None, paused: false }
    }

    /// A lane that has ended ends the process; until then what it is sent is lost with it.
    pub(super) fn send(&self, command: Command) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.commands.try_send(command) {
            unreachable!("a lane's commands are counted: at most COMMANDS_MAX wait");
        }
    }

    /// Drops what has not been sent and lets the lane see that nothing more comes.
    pub(super) fn close(&mut self) {
        let (closed, _) = mpsc::channel(1);
        self.commands = closed;
        self.filling = Batch::default();
    }
}

impl Source {
    /// Whether a lane cannot take a record more: nothing is polled until it can, or it has stalled.
    pub(super) fn must_wait(&mut self) -> bool {
        for lane in &mut self.lanes {
            let full = lane.in_hand == BATCHES_MAX && lane.filling.is_full(self.limits);
            match (full, lane.full_since) {
                (true, None) => lane.full_since = Some(Instant::now()),
                (false, _) => lane.full_since = None,
                _ => {}
            }
        }
        self.pause_and_resume();
        self.lanes.iter().any(|lane| lane.full_since.is_some() && !lane.paused)
    }

    fn pause_and_resume(&mut self) {
        for number in 0..self.lanes.len() {
            let stalled = self.lanes[number].full_since.is_some_and(|since| since.elapsed() > STALL_MAX);
            if stalled == self.lanes[number].paused {
                continue;
            }
            let mut list = TopicPartitionList::new();
            for (partition, state) in &self.partitions {
                if matches!(state, State::Running(_)) && *partition as usize % self.lanes.len() == number {
                    list.add_partition(&self.topic, *partition);
                }
            }
            let done = if stalled { self.consumer.pause(&list) } else { self.consumer.resume(&list) };
            tracing::info!(lane = number, paused = stalled, "partitions of a lane paused or resumed");
            if let Err(error) = done {
                tracing::warn!(lane = number, error = %error, "partitions could not be paused or resumed");
            }
            self.lanes[number].paused = stalled;
        }
    }

    /// Pauses or resumes a partition that has just been assigned as its lane is. The client keeps the pause of a partition
    /// over its unassignment (`RD_KAFKA_TOPPAR_F_APP_PAUSE` is the toppar's, which outlives it): what was paused when it was
    /// revoked would come back paused, for good.
    pub(super) fn follow_lane(&self, assigned: &TopicPartitionList, partition: i32) -> KafkaResult<()> {
        match self.lanes[partition as usize % self.lanes.len()].paused {
            true => self.consumer.pause(assigned),
            false => self.consumer.resume(assigned),
        }
    }

    pub(super) fn wait_for_lane(&mut self) {
        match self.events.recv_timeout(POLL_MAX) {
            Ok(event) => self.follow(event),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        self.dispatch(true);
    }

    /// Sends what has come: full batches to whoever can take them, and when the client has no more waiting what there is to lanes
    /// without work. Behind a batch at work the next one grows meanwhile, instead of waiting behind a third.
    pub(super) fn dispatch(&mut self, drained: bool) {
        for number in 0..self.lanes.len() {
            let lane = &self.lanes[number];
            let is_full = lane.filling.is_full(self.limits);
            let due = !lane.filling.records.is_empty() && (is_full || (drained && lane.in_hand == 0));
            if due && lane.in_hand < BATCHES_MAX {
                self.send_batch(number);
            }
        }
    }

    pub(super) fn send_batch(&mut self, number: usize) {
        let positions = self.client_positions();
        let mut batch = std::mem::take(&mut self.lanes[number].filling);
        for (partition, state) in &mut self.partitions {
            let State::Running(running) = state else { continue };
            let Some(Offset::Offset(position)) = positions.get(partition).copied() else {
                continue;
            };
            if *partition as usize % self.lanes.len() != number || !running.settled || position <= running.next_offset {
                continue;
            }
            batch.advance(&running.tenure, running.next_offset, position);
            running.next_offset = position;
        }
        if !batch.is_empty() {
            let polled_at = Instant::now();
            batch.polled_at = Some(polled_at);
            self.topic_watch.demand(polled_at);
            self.lanes[number].in_hand += 1;
            self.lanes[number].send(Command::Batch(batch));
        }
    }

    /// The client's positions: behind the last record that `poll` gave, and behind transaction markers and aborted records
    /// that it passed. Taken by the polling thread between polls, so every record before them is in a batch.
    fn client_positions(&self) -> HashMap<i32, Offset> {
        let positions = self
            .consumer
            .position()
            .map(|list| list.elements().iter().map(|element| (element.partition(), element.offset())).collect());
        positions.unwrap_or_default()
    }

    /// A position that is unset belongs to no earlier tenure; from then on the client's word counts.
    pub(super) fn settle(&mut self) {
        let positions = self.client_positions();
        for (partition, state) in &mut self.partitions {
            if let State::Running(running) = state
                && matches!(positions.get(partition), Some(Offset::Invalid))
            {
                running.settled = true;
            }
        }
    }
}
