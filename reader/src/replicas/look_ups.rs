//! Look-ups of sites that share a round trip.
//!
//! Look-ups that come while a connection has others on the wire, or has just sent many, wait for its turn and then go
//! together, as one statement: a row of it costs Postgres a third of what it costs alone. Few are never held back; the
//! busier the replica, the more share one statement, and the less each costs.

use std::mem;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, Instant, sleep_until};
use tokio_postgres::Error;

use super::connection::Connection;
use crate::position::Generation;
use crate::queries::{FoundSite, Placing, Sites};

/// Look-ups of one statement.
const SHARED_MAX: usize = 128;

/// Statements of look-ups that a connection has on the wire: while one's rows are read, the server works on the next.
const ROUNDS_MAX: usize = 2;

/// How long look-ups are gathered for the next statement after one that a crowd has shared: about as many will share the next one
/// too. A look-up that comes then waits for half of it on average.
const GATHERED_FOR: Duration = Duration::from_millis(1);

/// So many are a crowd. Two clients that happen to ask at once are not held back: they would meet again and again.
const CROWD: usize = 3;

/// Look-ups that wait for a connection; those who come when there are so many wait to be let in, up to their deadlines.
const WAITING_MAX: usize = 4096;

/// One site to look up, and who waits for it. A waiter that is gone costs no query.
#[derive(Debug)]
pub(super) struct LookUp {
    generation: Generation,
    placing: Placing,
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
    placing: Placing,
    site_id: &str,
) -> Option<Result<Option<FoundSite>, Arc<Error>>> {
    let (waiter, answer) = oneshot::channel();
    look_ups.send(LookUp { generation, placing, site_id: site_id.to_owned(), waiter }).await.ok()?;
    answer.await.ok()
}

/// Sends a connection's look-ups for as long as it is polled.
pub(super) async fn serve(connection: &Connection, mut queue: mpsc::Receiver<LookUp>) {
    let (mut rounds, mut waiting, mut gathering) = (FuturesUnordered::new(), Vec::new(), Gathering::default());
    loop {
        tokio::select! {
            biased;
            Some(()) = rounds.next() => {}
            count = gathering.take(&mut queue, &mut waiting), if rounds.len() < ROUNDS_MAX => match count {
                0 => return,
                _ => rounds.push(round(connection, mem::take(&mut waiting))),
            },
        }
    }
}

/// When the next statement may go, and with how many look-ups.
#[derive(Debug, Default)]
struct Gathering {
    until: Option<Instant>,
}

impl Gathering {
    /// Takes what waits, at least one and at most [`SHARED_MAX`]; none when nobody is left to leave any. Loses nothing when it
    /// is dropped before.
    async fn take<T>(&mut self, queue: &mut mpsc::Receiver<T>, waiting: &mut Vec<T>) -> usize {
        if let Some(until) = self.until
            && queue.len() < SHARED_MAX
        {
            sleep_until(until).await;
        }
        let count = queue.recv_many(waiting, SHARED_MAX).await;
        self.until = (count >= CROWD).then(|| Instant::now() + GATHERED_FOR);
        count
    }
}

/// One statement for each generation and placing that is asked; there is more than one generation only while a promotion is
/// noticed.
async fn round(connection: &Connection, mut waiting: Vec<LookUp>) {
    waiting.retain(|look_up| !look_up.waiter.is_closed());
    let kind = |look_up: &LookUp| (look_up.generation, look_up.placing);
    while let Some((generation, placing)) = waiting.first().map(kind) {
        let (these, others) = waiting.into_iter().partition(|look_up| kind(look_up) == (generation, placing));
        waiting = others;
        together(connection, generation, placing, these).await;
    }
}

async fn together(connection: &Connection, generation: Generation, placing: Placing, mut look_ups: Vec<LookUp>) {
    look_ups.sort_unstable_by(|one, other| one.site_id.cmp(&other.site_id));
    match sites(connection, generation, placing, &look_ups).await {
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
    placing: Placing,
    sorted: &[LookUp],
) -> Result<Sites, Error> {
    let statements = connection.statements(generation).await?;
    let mut site_ids: Vec<&str> = sorted.iter().map(|look_up| look_up.site_id.as_str()).collect();
    site_ids.dedup();
    statements.sites(&connection.client, placing, &site_ids).await
}

/// A site that several ask for is read once; its bytes are shared.
fn answer(sorted: Vec<LookUp>, mut found: Sites) {
    let mut sorted = sorted.into_iter().peekable();
    while let Some(LookUp { site_id, waiter, .. }) = sorted.next() {
        let is_last = sorted.peek().is_none_or(|next| next.site_id != site_id);
        let row = if is_last { found.remove(&site_id) } else { found.get(&site_id).cloned() };
        // As above.
        let _ = waiter.send(Ok(row));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::position::RowPosition;

    #[test]
    fn all_who_ask_for_a_site_get_its_row() {
        let (mut look_ups, mut answers) = (Vec::new(), Vec::new());
        for site_id in ["a", "b", "b", "gone", "gone"] {
            let (waiter, answer) = oneshot::channel();
            look_ups.push(LookUp { generation: 1, placing: Placing::Record, site_id: site_id.to_owned(), waiter });
            answers.push(answer);
        }
        let row = |next_offset| FoundSite { document: None, position: RowPosition { partition: 0, next_offset } };
        answer(look_ups, Sites::from([("a".to_owned(), row(1)), ("b".to_owned(), row(2))]));
        let told = |mut answer: oneshot::Receiver<Result<Option<FoundSite>, _>>| {
            let row: Result<_, Arc<Error>> = answer.try_recv().expect("an answer");
            row.expect("no error").map(|row| row.position.next_offset)
        };
        assert_eq!(answers.into_iter().map(told).collect::<Vec<_>>(), [Some(1), Some(2), Some(2), None, None]);
    }

    #[tokio::test]
    async fn few_go_at_once_and_a_crowd_is_gathered() {
        let (sender, mut queue) = mpsc::channel(SHARED_MAX + 2);
        let (mut gathering, mut waiting) = (Gathering::default(), Vec::new());
        let leave = async |count: usize| {
            for number in 0..count {
                sender.send(number).await.unwrap();
            }
        };
        for few in [1, 2, 2, CROWD] {
            leave(few).await;
            assert_eq!(gathering.take(&mut queue, &mut waiting).now_or_never(), Some(few));
        }
        leave(1).await;
        assert_eq!(gathering.take(&mut queue, &mut waiting).now_or_never(), None, "more may come");
        leave(1).await;
        assert_eq!(gathering.take(&mut queue, &mut waiting).await, 2, "both: none was lost when it was dropped");
        leave(CROWD).await;
        assert_eq!(gathering.take(&mut queue, &mut waiting).now_or_never(), Some(CROWD), "two were few");
        leave(SHARED_MAX + 1).await;
        assert_eq!(gathering.take(&mut queue, &mut waiting).now_or_never(), Some(SHARED_MAX), "no more would fit");
        assert_eq!(gathering.take(&mut queue, &mut waiting).await, 1);
        drop(sender);
        assert_eq!(gathering.take(&mut queue, &mut waiting).await, 0);
    }
}
