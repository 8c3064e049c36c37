//! Samples a replica's position, over a connection of its own so that no look-up delays it.
//!
//! The sampler is the health check too: no sample, no requests. It works by the clock, and at once when somebody demands a
//! position that the newest sample has not reached.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::ClientWrapper;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout};

use super::connection::{backoff, chain, connect};
use super::replica::Replica;
use crate::error::{Disposition, GENERATION, disposition};
use crate::queries::sample;

/// From one sample to one that is wanted before its time: what clients demand can't make them more.
const SOONER_PAUSE: Duration = Duration::from_millis(5);

/// Why sampling over a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{}", chain(.0))]
    Database(#[from] tokio_postgres::Error),
    #[error("the view has no active generation")]
    NoGeneration,
    #[error("gives no sample in time")]
    Silent,
}

/// Keeps one replica sampled, for ever.
pub(super) async fn keep(replica: Arc<Replica>) {
    let mut delays = backoff();
    loop {
        let client = connect(&replica).await;
        let (sampled, ended) = sample_until_it_ends(&replica, &client).await;
        replica.failed(ended.to_string());
        if sampled {
            delays = backoff();
            tracing::warn!(replica = replica.name(), error = %ended, "replica lost");
        }
        tokio::time::sleep(delays.next().unwrap_or_default()).await;
    }
}

/// Samples until an error; says whether there was any sample.
async fn sample_until_it_ends(replica: &Replica, client: &ClientWrapper) -> (bool, Ended) {
    let mut sampled = false;
    loop {
        match follow_generation(replica, client, &mut sampled).await {
            Ok(()) => {}
            Err(ended) => return (sampled, ended),
        }
    }
}

/// Samples for as long as the active generation stays the same.
async fn follow_generation(replica: &Replica, client: &ClientWrapper, sampled: &mut bool) -> Result<(), Ended> {
    let silence_max = replica.settings.silence_max;
    let generation = in_time(silence_max, sample::active_generation(client)).await?.ok_or(Ended::NoGeneration)?;
    let statement = in_time(silence_max, sample::prepare(client, generation)).await?;
    tracing::info!(replica = replica.name(), generation, "following the active generation");
    let mut ticks = interval(replica.settings.position_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut soonest = Instant::now();
    loop {
        due(&mut ticks, replica, soonest).await;
        soonest = Instant::now() + SOONER_PAUSE;
        let sample = match in_time(silence_max, sample::take(client, &statement, generation)).await {
            Ok(Some(sample)) => sample,
            Ok(None) => return Ok(()),
            // Replay was quick: the generation was left and dropped between two samples.
            Err(Ended::Database(error)) if disposition(&error) == Disposition::Retry(GENERATION) => return Ok(()),
            Err(ended) => return Err(ended),
        };
        // One that can be sampled and takes no other connection can't be asked.
        if replica.is_connected() {
            replica.sampled(sample);
            *sampled = true;
        }
    }
}

/// Waits for the interval to pass, or until a sample is wanted sooner.
async fn due(ticks: &mut Interval, replica: &Replica, soonest: Instant) {
    let wanted = async {
        replica.sample_wanted.notified().await;
        sleep_until(soonest).await;
    };
    tokio::select! {
        _ = ticks.tick() => {}
        () = wanted => {}
    }
}

/// Every statement of the sampler is bounded: a server that hangs answers none, and its connection stays open.
async fn in_time<T>(
    limit: Duration,
    asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Ended> {
    Ok(timeout(limit, asked).await.map_err(|_| Ended::Silent)??)
}
