//! `torture SEED MINUTES`: random faults over a live stream for as long as wanted; see [`acceptance::torture`].

use std::time::Duration;

use anyhow::{Context, Result};

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |what: &str| -> Result<Option<u64>> {
        let given = arguments.next().filter(|text| !text.is_empty());
        given.map(|text| text.parse().with_context(|| format!("{what} is a number, not {text:?}"))).transpose()
    };
    let seed = number("SEED")?.unwrap_or_else(rand::random);
    let minutes = number("MINUTES")?.unwrap_or(1);
    acceptance::torture(seed, Duration::from_secs(minutes * 60)).await
}
