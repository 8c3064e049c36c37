//! When a failed record is tried again, and what happens when that is over. Data and pure functions; nothing here waits.
//!
//! The names are Greyhound's. A *blocking* retry keeps the order: nothing else of the partition is begun until the record
//! succeeds or is given up. A *non-blocking* one sends the record to a retry topic, one per delay, and goes on: order is
//! lost. Which of the two a topic has is one value, [`RetryPolicy`]; both together are a policy of their own, so that nobody
//! loses order by accident, and [`RetryConfig::check`] refuses classes of errors that would mix them.
//!
//! A record that is given up is never silent: it becomes a dead letter, its partition stops at it, or its key is parked
//! ([`Exhausted`]).

mod config;
mod decide;
mod trail;

pub use config::{BlockingBackoffs, Exhausted, RetryConfig, RetryConfigError, RetryPolicy};
pub use decide::{Action, Failure, Stage, decide};
pub use trail::{Trail, due_at};
pub(crate) use trail::{delay_of, retry_headers};

/// Name of a retry topic: `<topic>-<group>-retry-<number>`, numbers from 0 in the order of the delays.
pub fn retry_topic(topic: &str, group: &str, number: usize) -> String {
    format!("{topic}-{group}-retry-{number}")
}
