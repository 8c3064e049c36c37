//! A span per attempt at a job, where traces are sent: in the trace of the upload that its record names, or in a new one. The names are
//! those of OpenTelemetry's conventions for messaging and Kafka.

use messaging::{consumer::HandleError, record::Record};
use opentelemetry::{
    Context, KeyValue,
    trace::{Span as _, SpanKind, Status, TraceContextExt, Tracer},
};
use shared::telemetry::{SdkTracer, TRACEPARENT, span_context, traceparent};

/// Makes the spans of jobs.
pub(crate) struct JobTraces {
    tracer: Option<SdkTracer>,
    group: String,
}

/// The span of a job in hand; without a tracer it is nothing. One that is dropped was given up: its attempt took too long, or panicked.
pub(crate) struct JobSpan(Option<<SdkTracer as Tracer>::Span>);

impl JobTraces {
    pub(crate) fn new(tracer: Option<SdkTracer>, group: &str) -> Self {
        Self { tracer, group: group.to_owned() }
    }

    pub(crate) fn begin(&self, record: &Record) -> JobSpan {
        let Some(tracer) = &self.tracer else { return JobSpan(None) };
        let place = &record.place;
        let attributes = [
            KeyValue::new("messaging.system", "kafka"),
            KeyValue::new("messaging.operation.type", "process"),
            KeyValue::new("messaging.destination.name", place.topic.to_string()),
            KeyValue::new("messaging.destination.partition.id", place.partition.to_string()),
            KeyValue::new("messaging.kafka.offset", place.offset),
            KeyValue::new("messaging.consumer.group.name", self.group.clone()),
        ];
        let upload = record.header(TRACEPARENT).and_then(span_context);
        let parent = upload.map_or_else(Context::new, |upload| Context::new().with_remote_span_context(upload));
        let builder = tracer.span_builder(format!("process {}", place.topic)).with_kind(SpanKind::Consumer);
        JobSpan(Some(builder.with_attributes(attributes).start_with_context(tracer, &parent)))
    }
}

impl JobSpan {
    /// The header of records that come of the job.
    pub(crate) fn traceparent(&self) -> Option<String> {
        self.0.as_ref().map(|span| traceparent(span.span_context()))
    }

    pub(crate) fn end(mut self, done: &Result<(), HandleError>) {
        let Some(span) = self.0.take() else { return };
        finish(span, done.as_ref().err().map(|error| error.class.as_ref()));
    }
}

impl Drop for JobSpan {
    fn drop(&mut self) {
        if let Some(span) = self.0.take() {
            finish(span, Some("given-up"));
        }
    }
}

/// What an error says may hold values of a row, so its class alone goes to the collector.
fn finish(mut span: <SdkTracer as Tracer>::Span, error: Option<&str>) {
    if let Some(class) = error {
        span.set_attribute(KeyValue::new("error.type", class.to_owned()));
        span.set_status(Status::error(""));
    }
    span.end();
}
