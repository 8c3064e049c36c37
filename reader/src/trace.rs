//! A span for each request, where traces are sent: in the client's trace if it names one, else in a new one.
//!
//! The span is made when the answer is, from what is known then; without a tracer nothing is noted before. Of a stream of
//! changes it is the beginning. The path stays out of it, as it holds ids; the request's id finds it.

use std::time::{Duration, SystemTime};

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use opentelemetry::trace::{Span, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};
use shared::telemetry::{SdkTracer, span_context};

use crate::router::Route;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The methods that OpenTelemetry's convention knows; others have one name together, so that clients can't invent names.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Makes the span of a request that has just been answered.
///
/// The names are those of OpenTelemetry's conventions for HTTP servers. The request's id has one of our own: a header's values
/// are a list there, which not every store of traces finds by its text.
pub(crate) fn request(
    tracer: &SdkTracer,
    head: &Parts,
    route: Route,
    request_id: &HeaderValue,
    status: StatusCode,
    took: Duration,
) {
    let ended = SystemTime::now();
    let method = METHODS.into_iter().find(|known| *known == head.method.as_str());
    let mut attributes = vec![
        KeyValue::new("http.request.method", method.unwrap_or("_OTHER")),
        KeyValue::new("http.response.status_code", i64::from(status.as_u16())),
        KeyValue::new("siteview.request_id", request_id.to_str().unwrap_or_default().to_owned()),
    ];
    let mut name = method.unwrap_or("HTTP").to_owned();
    if route != Route::Unknown {
        attributes.push(KeyValue::new("http.route", route.template()));
        name = format!("{name} {}", route.template());
    }
    let builder = tracer.span_builder(name).with_kind(SpanKind::Server).with_start_time(ended - took);
    let mut span = builder.with_attributes(attributes).start_with_context(tracer, &parent(&head.headers));
    if status.is_server_error() {
        span.set_status(Status::error(""));
    }
    span.end_with_timestamp(ended);
}

/// What the client's trace is continued from; nothing, where its header is not valid or there are several.
fn parent(headers: &HeaderMap) -> Context {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let only = values.next().filter(|_| values.next().is_none());
    let context = only.and_then(|value| span_context(value.as_bytes()));
    context.map_or_else(Context::new, |context| Context::new().with_remote_span_context(context))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_valid_traceparent_is_the_parent() {
        let valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        for (values, is_parent) in
            [(&[][..], false), (&[valid][..], true), (&["00-x"][..], false), (&[valid, valid][..], false)]
        {
            let header = |value: &&'static str| (TRACEPARENT, HeaderValue::from_static(value));
            assert_eq!(parent(&values.iter().map(header).collect()).has_active_span(), is_parent, "{values:?}");
        }
    }
}
