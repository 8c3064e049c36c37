//! The consumer on a real broker: every policy and state, with restarts and rebalances in the middle.

mod blocking;
mod examples;
mod input;
mod log;
mod order;
mod parking;
mod rebalances;
mod retries;
mod stage;
