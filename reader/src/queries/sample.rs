//! SQL of samples: which generation is active, and how far a replica is.

use std::time::Instant;

use deadpool_postgres::ClientWrapper;
use tokio_postgres::{Error, Statement};

use crate::position::{Generation, PartitionPosition, Progress, Sample};

/// The generation that is served at the moment; `None` before the first.
pub(crate) async fn active_generation(client: &ClientWrapper) -> Result<Option<Generation>, Error> {
    let sql = "select generation from siteview.generation where state = 'active'";
    client.query_opt(sql, &[]).await?.map(|row| row.try_get(0)).transpose()
}

/// Prepares the statement of [`take`] for one generation.
pub(crate) async fn prepare(client: &ClientWrapper, generation: Generation) -> Result<Statement, Error> {
    // One statement, so that generation, positions and progress are of one snapshot. Functions of the log read what is true
    // now, which is at least that; received is read after replayed, so that it is never less.
    let sql = format!(
        "select g.generation, p.partition, p.next_offset, (extract(epoch from p.as_of) * 1000000)::bigint, \
         coalesce(g.newest_served, g.generation), (extract(epoch from p.updated_at) * 1000000)::bigint, \
         l.follows, l.replayed, (pg_last_wal_receive_lsn() - '0/0')::bigint, p.epoch \
         from siteview.generation g \
         left join view_g{generation}.position p on true \
         cross join (select pg_is_in_recovery() as follows, (pg_last_wal_replay_lsn() - '0/0')::bigint as replayed) l \
         where g.state = 'active'"
    );
    client.prepare(&sql).await
}

/// Samples a replica. `None` when the generation that the statement was prepared for is no longer the active one.
pub(crate) async fn take(
    client: &ClientWrapper,
    statement: &Statement,
    generation: Generation,
) -> Result<Option<Sample>, Error> {
    let asked_at = Instant::now();
    let rows = client.query(statement, &[]).await?;
    let (mut positions, mut progress, mut newest_served) = (Vec::new(), Progress::default(), generation);
    let mut claims = 0_i64;
    for row in &rows {
        if row.try_get::<_, Generation>(0)? != generation {
            return Ok(None);
        }
        newest_served = row.try_get(4)?;
        let moved_at = progress.moved_at.max(row.try_get(5)?);
        let (follows, replayed, received) = (row.try_get(6)?, row.try_get(7)?, row.try_get(8)?);
        progress = Progress { moved_at, received, replayed, follows };
        let Some(partition) = row.try_get(1)? else { continue };
        let as_of = row.try_get::<_, Option<i64>>(3)?.and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok());
        positions.push(PartitionPosition { partition, next_offset: row.try_get(2)?, as_of });
        claims = claims.wrapping_add(row.try_get(9)?);
    }
    Ok((!rows.is_empty()).then(|| Sample::new(generation, newest_served, positions, progress).asked(asked_at, claims)))
}
