//! The whole API on one page.

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::header,
    middleware,
    response::{Html, IntoResponse},
    routing::{get, post},
};
use shared::telemetry::{SdkTracer, requests::trace_requests};

use crate::{
    app::App,
    error::Error,
    gate,
    redrive::EDIT_BYTES_MAX,
    routes::{commands, events, reads, redrives, session},
};

/// Bytes of a body; all of them are a few names and a reason.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Bytes of the body that begins a redrive: an edit, whose bytes JSON may write as six characters each.
const REDRIVE_BODY_BYTES_MAX: usize = 6 * EDIT_BYTES_MAX + BODY_BYTES_MAX;

/// Routes below `/v1` answer JSON. Those that change something are `POST`, want a role, a `reason` and, in `confirm`, the short
/// name of what is hit.
pub(crate) fn router(app: Arc<App>, tracer: Option<SdkTracer>) -> Router {
    let begin_redrive = get(redrives::list).post(redrives::begin).layer(DefaultBodyLimit::max(REDRIVE_BODY_BYTES_MAX));
    Router::new()
        .route("/", get(reads::page))
        .route("/events", get(events::stream))
        .route("/assets/console.css", get(async || asset("text/css", include_str!("assets/console.css"))))
        .route("/assets/console.js", get(async || asset("text/javascript", include_str!("assets/console.js"))))
        .route("/assets/letters.js", get(async || asset("text/javascript", include_str!("assets/letters.js"))))
        .route("/v1/session", post(session::begin).delete(session::end))
        .route("/v1/overview", get(reads::overview))
        .route("/v1/groups", get(reads::groups))
        .route("/v1/generations", get(reads::generations))
        .route("/v1/replicas", get(reads::replicas))
        .route("/v1/blocking", get(reads::blocking))
        .route("/v1/parked", get(reads::parked))
        .route("/v1/dead-letters", get(reads::dead_letters))
        .route("/v1/dead-letters/{topic}", get(reads::letters))
        .route("/v1/dead-letters/{topic}/{partition}/{offset}", get(reads::editable))
        .route("/v1/records/{topic}/{partition}/{offset}", get(reads::record))
        .route("/v1/audit", get(reads::audit))
        .route("/v1/commands", post(commands::send))
        .route("/v1/redrives", begin_redrive)
        .route("/v1/redrives/{id}/difference", get(redrives::difference))
        .route("/v1/redrives/{id}/stop", post(redrives::stop))
        .route("/v1/redrives/{id}/continue", post(redrives::go_on))
        .fallback(async || Error::NotFound("the console has no such route".to_owned()))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), gate::admit))
        .layer(middleware::from_fn_with_state(tracer, trace_requests))
        .with_state(app)
}

fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind)], Html(text).0)
}
