//! Benchmarks of Siteview on the real parts: what a backlog and a read cost and how long a change takes, beside a peer in
//! one run.
//!
//! ```text
//! recipe ─play─> table (the model) ─form─> topic ──> contender: writer, or Debezium's JDBC sink ──> fresh database
//!                  │                                     │ window: first event seen … last event seen
//!                  └────────── compare ──────────────────┘ CPU from /proc, WAL bytes, peak RSS ──> report
//!
//! a view of the table ──replica──> served: reader, or the naive one <──requests when due── generator ──> latencies
//!                          └────> yardstick: pgbench                                          └─ model: is it right?
//! ```
//!
//! **Rules.** Machines are shared and noisy, so contenders take turns in one run and ratios come before times; CPU time of
//! every process that works is counted, of reaped children too; the window is the same for all and excludes start-up;
//! latency is measured from the moment at which a record was *due* (open loop). A run whose end state is not the model's, or
//! whose rate was missed, is void and gives no figures. Each result is one JSON line with all that one needs to read it.
//!
//! **Absent.** No code of a service: writers are processes, known by their contract, and so is the peer. Nothing here
//! passes or fails by time; tests are elsewhere.

mod compare;
pub mod config;
mod contender;
mod cpu;
mod database;
pub mod dataset;
mod drain;
mod latency;
mod machine;
pub mod read;
mod report;
mod stack;
mod topic;
mod window;

use anyhow::Result;

use crate::config::{Args, Verb};

/// Does what it is asked.
pub async fn run(args: Args) -> Result<()> {
    match args.verb {
        Verb::Drain(options) => drain::run(options).await,
        Verb::Latency(options) => latency::run(options).await,
        Verb::Read(options) => read::run(*options).await,
    }
}
