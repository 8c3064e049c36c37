//! A trace per batch: one span for its way through the lane, with a child per stage.
//!
//! Times are noted while the batch is at work and spans are made when it is done; an attempt that failed leaves its stages in
//! the trace too. Without a tracer nothing is made.

use std::{
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use opentelemetry::{
    Array, Context, KeyValue, StringValue, Value,
    trace::{Link, Span, SpanKind, TraceContextExt, Tracer},
};

use crate::{
    batch::Batch,
    pipeline::{Prepared, Stored},
};
use shared::{
    envelope::Headers,
    telemetry::{SdkTracer, TRACEPARENT, span_context},
};

/// Records whose traces a batch's span links to at most.
const LINKS_MAX: usize = 32;

/// The stages of a batch, as their spans are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Bytes to events.
    Decode,
    /// Positions locked, the state of the keys read, events folded.
    Fold,
    /// Rows written.
    Store,
    /// Made durable.
    Commit,
}

impl Stage {
    fn as_str(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Fold => "fold",
            Self::Store => "store",
            Self::Commit => "commit",
        }
    }
}

/// When the stages of one batch ended.
#[derive(Debug)]
pub struct Stages {
    started: SystemTime,
    ended: Mutex<Vec<(Stage, SystemTime)>>,
}

impl Stages {
    /// A batch that has just been taken up.
    pub fn begin() -> Self {
        Self { started: SystemTime::now(), ended: Mutex::default() }
    }

    /// A stage has ended; it began where the one before it did.
    pub fn done(&self, stage: Stage) {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).push((stage, SystemTime::now()));
    }
}

/// Makes the traces of batches of one topic.
#[derive(Debug, Clone)]
pub struct BatchTraces {
    tracer: Option<SdkTracer>,
    topic: String,
    group: String,
}

impl BatchTraces {
    /// Without a tracer it does nothing.
    pub fn new(tracer: Option<SdkTracer>, topic: &str, group: &str) -> Self {
        Self { tracer, topic: topic.to_owned(), group: group.to_owned() }
    }

    /// The traces that records of a batch belong to, by their header `traceparent` (W3C Trace Context).
    pub fn links(&self, batch: &Batch) -> Vec<Link> {
        if self.tracer.is_none() {
            return Vec::new();
        }
        let mut links: Vec<Link> = Vec::new();
        for record in &batch.records {
            let context = batch.raw(record).headers.get(TRACEPARENT).and_then(span_context);
            if let Some(context) = context.filter(|context| links.iter().all(|link| link.span_context != *context)) {
                links.push(Link::with_context(context));
            }
            if links.len() == LINKS_MAX {
                break;
            }
        }
        links
    }

    /// Makes the spans of a batch that is done; `stored` is `None` when nothing of it was this writer's any more.
    pub fn batch(&self, stages: &Stages, links: &[Link], prepared: &Prepared, stored: Option<&Stored>) {
        let Some(tracer) = &self.tracer else { return };
        let mut span = tracer
            .span_builder(format!("process {}", self.topic))
            .with_kind(SpanKind::Consumer)
            .with_start_time(stages.started)
            .with_links(links.to_vec())
            .with_attributes(self.attributes(prepared, stored))
            .start_with_context(tracer, &Context::new());
        let parent = Context::new().with_remote_span_context(span.span_context().clone());
        let (mut began, ended) = (stages.started, stages.ended.lock().unwrap_or_else(PoisonError::into_inner));
        for (stage, at) in &*ended {
            let builder = tracer.span_builder(stage.as_str()).with_kind(SpanKind::Internal).with_start_time(began);
            builder.start_with_context(tracer, &parent).end_with_timestamp(*at);
            began = *at;
        }
        span.end_with_timestamp(SystemTime::now());
    }

    /// The field's names where OpenTelemetry has some (semantic conventions for messaging, Kafka).
    fn attributes(&self, prepared: &Prepared, stored: Option<&Stored>) -> Vec<KeyValue> {
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let partitions = prepared.parts().iter().map(|part| StringValue::from(part.tenure.partition.to_string()));
        let mut attributes = vec![
            KeyValue::new("messaging.system", "kafka"),
            KeyValue::new("messaging.destination.name", self.topic.clone()),
            KeyValue::new("messaging.consumer.group.name", self.group.clone()),
            KeyValue::new("messaging.batch.message_count", count(prepared.len_records() as u64)),
            KeyValue::new("siteview.partitions", Value::Array(Array::String(partitions.collect()))),
            KeyValue::new("siteview.stored", stored.is_some()),
        ];
        let Some(stored) = stored else { return attributes };
        let mut outcomes = std::collections::BTreeMap::<&str, u64>::new();
        for ((_, outcome), records) in &stored.judgement.outcomes {
            *outcomes.entry(outcome.as_str()).or_default() += records;
        }
        attributes.extend(
            outcomes.iter().map(|(outcome, n)| KeyValue::new(format!("siteview.records.{outcome}"), count(*n))),
        );
        let moments = [
            ("oldest", stored.judgement.committed_at_ms.iter().min()),
            ("newest", stored.judgement.committed_at_ms.iter().max()),
        ];
        for (which, at) in moments {
            attributes.extend(at.map(|at| KeyValue::new(format!("siteview.source.{which}_ts_ms"), *at)));
        }
        attributes
    }
}
