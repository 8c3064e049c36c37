//! The `loadtest` command; see the library for what it does.

use std::process::ExitCode;

use clap::Parser;
use loadtest::config::Args;

#[tokio::main]
async fn main() -> ExitCode {
    match loadtest::run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            devstack::warn(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
