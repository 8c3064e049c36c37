//! Retry policies as data.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Delays of blocking retries, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum BlockingBackoffs {
    /// One retry after each of these.
    Finite(Vec<Duration>),
    /// For ever, with one delay.
    Infinite(Duration),
    /// Each delay is the one before times `multiplier`, `maximum` at most.
    Exponential {
        /// Before the first retry.
        initial: Duration,
        /// Greater than 1.
        multiplier: f64,
        /// Longest delay.
        maximum: Duration,
        /// So many retries; `None` is for ever.
        retries: Option<u32>,
    },
}

/// How the records of a topic are retried.
#[derive(Debug, Clone, PartialEq)]
pub enum RetryPolicy {
    /// Not at all: the first failure is the last.
    NoRetry,
    /// In place; the partition waits, and order is kept.
    Blocking(BlockingBackoffs),
    /// By a retry topic for each of these delays; the partition goes on, and order is lost.
    NonBlocking(Vec<Duration>),
    /// In place first; what still fails goes by retry topics.
    BlockingFollowedByNonBlocking {
        /// Finite ones.
        blocking: BlockingBackoffs,
        /// One retry topic each.
        non_blocking: Vec<Duration>,
    },
}

/// What becomes of a record whose retries are over, or whose error is never retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exhausted {
    /// It goes to `<topic>-<group>-dlq`; the brake stops the partition when they become too many.
    DeadLetter,
    /// The partition stops at it until a person says how to go on.
    Block,
    /// It waits, and the later records of its key behind it, until a person unparks it; other keys go on. Beyond
    /// `parked_max` records the partition stops as under [`Exhausted::Block`].
    ParkKey,
}

/// Everything about retries of one topic.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryConfig {
    /// For every error that no class of `by_class` has.
    pub policy: RetryPolicy,
    /// By class of error, as the handler names it.
    pub by_class: BTreeMap<String, RetryPolicy>,
    /// Classes that are exhausted at once; a handler can say the same of a single error.
    pub never_retried: BTreeSet<String>,
    /// Up to so many percent are added to each delay, at random, so that what failed together is not tried together.
    pub jitter_percent: u8,
    /// What happens then.
    pub exhausted: Exhausted,
}

/// Why a [`RetryConfig`] is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RetryConfigError {
    /// Some errors would keep the order and others lose it.
    #[error("blocking and non-blocking retries of one topic, by class of error: order would be lost by accident")]
    MixedOrder,
    /// One retry topic would hold records of different delays, the short behind the long.
    #[error("the non-blocking delays of one topic differ by class of error; each must begin like the longest")]
    DifferentDelays,
    /// What follows would never be reached.
    #[error("infinite blocking retries followed by non-blocking ones")]
    NeverEnding,
    /// Records of a retry topic have lost their order already.
    #[error("a key cannot be parked where retries are non-blocking: its order is lost already")]
    ParkedWithoutOrder,
    /// The delays would shrink, or be none.
    #[error("an exponential backoff needs a multiplier above 1 and a first delay above 0")]
    NotExponential,
}

impl RetryConfig {
    /// One policy for every error; exhausted records are dead letters.
    pub fn new(policy: RetryPolicy) -> Self {
        Self {
            policy,
            by_class: BTreeMap::new(),
            never_retried: BTreeSet::new(),
            jitter_percent: 0,
            exhausted: Exhausted::DeadLetter,
        }
    }

    /// No retries: `RetryConfig.empty`.
    pub fn empty() -> Self {
        Self::new(RetryPolicy::NoRetry)
    }

    /// A retry in place after each of these.
    pub fn finite_blocking_retry(backoffs: impl Into<Vec<Duration>>) -> Self {
        Self::new(RetryPolicy::Blocking(BlockingBackoffs::Finite(backoffs.into())))
    }

    /// Retries in place for ever.
    pub fn infinite_blocking_retry(backoff: Duration) -> Self {
        Self::new(RetryPolicy::Blocking(BlockingBackoffs::Infinite(backoff)))
    }

