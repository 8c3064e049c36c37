//! A span for each request, where traces are sent: in the client's trace if it names one, else in a new one.
//!
//! The names are those of OpenTelemetry's conventions for HTTP servers. The path stays out of it, as it holds ids. Of a stream and of a
//! websocket it is the beginning.

use std::time::SystemTime;

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, Method, StatusCode},
    middleware::Next,
    response::Response,
};
use opentelemetry::{
    Context, KeyValue,
    trace::{Span as _, SpanKind, Status, TraceContextExt, Tracer},
};
use opentelemetry_sdk::trace::{SdkTracer, Span};

use super::traceparent::{TRACEPARENT, span_context};

/// The methods that OpenTelemetry's convention knows; others have one name together, so that clients can't invent names.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// The span of a request that came `at` that moment. `route` is the template of its path; `None` where nothing is served.
pub fn begin(tracer: &SdkTracer, method: &Method, headers: &HeaderMap, route: Option<&str>, at: SystemTime) -> Span {
    let method = METHODS.into_iter().find(|known| *known == method.as_str());
    let mut attributes = vec![KeyValue::new("http.request.method", method.unwrap_or("_OTHER"))];
    let mut name = method.unwrap_or("HTTP").to_owned();
    if let Some(route) = route {
        attributes.push(KeyValue::new("http.route", route.to_owned()));
        name = format!("{name} {route}");
    }
    let builder = tracer.span_builder(name).with_kind(SpanKind::Server).with_start_time(at);
    builder.with_attributes(attributes).start_with_context(tracer, &parent(headers))
}

/// Ends the span of a request that was answered `at` that moment.
pub fn end(mut span: Span, status: StatusCode, at: SystemTime) {
    span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
    if status.is_server_error() {
        span.set_status(Status::error(""));
    }
    span.end_with_timestamp(at);
}

/// Middleware around all routes of a service. Handlers find the [`opentelemetry::trace::SpanContext`] of the span among the request's
/// extensions, to hand it on. A request whose client goes away has a span without status code.
pub async fn trace_requests(State(tracer): State<Option<SdkTracer>>, mut request: Request, next: Next) -> Response {
    let Some(tracer) = tracer else { return next.run(request).await };
    let route = request.extensions().get::<MatchedPath>();
    let span = begin(&tracer, request.method(), request.headers(), route.map(MatchedPath::as_str), SystemTime::now());
    request.extensions_mut().insert(span.span_context().clone());
    let answer = next.run(request).await;
    end(span, answer.status(), SystemTime::now());
    answer
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
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn one_valid_traceparent_is_the_parent() {
        let valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        for (values, is_parent) in
            [(&[][..], false), (&[valid][..], true), (&["00-x"][..], false), (&[valid, valid][..], false)]
        {
            let header = |value: &&'static str| (HeaderName::from_static(TRACEPARENT), HeaderValue::from_static(value));
            assert_eq!(parent(&values.iter().map(header).collect()).has_active_span(), is_parent, "{values:?}");
        }
    }
}
