//! Making a channel, and the way to listen to it: the checks that both transports share.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{
        Path, Query, State,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    app::App,
    cursor::Cursor,
    error::Error,
    hub::expiry,
    observe::{self, Listening},
    routes::{events, socket},
    server::Place,
    session::Session,
};

/// `{"channel_id","expires_at","expires_in_s"}`, 201. The last is for clients whose clock is wrong.
pub(crate) async fn make(State(app): State<Arc<App>>) -> Result<(StatusCode, Json<Value>), Error> {
    if !app.may_make_channel() {
        return Err(Error::Rate);
    }
    let (channel, expires_unix_s) = app.make_channel();
    observe::channel_made();
    let expires_at = i64::try_from(expires_unix_s).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    let expires_at = expires_at.unwrap_or(jiff::Timestamp::MAX).to_string();
    let made =
        json!({"channel_id": channel.as_str(), "expires_at": expires_at, "expires_in_s": app.lifetime.as_secs()});
    Ok((StatusCode::CREATED, Json(made)))
}

/// Where the client wants to go on.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct From {
    #[serde(default)]
    after: String,
}

/// A websocket, or server-sent events where they are accepted. What is wrong is said before either begins.
pub(crate) async fn listen(
    State(app): State<Arc<App>>,
    Path(channel): Path<String>,
    Query(from): Query<From>,
    Extension(place): Extension<Place>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Error> {
    let channel = app.channel(&channel)?;
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let wants_events = text(header::ACCEPT).contains("text/event-stream");
    // An EventSource asks for its first address again, with its place in this header.
    let last_event_id = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let seen: Cursor = last_event_id.unwrap_or(&from.after).parse()?;
    if upgrade.is_err() && !wants_events {
        return Err(Error::Transport);
    }
    if !app.caught_up.holds() {
        return Err(Error::NotReady);
    }
    let is_of_this_log = app.hub.reached(seen, app.behind_max).await;
    let subscription = app.hub.subscribe(&channel, seen, is_of_this_log)?;
    let expires_unix_s = expiry(channel.as_str()).unwrap_or_default();
    let session = |by| Session::new(subscription, Listening::by(by), expires_unix_s, app.ending.clone(), place);
    match upgrade {
        Ok(upgrade) => Ok(socket::answer(upgrade, session("websocket"), &app)),
        Err(_) => Ok(events::answer(session("events"), app.ping_interval).into_response()),
    }
}
