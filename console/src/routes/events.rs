//! The page, again after each change, as server-sent events.

use std::{convert::Infallible, sync::Arc};

use axum::{
    extract::State,
    response::sse::{Event, KeepAlive, Sse},
};
use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::watch;

use crate::{app::App, error::Error, page, snapshot::Snapshot};

/// Event `page`: the main part of the page as a JSON string. The first comes at once.
pub(crate) async fn stream(
    State(app): State<Arc<App>>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Error> {
    let place = Arc::clone(&app.streams).try_acquire_owned().map_err(|_| Error::Overloaded)?;
    let (mut now, ending, mut replaced) = (app.now.clone(), app.ending.clone(), app.access.replaced());
    now.mark_changed();
    let changes = stream::unfold((now, place, None), async |(mut now, place, shown)| {
        let snapshot = changed(&mut now, shown.as_ref()).await?;
        let event = Event::default().event("page").json_data(page::main_of(&snapshot)).expect("a text is JSON");
        Some((Ok(event), (now, place, Some(snapshot))))
    });
    // Who looks on may not be let in any more; a browser comes back by itself, and is asked who it is.
    let over = async move {
        tokio::select! {
            () = ending.cancelled() => {}
            _ = replaced.changed() => {}
        }
    };
    let changes = changes.take_until(Box::pin(over));
    Ok(Sse::new(changes).keep_alive(KeepAlive::default()))
}

/// The next snapshot whose page differs from what is shown; `None` when there are no more.
async fn changed(now: &mut watch::Receiver<Arc<Snapshot>>, shown: Option<&Arc<Snapshot>>) -> Option<Arc<Snapshot>> {
    loop {
        now.changed().await.ok()?;
        let snapshot = Arc::clone(&now.borrow_and_update());
        if shown.is_none_or(|shown| page::main_of(shown) != page::main_of(&snapshot)) {
            return Some(snapshot);
        }
    }
}
