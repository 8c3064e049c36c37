//! What every request passes: whose page sent it. Browsers say so by `Origin`, and cannot be made to lie; who is no browser needs no
//! page to be fooled. A websocket is bound by no other rule of theirs, so this one is all that keeps foreign pages out.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{app::App, error::Error};

/// Lets a request through, or refuses it; answers the question that browsers ask before (CORS).
pub(crate) async fn admit(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let is_allowed =
        origin.as_ref().is_none_or(|origin| origin.to_str().is_ok_and(|origin| app.origins.contains(origin)));
    let mut answer = match (is_allowed, request.method() == Method::OPTIONS) {
        (false, _) => Error::Origin.into_response(),
        (true, true) => StatusCode::NO_CONTENT.into_response(),
        (true, false) => next.run(request).await,
    };
    let headers = answer.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(origin) = origin.filter(|_| is_allowed) {
        share(headers, origin);
    }
    answer
}

/// Lets pages of this origin read the answer.
fn share(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("content-type, last-event-id, traceparent"),
    );
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
}
