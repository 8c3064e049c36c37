//! The one place that decides what becomes of a failed record. Pure.

use std::time::Duration;

use super::config::{Exhausted, RetryConfig};

/// Where the record was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The topic itself.
    Source,
    /// The retry topic of this number.
    Retry(usize),
}

/// A failed attempt.
#[derive(Debug, Clone, Copy)]
pub struct Failure<'a> {
    /// Where the record was read.
    pub stage: Stage,
    /// Attempts made there, this one included: from 1.
    pub attempts: u32,
    /// Class of the error.
    pub class: &'a str,
    /// Whether the handler says that no retry helps.
    pub never_retried: bool,
    /// Whether a person has said that failures of this partition are to be passed over.
    pub ignoring: bool,
}

/// What becomes of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is tried again in place; its partition waits.
    RetryIn(Duration),
    /// It goes to the retry topic of this number, to be tried again after the delay; its partition goes on.
    RetryTopic {
        /// Number of the retry topic.
        number: usize,
        /// From the moment at which the broker appends it.
        delay: Duration,
    },
    /// It goes to the dead letters because a person said so; its partition goes on.
    Ignore,
    /// Its retries are over.
    Exhaust(Exhausted),
}

/// Decides. `chance` is a random number from 0 to 1, for the jitter, which only ever adds.
pub fn decide(config: &RetryConfig, failure: &Failure<'_>, chance: f64) -> Action {
    if failure.ignoring {
        return Action::Ignore;
    }
    if failure.never_retried || config.never_retried.contains(failure.class) {
        return Action::Exhaust(config.exhausted);
    }
    let policy = config.policy_of(failure.class);
    let spread = |delay: Duration| delay.mul_f64(1.0 + f64::from(config.jitter_percent) / 100.0 * chance);
    let (blocking, number) = match failure.stage {
        Stage::Source => (policy.blocking(failure.attempts.saturating_sub(1)), 0),
        // The blocking retries were made before it came here; each retry topic stands for one attempt.
        Stage::Retry(number) => (None, number + 1),
    };
    if let Some(delay) = blocking {
        return Action::RetryIn(spread(delay));
    }
    match policy.non_blocking().get(number) {
        Some(delay) => Action::RetryTopic { number, delay: spread(*delay) },
        None => Action::Exhaust(config.exhausted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::RetryPolicy;

    const S: Duration = Duration::from_secs(1);

    fn failure(stage: Stage, attempts: u32, class: &str) -> Failure<'_> {
        Failure { stage, attempts, class, never_retried: false, ignoring: false }
    }

    #[test]
    fn each_policy_leads_through_its_retries_to_its_end() {
        let finite = RetryConfig::finite_blocking_retry([S, 5 * S]).exhausted(Exhausted::Block);
        let infinite = RetryConfig::infinite_blocking_retry(S);
        let topics = RetryConfig::non_blocking_retry([S, 5 * S]);
        let both = RetryConfig::blocking_followed_by_non_blocking_retry([S], [5 * S]);
        let classes = RetryConfig::finite_blocking_retry([S]).for_class("odd", RetryPolicy::NoRetry).never_retry("bad");
        let (source, retry) = (Stage::Source, Stage::Retry);
        let to = |number, delay| Action::RetryTopic { number, delay };
        let dead = Action::Exhaust(Exhausted::DeadLetter);
        for (config, stage, attempts, class, expected) in [
            (&RetryConfig::empty(), source, 1, "", dead),
            (&finite, source, 1, "", Action::RetryIn(S)),
            (&finite, source, 2, "", Action::RetryIn(5 * S)),
            (&finite, source, 3, "", Action::Exhaust(Exhausted::Block)),
            (&infinite, source, 1, "", Action::RetryIn(S)),
            (&infinite, source, u32::MAX, "", Action::RetryIn(S)),
            (&topics, source, 1, "", to(0, S)),
            (&topics, retry(0), 1, "", to(1, 5 * S)),
            (&topics, retry(1), 1, "", dead),
            (&topics, retry(7), 1, "", dead),
            (&both, source, 1, "", Action::RetryIn(S)),
            (&both, source, 2, "", to(0, 5 * S)),
            (&both, retry(0), 1, "", dead),
            (&classes, source, 1, "", Action::RetryIn(S)),
            (&classes, source, 1, "odd", dead),
            (&classes, source, 1, "bad", dead),
        ] {
            assert_eq!(decide(config, &failure(stage, attempts, class), 0.0), expected, "{stage:?} {attempts} {class}");
        }
    }

    #[test]
    fn a_handler_and_a_person_come_before_the_policy() {
        let config = RetryConfig::infinite_blocking_retry(S);
        let never = Failure { never_retried: true, ..failure(Stage::Source, 1, "") };
        assert_eq!(decide(&config, &never, 0.0), Action::Exhaust(Exhausted::DeadLetter));
        assert_eq!(decide(&config, &Failure { ignoring: true, ..never }, 0.0), Action::Ignore);
    }

    #[test]
    fn jitter_only_adds() {
        let config = RetryConfig::infinite_blocking_retry(10 * S).jitter_percent(20);
        for (chance, expected) in [(0.0, 10 * S), (0.5, 11 * S), (1.0, 12 * S)] {
            assert_eq!(decide(&config, &failure(Stage::Source, 1, ""), chance), Action::RetryIn(expected));
        }
    }
}
