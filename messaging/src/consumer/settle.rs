//! What a report of a task means for its record and its partition, and what a command does.

use std::{sync::Arc, time::Instant};

use futures_util::FutureExt as _;

use super::{
    group::TopicPartition,
    handler::{HandleError, RecordHandler},
    observe::Outcome,
    run::{Loop, Running},
    work::{Done, Onward},
};
use crate::{
    blocking::{Command, Effect, NextAttempt, Stuck, WaitsFor},
    brake::Brake,
    retry::{Action, Exhausted, Failure, decide},
};

impl<H: RecordHandler> Loop<H> {
    /// Does what follows from a task's end. Its partition is held, in the tenure in which it began.
    pub(super) fn settle(&mut self, running: Running, done: Done) {
        let of = running.of.clone();
        match done {
            Done::Handled(Ok(())) => {
                let held = self.held.get_mut(&of).expect("the partition is held");
                held.brake.pass();
                held.partition.finish(&running.record);
                self.metrics.record(&of.0, Outcome::Handled);
            }
            Done::Handled(Err(error)) => self.fail(running, error),
            Done::Moved(outcome) => {
                let held = self.held.get_mut(&of).expect("the partition is held");
                if outcome == Outcome::LeftOut {
                    let (state, offset) = (&held.partition.state, running.record.place.offset);
                    let who = state.ignoring_once.get(&offset).map_or("failures are ignored", String::as_str);
                    self.writer.audit(state, offset, "left-out", who, None);
                }
                held.partition.finish(&running.record);
                self.metrics.record(&of.0, outcome);
            }
        }
        self.look(&of);
    }

    fn fail(&mut self, running: Running, error: HandleError) {
        let held = self.held.get_mut(&running.of).expect("the partition is held");
        let source = &self.sources[&running.of.0];
        let (offset, attempts) = (running.record.place.offset, running.attempts + 1);
        let failure = Failure {
            stage: source.stage,
            attempts,
            class: &error.class,
            never_retried: error.never_retried,
            ignoring: held.partition.state.ignores(offset),
        };
        let action = decide(&source.retries, &failure, rand_fraction());
        tracing::warn!(topic = %running.of.0, partition = running.of.1, offset, attempts, class = %error.class,
            error = %error, action = ?action, "a record was not handled");
        match action {
            Action::RetryIn(delay) => {
                let next_attempt = Some(NextAttempt::after(delay, jiff::Timestamp::now()));
                let stuck = Stuck { next_attempt, ..stuck(&running, &error, WaitsFor::Retry, attempts) };
                held.partition.retry(&running.record, Instant::now() + delay, stuck, self.commands_next);
                self.metrics.record(&running.of.0, Outcome::Retried);
            }
            Action::RetryTopic { number, delay } => {
                let (topic, partitions) = source.retry_topics[number].clone();
                let partition = running.record.trail.origin.partition % partitions.max(1);
                let (onward, record) = (Onward { topic, partition, delay }, Arc::clone(&running.record));
                self.move_on(running, |deliveries| deliveries.send_on(record, onward, error).boxed());
            }
            Action::Ignore => {
                let who = held.partition.state.ignoring_once.get(&offset).cloned();
                let reason = if who.is_some() { "skipped" } else { "ignored" };
                let error = HandleError { message: who.unwrap_or(error.message), ..error };
                self.bury(running, error, reason, Outcome::LeftOut);
            }
            Action::Exhaust(Exhausted::DeadLetter) => match held.brake.admit() {
                Ok(()) => {
                    let reason = error.class.clone();
                    self.bury(running, error, &reason, Outcome::DeadLettered);
                }
                Err(tripped) => {
                    self.block(running, HandleError::new("braked", format!("{tripped}; {error}")), attempts)
                }
            },
            Action::Exhaust(Exhausted::Block) => self.block(running, error, attempts),
            Action::Exhaust(Exhausted::ParkKey) => {
                let stuck = stuck(&running, &error, WaitsFor::Operator, attempts);
                held.partition.park(&running.record, stuck, self.commands_next);
                self.writer.audit(&held.partition.state, offset, "parked", &error.message, None);
                self.metrics.record(&running.of.0, Outcome::Parked);
            }
        }
    }

