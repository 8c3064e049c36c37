//! A span for each request, where traces are sent.
//!
//! It is made when the answer is, from what is known then; without a tracer nothing is noted before. The request's id finds it.

use std::time::{Duration, SystemTime};

use http::request::Parts;
use http::{HeaderValue, StatusCode};
use opentelemetry::KeyValue;
use opentelemetry::trace::Span as _;
use shared::telemetry::{SdkTracer, requests};

use crate::router::Route;

/// Makes the span of a request that has just been answered.
///
/// The request's id has a name of our own: by OpenTelemetry's conventions a header's values are a list, which not every store of
/// traces finds by its text.
pub(crate) fn request(
    tracer: &SdkTracer,
    head: &Parts,
    route: Route,
    request_id: &HeaderValue,
    status: StatusCode,
    took: Duration,
) {
    let ended = SystemTime::now();
    let route = (route != Route::Unknown).then(|| route.template());
    let mut span = requests::begin(tracer, &head.method, &head.headers, route, ended - took);
    span.set_attribute(KeyValue::new("siteview.request_id", request_id.to_str().unwrap_or_default().to_owned()));
    requests::end(span, status, ended);
}