    /// Retries in place with growing delays, `retries` of them or for ever.
    pub fn exponential_backoff_blocking_retry(
        initial: Duration,
        multiplier: f64,
        maximum: Duration,
        retries: Option<u32>,
    ) -> Self {
        Self::new(RetryPolicy::Blocking(BlockingBackoffs::Exponential { initial, multiplier, maximum, retries }))
    }

    /// A retry topic for each of these.
    pub fn non_blocking_retry(backoffs: impl Into<Vec<Duration>>) -> Self {
        Self::new(RetryPolicy::NonBlocking(backoffs.into()))
    }

    /// In place first, then by retry topics.
    pub fn blocking_followed_by_non_blocking_retry(
        blocking: impl Into<Vec<Duration>>,
        non_blocking: impl Into<Vec<Duration>>,
    ) -> Self {
        let blocking = BlockingBackoffs::Finite(blocking.into());
        Self::new(RetryPolicy::BlockingFollowedByNonBlocking { blocking, non_blocking: non_blocking.into() })
    }

    /// Another policy for a class of errors.
    #[must_use]
    pub fn for_class(mut self, class: &str, policy: RetryPolicy) -> Self {
        self.by_class.insert(class.to_owned(), policy);
        self
    }

    /// A class of errors that no retry can help.
    #[must_use]
    pub fn never_retry(mut self, class: &str) -> Self {
        self.never_retried.insert(class.to_owned());
        self
    }

    /// Spreads retries.
    #[must_use]
    pub fn jitter_percent(mut self, percent: u8) -> Self {
        self.jitter_percent = percent;
        self
    }

    /// What happens when retries are over.
    #[must_use]
    pub fn exhausted(mut self, exhausted: Exhausted) -> Self {
        self.exhausted = exhausted;
        self
    }

    /// Whether the policies fit together; asked when a consumer is made.
    pub fn check(&self) -> Result<(), RetryConfigError> {
        self.policies().try_for_each(RetryPolicy::check)?;
        let orders: BTreeSet<bool> = self.policies().filter_map(RetryPolicy::keeps_order).collect();
        if orders.len() > 1 {
            return Err(RetryConfigError::MixedOrder);
        }
        let longest = self.retry_topic_delays();
        if self.policies().any(|policy| !longest.starts_with(policy.non_blocking())) {
            return Err(RetryConfigError::DifferentDelays);
        }
        if self.exhausted == Exhausted::ParkKey && !longest.is_empty() {
            return Err(RetryConfigError::ParkedWithoutOrder);
        }
        Ok(())
    }

    /// Delays of the topic's retry topics, by their number.
    pub fn retry_topic_delays(&self) -> &[Duration] {
        self.policies().map(RetryPolicy::non_blocking).max_by_key(|delays| delays.len()).unwrap_or_default()
    }

    /// The policy for an error of this class.
    pub fn policy_of(&self, class: &str) -> &RetryPolicy {
        self.by_class.get(class).unwrap_or(&self.policy)
    }

    fn policies(&self) -> impl Iterator<Item = &RetryPolicy> {
        std::iter::once(&self.policy).chain(self.by_class.values())
    }
}

impl RetryPolicy {
    /// Delays of the retry topics.
    pub fn non_blocking(&self) -> &[Duration] {
        match self {
            Self::NonBlocking(delays) | Self::BlockingFollowedByNonBlocking { non_blocking: delays, .. } => delays,
            Self::NoRetry | Self::Blocking(_) => &[],
        }
    }

    /// Delay before the blocking retry of this number, from 0; `None` when there is none.
    pub fn blocking(&self, number: u32) -> Option<Duration> {
        match self {
            Self::Blocking(backoffs) | Self::BlockingFollowedByNonBlocking { blocking: backoffs, .. } => {
                backoffs.delay(number)
            }
            Self::NoRetry | Self::NonBlocking(_) => None,
        }
    }

    fn keeps_order(&self) -> Option<bool> {
        match self {
            Self::NoRetry => None,
            Self::Blocking(_) => Some(true),
            Self::NonBlocking(_) | Self::BlockingFollowedByNonBlocking { .. } => Some(false),
        }
    }

