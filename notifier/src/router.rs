//! The whole API on one page.

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{get, post},
};
use shared::telemetry::{SdkTracer, requests::trace_requests};

use crate::{app::App, error::Error, gate, routes::channels};

/// Bytes of a body; the routes take none.
const BODY_BYTES_MAX: usize = 4 << 10;

/// `POST /v1/channels` makes a channel; `GET /v1/channels/{channel_id}?after=` listens to it.
pub(crate) fn router(app: Arc<App>, tracer: Option<SdkTracer>) -> Router {
    Router::new()
        .route("/v1/channels", post(channels::make))
        .route("/v1/channels/{channel_id}", get(channels::listen))
        .method_not_allowed_fallback(async || Error::Method)
        .fallback(async || Error::Route)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), gate::admit))
        .layer(middleware::from_fn_with_state(tracer, trace_requests))
        .with_state(app)
}
