//! Samples a replica's position, over a connection of its own so that no look-up delays it.
//!
//! The sampler is the health check too: no sample, no requests.

use std::sync::Arc;

use tokio::time::{MissedTickBehavior, interval, timeout};

use super::connection::{backoff, chain, connect};
use super::replica::Replica;
use crate::queries;

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
        if matches!(ended, Ended::Silent) {
            // The connection may hang for ever: it must not go back to the pool.
            drop(deadpool_postgres::Object::take(client));
        }
        tokio::time::sleep(delays.next().unwrap_or_default()).await;
    }
}

/// Samples until an error; says whether there was any sample.
async fn sample_until_it_ends(replica: &Replica, client: &deadpool_postgres::Object) -> (bool, Ended) {
    let mut sampled = false;
    loop {
        match follow_generation(replica, client, &mut sampled).await {
            Ok(()) => {}
            Err(ended) => return (sampled, ended),
        }
    }
}

/// Samples for as long as the active generation stays the same.
async fn follow_generation(
    replica: &Replica,
    client: &deadpool_postgres::Object,
    sampled: &mut bool,
) -> Result<(), Ended> {
    let generation = queries::active_generation(client).await?.ok_or(Ended::NoGeneration)?;
    let statement = queries::prepare_sample(client, generation).await?;
    tracing::info!(replica = replica.name(), generation, "following the active generation");
    let mut ticks = interval(replica.settings.position_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let sample = timeout(replica.settings.silence_max, queries::sample(client, &statement, generation)).await;
        let Some(sample) = sample.map_err(|_| Ended::Silent)?? else {
            return Ok(());
        };
        if replica.is_connected() {
            replica.sampled(sample);
            *sampled = true;
        }
    }
}
