//! Stores and transactions on a real broker. Every test has its own topics and groups; waits are for conditions.

#[path = "../../examples/stage/mod.rs"]
mod stage;

mod atomic;
mod examples;
mod loading;
mod log;
mod reading;
mod relay;
mod transactions;

use std::time::Duration;

use anyhow::Result;

/// For a condition on a busy machine.
const DEADLINE: Duration = Duration::from_secs(90);

fn broker() -> Result<stage::Broker> {
    stage::Broker::at(None)
}