    fn bury(&mut self, running: Running, error: HandleError, reason: &str, outcome: Outcome) {
        let (record, reason) = (Arc::clone(&running.record), reason.to_owned());
        self.move_on(running, move |deliveries| deliveries.bury(record, reason, error.message, outcome).boxed());
    }

    fn block(&mut self, running: Running, error: HandleError, attempts: u32) {
        let held = self.held.get_mut(&running.of).expect("the partition is held");
        let offset = running.record.place.offset;
        held.partition.block(
            &running.record,
            stuck(&running, &error, WaitsFor::Operator, attempts),
            self.commands_next,
        );
        self.writer.audit(&held.partition.state, offset, "blocked", &error.message, None);
        self.metrics.record(&running.of.0, Outcome::Blocked);
        tracing::error!(topic = %running.of.0, partition = running.of.1, offset, class = %error.class, error = %error,
            "the partition stands at this record until it is unblocked or the record is skipped");
    }

    /// Does what a command says, if this member has the partition. What comes of it is audited, unless it is an old one that is
    /// looked at again.
    pub(super) fn follow(&mut self, of: &TopicPartition, at: i64, command: &Command, is_new: bool) {
        let brake_limits = self.config.brake;
        let Some(held) = self.held.get_mut(of) else { return };
        let state = &mut held.partition.state;
        // Where nothing is kept of a partition, nobody knows how far its commands have been looked at.
        let is_audited = is_new || (at >= state.commands_from && state.is_worth_keeping());
        let followed = state.follow(command, at);
        let (event, detail) = match &followed {
            Ok(_) => ("followed", ""),
            Err(why) => ("refused", *why),
        };
        if is_audited || followed.is_ok() {
            self.writer.audit(&held.partition.state, command.offset, event, detail, Some(command));
            tracing::info!(verb = ?command.verb, topic = %of.0, partition = of.1, offset = command.offset, event, detail,
                by = command.by, "a command");
        }
        match followed {
            Ok(Effect::LeaveOut(offsets)) => offsets.iter().for_each(|offset| held.partition.try_again(*offset)),
            Ok(Effect::TryAgain(offset)) => {
                // Whoever releases it, releases it with a brake that has seen nothing.
                held.brake = Brake::new(brake_limits);
                held.partition.try_again(offset);
            }
            Ok(Effect::Look) | Err(_) => {}
        }
        self.look(of);
    }

    /// Writes down what holds a partition, when that has changed.
    pub(super) fn look(&mut self, of: &TopicPartition) {
        let Some(held) = self.held.get_mut(of) else { return };
        if let Some(offset) = held.partition.block_if_overfull(self.config.parked_load_max()) {
            let why = "more records are parked than may be";
            self.writer.audit(&held.partition.state, offset, "blocked", why, None);
            tracing::error!(topic = %of.0, partition = of.1, offset, why, "the partition stands");
        }
        if held.partition.state == held.kept {
            return;
        }
        held.kept = held.partition.state.clone();
        self.writer.keep(&held.kept);
        self.metrics.holds(&of.0, of.1, held.kept.waits_for_operator(), held.partition.parked().records);
    }
}

fn stuck(running: &Running, error: &HandleError, waits_for: WaitsFor, attempts: u32) -> Stuck {
    let key = running.record.key.as_ref().map(|key| String::from_utf8_lossy(key).into_owned());
    Stuck {
        since: jiff::Timestamp::now().to_string(),
        attempts,
        class: error.class.to_string(),
        error: error.message.clone(),
        key,
        waits_for,
        next_attempt: None,
    }
}

/// A number from 0 to 1 for jitter.
fn rand_fraction() -> f64 {
    f64::from(rand::random::<u32>()) / f64::from(u32::MAX)
}
