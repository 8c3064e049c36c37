//! Look-ups of sites that share a round trip.
//!
//! Look-ups that come while a connection has others on the wire wait for its turn and then go together, as one statement.
//! Nothing waits on a timer: on an idle connection a look-up goes at once, alone; the busier the replica, the more share
//! one statement, and the less each costs.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::Error;

use super::connection::Connection;
use crate::position::Generation;
use crate::queries::{FoundSite, Session};

/// Look-ups of one statement.
const SHARED_MAX: usize = 128;

/// Statements of look-ups that a connection has on the wire: while one's rows are read, the server works on the next.
const ROUNDS_MAX: usize = 2;

/// Look-ups that wait for a connection; those who come when there are so many wait to be let in, up to their deadlines.
const WAITING_MAX: usize = 4096;

/// One site to look up, and who waits for it. A waiter that is gone costs no query.
#[derive(Debug)]
pub(super) struct LookUp {
    generation: Generation,
    site_id: String,
    waiter: oneshot::Sender<Result<Option<FoundSite>, Arc<Error>>>,
}

/// Where a connection's look-ups are left.
pub(crate) type LookUps = mpsc::Sender<LookUp>;

/// The two ends of a connection's queue.
pub(super) fn queue() -> (LookUps, mpsc::Receiver<LookUp>) {
    mpsc::channel(WAITING_MAX)
}

/// Leaves a look-up, and waits for its answer. `None` when the connection was given up meanwhile.
pub(super) async fn ask(
    look_ups: &LookUps,
    generation: Generation,
    site_id: &str,
) -> Option<Result<Option<FoundSite>, Arc<Error>>> {
    let (waiter, answer) = oneshot::channel();
    look_ups.send(LookUp { generation, site_id: site_id.to_owned(), waiter }).await.ok()?;
    answer.await.ok()
}

/// Sends a connection's look-ups for as long as it is polled.
pub(super) async fn serve(connection: &Connection, mut queue: mpsc::Receiver<LookUp>) {
    let (mut rounds, mut waiting) = (FuturesUnordered::new(), Vec::new());
    loop {
        tokio::select! {
            biased;
            Some(()) = rounds.next() => {}
            count = queue.recv_many(&mut waiting, SHARED_MAX), if rounds.len() < ROUNDS_MAX => match count {
                0 => return,
                _ => rounds.push(round(connection, mem::take(&mut waiting))),
            },
        }
    }
}

/// One statement for each generation that is asked; there is more than one only while a promotion is noticed.
async fn round(connection: &Connection, mut waiting: Vec<LookUp>) {
    waiting.retain(|look_up| !look_up.waiter.is_closed());
    while let Some(generation) = waiting.first().map(|look_up| look_up.generation) {
        let (these, others) = waiting.into_iter().partition(|look_up| look_up.generation == generation);
        waiting = others;
        together(connection, generation, these).await;
    }
}

async fn together(connection: &Connection, generation: Generation, look_ups: Vec<LookUp>) {
    match sites(connection, generation, &look_ups).await {
        Ok(found) => answer(look_ups, found),
        Err(error) => {
            let error = Arc::new(error);
            for look_up in look_ups {
                // A waiter that is gone needs no answer.
                let _ = look_up.waiter.send(Err(error.clone()));
            }
        }
    }
}

async fn sites(
    connection: &Connection,
    generation: Generation,
    look_ups: &[LookUp],
) -> Result<HashMap<String, FoundSite>, Error> {
    let statements = connection.statements(generation).await?;
    let session = Session { connection, statements: &statements };
    let mut site_ids: Vec<&str> = look_ups.iter().map(|look_up| look_up.site_id.as_str()).collect();
    site_ids.sort_unstable();
    site_ids.dedup();
    session.sites(&site_ids).await
}

fn answer(look_ups: Vec<LookUp>, found: HashMap<String, FoundSite>) {
    for LookUp { site_id, waiter, .. } in look_ups {
        // As above. A site that several ask for is read once; its bytes are shared.
        let _ = waiter.send(Ok(found.get(&site_id).cloned()));
    }
}
