//! Which generation a running writer feeds: found at start, watched from then on.
//!
//! With `WRITER_GENERATION` it is that one. Without, it is the active one; when another becomes active, the writer goes on with
//! its own, which keeps a rollback fresh, for as long as somebody feeds the active one. When nobody does, it moves over: what
//! is served is never left behind.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use shared::config::Invalid;
use sqlx::PgConnection;
use tokio::time::MissedTickBehavior;

use crate::{
    assignment::TopicConsumer,
    config::Config,
    ends,
    error::StoreError,
    observe::Generations,
    projection::Projection,
    store::generation::{self, Generation},
};

/// How often the generations are looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// A generation that nobody has moved for so long is fed by nobody: on an idle topic `as_of` moves every second.
const UNFED_AFTER: Duration = Duration::from_secs(4);
/// So often in a row must that be seen: after a pause of the whole database it looks so for a moment.
const UNFED_LOOKS: u32 = 3;

/// What a writer feeds.
#[derive(Debug)]
pub(crate) struct Feed {
    pub(crate) generation: i32,
    /// The generation's own mapping, or the writer's.
    pub(crate) projection: Projection,
}

/// Why a writer feeds its generation no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It is there no more.
    Dropped,
    /// This one is active, and nobody feeds it.
    Move(i32),
}

/// Why there is nothing to feed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoFeed {
    /// Waited out.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Ends the writer.
    #[error(transparent)]
    Projection(#[from] Invalid),
}

impl From<sqlx::Error> for NoFeed {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// The generation to feed at start, and the mapping to feed it with.
pub(crate) async fn find(config: &Config) -> Result<Feed, NoFeed> {
    let mut connection = connect(config).await?;
    let active = crate::store::active_generation(&mut connection).await?;
    let missing = StoreError::NotMigrated("active generation");
    let number = config.generation.or(active).ok_or(missing)?;
    let generations = Generation::all(&mut connection).await?;
    let found = generations.iter().find(|generation| generation.generation == number);
    let found = found.ok_or(StoreError::NoGeneration(number))?;
    Ok(Feed { generation: number, projection: projection(config, found)? })
}

/// A generation's own mapping goes first: rows of two mappings in one generation would be wrong for ever.
fn projection(config: &Config, found: &Generation) -> Result<Projection, Invalid> {
    let Some(text) = &found.projection else {
        return Ok(config.projection.clone());
    };
    let invalid = |why: String| Invalid::new("WRITER_PROJECTION", why);
    let stored = Projection::parse(text);
    let stored = stored.map_err(|error| invalid(format!("that of generation {}: {error}", found.generation)))?;
    if config.projection_text.is_some() && config.projection != stored {
        return Err(invalid(format!(
            "maps otherwise than generation {} was created to; leave it out: the generation's own is used",
            found.generation
        )));
    }
    Ok(stored)
}

/// Waits until the writer has to leave its generation.
pub(crate) async fn watch(config: &Config, generation: i32) -> Turn {
    let mut ticks = tokio::time::interval(WATCH_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut connection, mut unfed_looks, mut told) = (None, 0, Generations::default());
    loop {
        ticks.tick().await;
        match look(config, generation, &mut connection, &mut told).await {
            Ok(Some(Turn::Move(to))) if unfed_looks + 1 < UNFED_LOOKS => {
                tracing::debug!(generation = to, "the active generation is fed by nobody");
                unfed_looks += 1;
            }
            Ok(Some(turn)) => return turn,
            Ok(None) => unfed_looks = 0,
            // The lanes meet the same database, and tell.
            Err(error) => {
                tracing::debug!(error = %error, "the generations cannot be looked at");
                connection = None;
            }
        }
    }
}

async fn look(
    config: &Config,
    generation: i32,
    connection: &mut Option<PgConnection>,
    told: &mut Generations,
) -> Result<Option<Turn>, StoreError> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(connect(config).await?),
    };
    let generations = Generation::all(connection).await?;
    told.tell(generations.iter().map(|of| (of.generation, config.group_of(of.generation), of.state.as_str())));
    if !generations.iter().any(|found| found.generation == generation) {
        return Ok(Some(Turn::Dropped));
    }
    let active = generations.iter().find(|found| found.is_active()).map(|found| found.generation);
    match active.filter(|active| config.generation.is_none() && *active != generation) {
        Some(active) if !generation::is_fed(connection, active, UNFED_AFTER).await? => Ok(Some(Turn::Move(active))),
        _ => Ok(None),
    }
}

/// Makes a building generation ready once every partition has been at its end; ends then, or when it was so already.
pub(crate) async fn make_ready(config: Config, generation: i32, consumer: Arc<TopicConsumer>) {
    let mut ticks = tokio::time::interval(WATCH_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut connection, mut ends) = (None, BTreeMap::new());
    loop {
        ticks.tick().await;
        match reached(&config, generation, &mut connection, &ends).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(error = %error, "whether the generation is ready cannot be told");
                connection = None;
            }
        }
        // Reached are ends of a moment ago; those of now are always a little ahead.
        let (consumer, topic) = (Arc::clone(&consumer), config.topic.clone());
        let sampled = tokio::task::spawn_blocking(move || ends::all(&consumer, &topic)).await;
        ends = sampled.ok().flatten().unwrap_or_default();
    }
}

/// Whether the generation is no longer building.
async fn reached(
    config: &Config,
    generation: i32,
    connection: &mut Option<PgConnection>,
    ends: &BTreeMap<i32, i64>,
) -> Result<bool, StoreError> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(connect(config).await?),
    };
    let generations = Generation::all(connection).await?;
    let building = |found: &Generation| found.generation == generation && found.state == "building";
    if !generations.iter().any(building) {
        return Ok(true);
    }
    if ends.is_empty() || !generation::mark_ready(connection, generation, &config.topic, ends).await? {
        return Ok(false);
    }
    tracing::info!(generation, "the generation has caught up and is ready");
    Ok(true)
}

async fn connect(config: &Config) -> Result<PgConnection, StoreError> {
    config.database.clone().application_name("siteview-writer").disable_statement_logging().connect().await
}
