//! The whole API on one page.

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::header,
    middleware,
    response::IntoResponse,
    routing::{get, post},
};
use shared::telemetry::{SdkTracer, requests::trace_requests};

use crate::{
    app::App,
    error::Error,
    gate,
    routes::{imports, preview, uploads},
};

/// Bodies are streamed and bounded where they are read ([`crate::intake`]).
pub(crate) fn router(app: Arc<App>, tracer: Option<SdkTracer>) -> Router {
    Router::new()
        .route("/", get(async || asset("text/html; charset=utf-8", include_str!("assets/import.html"))))
        .route("/assets/import.css", get(async || asset("text/css", include_str!("assets/import.css"))))
        .route("/assets/import.js", get(async || asset("text/javascript", include_str!("assets/import.js"))))
        .route("/assets/channel.js", get(async || asset("text/javascript", include_str!("assets/channel.js"))))
        .route("/v1/config", get(imports::config))
        .route("/v1/imports", post(uploads::upload))
        .route("/v1/imports/preview", post(preview::preview))
        .route("/v1/imports/{id}", get(imports::import))
        .route("/v1/imports/{id}/errors", get(imports::errors))
        .route("/v1/imports/{id}/errors.csv", get(imports::error_file))
        .route("/v1/imports/{id}/cancel", post(imports::cancel))
        .fallback(async || Error::Route)
        .method_not_allowed_fallback(async || Error::Method)
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(Arc::clone(&app), gate::guard))
        .layer(middleware::from_fn_with_state(tracer, trace_requests))
        .with_state(app)
}

fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind)], text)
}
