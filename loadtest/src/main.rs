//! The `loadtest` command; see the library for what it does.

use std::process::ExitCode;

use clap::Parser;
use loadtest::config::Args;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = tokio::select! {
        outcome = loadtest::run(Args::parse()) => outcome,
        interrupted = interrupted() => interrupted,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            devstack::warn(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Ends a run early: what it has started is stopped when its future is dropped.
async fn interrupted() -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    anyhow::bail!("interrupted; results so far are kept")
}
