//! Signing in and out: a browser shows a token once and gets a cookie.

use std::sync::Arc;

use axum::{
    Json,
    extract::{State, rejection::JsonRejection},
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
};
use serde::Deserialize;

use super::body;
use crate::{app::App, error::Error, gate};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Body {
    token: String,
}

pub(crate) async fn begin(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    sent: Result<Json<Body>, JsonRejection>,
) -> Result<impl IntoResponse, Error> {
    let (caller, session) = app.access.begin_session(body(sent)?.token.trim()).ok_or(Error::Unauthorized)?;
    tracing::info!(name = caller.name, role = caller.role.as_str(), "signed in");
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, gate::session_cookie(&headers, Some(&session)))]))
}

pub(crate) async fn end(State(app): State<Arc<App>>, headers: HeaderMap) -> impl IntoResponse {
    if let Some(id) = gate::session_id(&headers) {
        app.access.end_session(id);
    }
    (StatusCode::NO_CONTENT, [(header::SET_COOKIE, gate::session_cookie(&headers, None))])
}
