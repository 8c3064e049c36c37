//! The stages of every request, in their order; each is able to refuse it.
//!
//! ```text
//! size         the head is within its limit            431
//! route        the path is known, the method is taken  404, 405
//! concurrency  a permit is free, none is waited for    503
//! deadline     the rest ends in time                   504
//! freshness    demands on position and version         400, 503
//! handler      the look-up                             200, 400, 404, …
//! ```

use std::fmt::Write;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use shared::problem::Kind;

use crate::answer::{Answer, Body};
use crate::app::App;
use crate::error::Error;
use crate::position::{Position, number};
use crate::request::{Call, X_REQUEST_ID, discard, head_bytes, request_id};
use crate::router::Route;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Answers one request; never fails, as every error is an answer.
pub(crate) async fn answer(app: &App, request: Request<Incoming>) -> Response<Body> {
    let started = Instant::now();
    let (head, mut body) = request.into_parts();
    let id = request_id(&head.headers);
    let (route, variables) = Route::of(head.uri.path());
    let result = match admit(app, &head, route) {
        Ok(_permit) => {
            let demanded = None;
            let call = Call { app, uri: &head.uri, headers: &head.headers, variables, body: &mut body, demanded };
            in_time(app.config.request_time_max, route, call).await
        }
        Err(error) => Err(error),
    };
    let mut response = match result {
        Ok(answer) => answer.into_response(&head.headers).await,
        Err(error) => {
            log(&error, route, &id);
            error.into_response(&id)
        }
    };
    let took = started.elapsed();
    finish(app, response.headers_mut(), id, took);
    app.observe.request(route, response.status(), took);
    discard(&mut body, &head.headers).await;
    response
}

/// The stages before the handler: each refuses at once or lets pass; the permit is held until the answer is made.
fn admit<'a>(
    app: &'a App,
    head: &http::request::Parts,
    route: Route,
) -> Result<tokio::sync::SemaphorePermit<'a>, Error> {
    if head_bytes(&head.uri, &head.headers) > app.config.header_bytes_max {
        return Err(Error::HeadersTooLarge(app.config.header_bytes_max));
    }
    if !route.takes(&head.method) {
        return Err(Error::MethodNotAllowed { allow: route.allow() });
    }
    app.in_hand.try_acquire().map_err(|_| {
        app.observe.shed();
        Error::Overloaded(app.config.requests_max)
    })
}

/// Freshness and handler, within the deadline; a panic of a handler is its request's error and no other's.
async fn in_time(limit: Duration, route: Route, mut call: Call<'_>) -> Result<Answer, Error> {
    let handled = async {
        call.demanded = demanded_position(call.headers)?;
        route.answer(&mut call).await
    };
    match tokio::time::timeout(limit, AssertUnwindSafe(handled).catch_unwind()).await {
        Ok(Ok(result)) => result,
        Ok(Err(_panic)) => Err(Error::Panicked),
        Err(_elapsed) => Err(Error::DeadlineExceeded(limit)),
    }
}

/// The position that a request demands; checks the form of a demanded version too.
fn demanded_position(headers: &HeaderMap) -> Result<Option<Position>, Error> {
    const MIN_POSITION: HeaderName = HeaderName::from_static("projection-min-position");
    const MIN_VERSION: HeaderName = HeaderName::from_static("projection-min-version");
    if let Some(value) = headers.get(MIN_VERSION) {
        let why = "is not a whole number from 0";
        let invalid = Error::InvalidParameter { name: "Projection-Min-Version", why };
        value.to_str().ok().and_then(number::<i64>).ok_or(invalid)?;
    }
    let position = headers.get(MIN_POSITION);
    let parse = |value: &HeaderValue| value.to_str().ok().and_then(Position::parse).ok_or(Error::InvalidPosition);
    position.map(parse).transpose()
}

/// The headers that every answer has.
fn finish(app: &App, headers: &mut HeaderMap, request_id: HeaderValue, took: Duration) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(X_REQUEST_ID, request_id);
    let mut timing = String::with_capacity(24);
    let _ = write!(timing, "total;dur={:.3}", took.as_secs_f64() * 1000.0);
    headers.insert(SERVER_TIMING, HeaderValue::try_from(timing).expect("a number is ASCII"));
    if app.is_draining() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Errors that are not the client's are logged here and nowhere else.
fn log(error: &Error, route: Route, request_id: &HeaderValue) {
    let request_id = request_id.to_str().unwrap_or_default();
    match error.kind() {
        Kind::Internal => {
            let cause = std::error::Error::source(error).map(crate::replicas::chain);
            tracing::error!(route = route.template(), request_id, %error, cause, "request failed");
        }
        Kind::NoReplica | Kind::DeadlineExceeded => {
            tracing::warn!(route = route.template(), request_id, %error, "request not answered");
        }
        _ => tracing::debug!(route = route.template(), request_id, %error, "request refused"),
    }
}