    fn check(&self) -> Result<(), RetryConfigError> {
        match self {
            Self::Blocking(backoffs) => backoffs.check(),
            Self::BlockingFollowedByNonBlocking { blocking, .. } if blocking.delay(u32::MAX).is_some() => {
                Err(RetryConfigError::NeverEnding)
            }
            Self::BlockingFollowedByNonBlocking { blocking, .. } => blocking.check(),
            Self::NoRetry | Self::NonBlocking(_) => Ok(()),
        }
    }
}

impl BlockingBackoffs {
    fn delay(&self, number: u32) -> Option<Duration> {
        match self {
            Self::Finite(delays) => delays.get(number as usize).copied(),
            Self::Infinite(delay) => Some(*delay),
            Self::Exponential { retries: Some(retries), .. } if number >= *retries => None,
            Self::Exponential { initial, multiplier, maximum, .. } => {
                let seconds = initial.as_secs_f64() * multiplier.powi(number.min(10_000).cast_signed());
                Some(Duration::try_from_secs_f64(seconds).map_or(*maximum, |delay| delay.min(*maximum)))
            }
        }
    }

    fn check(&self) -> Result<(), RetryConfigError> {
        match self {
            Self::Exponential { initial, multiplier, .. }
                if initial.is_zero() || multiplier.is_nan() || *multiplier <= 1.0 =>
            {
                Err(RetryConfigError::NotExponential)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn exponential_delays_grow_up_to_their_maximum() {
        let policy = RetryConfig::exponential_backoff_blocking_retry(S, 2.0, 10 * S, Some(6)).policy;
        let delays: Vec<_> = (0..8).map(|number| policy.blocking(number).map(|delay| delay.as_secs())).collect();
        assert_eq!(delays, [Some(1), Some(2), Some(4), Some(8), Some(10), Some(10), None, None]);
        let for_ever = RetryConfig::exponential_backoff_blocking_retry(S, 2.0, 10 * S, None).policy;
        assert_eq!(for_ever.blocking(u32::MAX), Some(10 * S), "no overflow");
    }

    #[test]
    fn what_loses_order_or_never_ends_by_accident_is_refused() {
        let blocking = || RetryPolicy::Blocking(BlockingBackoffs::Infinite(S));
        let non_blocking = |delays: &[Duration]| RetryPolicy::NonBlocking(delays.to_vec());
        let both = |blocking| RetryPolicy::BlockingFollowedByNonBlocking { blocking, non_blocking: vec![S] };
        for (config, expected) in [
            (RetryConfig::infinite_blocking_retry(S), Ok(())),
            (RetryConfig::infinite_blocking_retry(S).for_class("x", RetryPolicy::NoRetry), Ok(())),
            (RetryConfig::infinite_blocking_retry(S).exhausted(Exhausted::ParkKey), Ok(())),
            (RetryConfig::blocking_followed_by_non_blocking_retry([S], [S, 2 * S]), Ok(())),
            (RetryConfig::non_blocking_retry([S, 2 * S]).for_class("x", non_blocking(&[S])), Ok(())),
            (RetryConfig::non_blocking_retry([S]).for_class("x", blocking()), Err(RetryConfigError::MixedOrder)),
            (
                RetryConfig::non_blocking_retry([S, 2 * S]).for_class("x", non_blocking(&[2 * S])),
                Err(RetryConfigError::DifferentDelays),
            ),
            (RetryConfig::new(both(BlockingBackoffs::Infinite(S))), Err(RetryConfigError::NeverEnding)),
            (
                RetryConfig::non_blocking_retry([S]).exhausted(Exhausted::ParkKey),
                Err(RetryConfigError::ParkedWithoutOrder),
            ),
            (RetryConfig::exponential_backoff_blocking_retry(S, 1.0, S, None), Err(RetryConfigError::NotExponential)),
        ] {
            assert_eq!(config.check(), expected, "{config:?}");
        }
    }
}
