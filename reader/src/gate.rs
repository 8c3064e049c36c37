//! The stages of every request, in their order; each is able to refuse it.
//!
//! ```text
//! size         the head is within its limit            431
//! route        the path is known, the method is taken  404, 405
//! freshness    demands on position and version         400
//! body         received whole, where one is taken      400, 413, 415, 503
//! concurrency  a permit is free, none is waited for    503
//! deadline     the rest ends in time                   504
//! handler      the look-up                             200, 400, 404, …
//! ```

use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use shared::problem::Kind;

use crate::answer::{Answer, Body};
use crate::app::App;
use crate::body::{self, Received, discard};
use crate::error::Error;
use crate::freshness::Demand;
use crate::request::{Call, X_REQUEST_ID, head_bytes, request_id};
use crate::router::{Route, Variables};
use crate::trace;
use crate::workers;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Answers one request; never fails, as every error is an answer.
pub(crate) async fn answer(app: &Arc<App>, request: Request<Incoming>) -> Response<Body> {
    let started = Instant::now();
    workers::count_request();
    let (head, mut body) = request.into_parts();
    let id = request_id(&head.headers);
    let (route, variables) = Route::of(head.uri.path());
    let result = admitted(app, &head, &mut body, route, variables).await;
    let mut response = match result {
        Ok(answer) => answer.into_response(&head.headers).await,
        Err(error) => {
            log(&error, route, &id);
            error.into_response(&id)
        }
    };
    let took = started.elapsed();
    if let Some(tracer) = &app.tracer {
        trace::request(tracer, &head, route, &id, response.status(), took);
    }
    finish(app, response.headers_mut(), id, took);
    app.observe.request(route, response.status(), took);
    discard(&mut body, &head.headers).await;
    response
}

/// The stages; the permit is held until the answer is made.
async fn admitted(
    app: &Arc<App>,
    head: &http::request::Parts,
    body: &mut Incoming,
    route: Route,
    variables: Variables<'_>,
) -> Result<Answer, Error> {
    if head_bytes(&head.uri, &head.headers) > app.config.header_bytes_max {
        return Err(Error::HeadersTooLarge(app.config.header_bytes_max));
    }
    if !route.takes(&head.method) {
        return Err(Error::MethodNotAllowed { allow: route.allow() });
    }
    // A feed waits most of its life; it has a limit of its own, and takes its permit along.
    let is_feed = route == Route::Changes;
    let demand = Demand::read(&head.headers, is_feed)?;
    let received = match route.takes_body() {
        true => body::receive(app, body, &head.headers).await?,
        false => Received::default(),
    };
    let (permits, max) = match demand.wait.is_zero() {
        true => (&app.in_hand, app.config.requests_max),
        false => (&app.waiting, app.config.waits_max),
    };
    let _permit = (!is_feed).then(|| permits.try_acquire()).transpose().map_err(|_| {
        app.observe.shed();
        Error::Overloaded(max)
    })?;
    let limit = app.config.request_time_max + demand.wait;
    let headers = &head.headers;
    let call = Call { app, uri: &head.uri, headers, variables, demand, body: received.bytes };
    in_time(limit, route, call).await
}

/// The handler, within the deadline, which begins when the wait that the client wants is over; a panic of a handler is its
/// request's error and no other's.
async fn in_time(limit: Duration, route: Route, call: Call<'_>) -> Result<Answer, Error> {
    match tokio::time::timeout(limit, AssertUnwindSafe(route.answer(&call)).catch_unwind()).await {
        Ok(Ok(result)) => result,
        Ok(Err(_panic)) => Err(Error::Panicked),
        Err(_elapsed) => Err(Error::DeadlineExceeded(limit)),
    }
}

/// The headers that every answer has.
fn finish(app: &App, headers: &mut HeaderMap, request_id: HeaderValue, took: Duration) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(X_REQUEST_ID, request_id);
    headers.insert(SERVER_TIMING, server_timing(took));
    if app.is_draining() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Printed as whole numbers and without a `String`: a float was two fifths of what [`finish`] does.
fn server_timing(took: Duration) -> HeaderValue {
    /// A `u128` with what is around it is shorter.
    const BYTES_MAX: usize = 64;
    let mut text = [0; BYTES_MAX];
    let mut rest = &mut text[..];
    write!(rest, "total;dur={}.{:03}", took.as_millis(), took.subsec_micros() % 1000).expect("there is room");
    let unused = rest.len();
    HeaderValue::from_bytes(&text[..BYTES_MAX - unused]).expect("a number is ASCII")
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
