//! Traces over OTLP (HTTP with protobuf), when an endpoint is configured.
//!
//! Finished spans wait in a bounded queue (2048, `OTEL_BSP_MAX_QUEUE_SIZE` changes it) for a thread of the exporter's own; when
//! it is full, further ones are dropped, so a collector that is slow or away delays nothing. Without an endpoint there is
//! neither thread nor span.

use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracer, SdkTracerProvider},
};

/// How long one export may take.
const EXPORT_MAX: Duration = Duration::from_secs(5);
/// How long a stop waits for what is still to be sent.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// Runs a service with what makes its spans, or without when there is no `endpoint`; what waits to be sent when the service is over
/// is sent, for two seconds at most. The endpoint is a base URL as OpenTelemetry's specification has it: traces go to
/// `<endpoint>/v1/traces`. A collector need not be there. Errors when the exporter refuses the URL.
pub async fn traced<T>(
    service: &'static str,
    endpoint: Option<String>,
    run: impl AsyncFnOnce(Option<SdkTracer>) -> T,
) -> anyhow::Result<T> {
    let traces = endpoint.map(|endpoint| Traces::start(service, &endpoint)).transpose().map_err(anyhow::Error::msg)?;
    let ended = run(traces.as_ref().map(Traces::tracer)).await;
    if let Some(traces) = traces {
        traces.stop().await;
    }
    Ok(ended)
}

struct Traces(SdkTracerProvider);

impl Traces {
    fn start(service: &'static str, endpoint: &str) -> Result<Self, String> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_timeout(EXPORT_MAX)
            .build()
            .map_err(|error| error.to_string())?;
        let resource = Resource::builder().with_service_name(service).build();
        Ok(Self(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build()))
    }

    fn tracer(&self) -> SdkTracer {
        self.0.tracer("siteview")
    }

    async fn stop(self) {
        let flushed = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(FLUSH_MAX)).await;
        if let Ok(Err(error)) = flushed {
            tracing::debug!(error = %error, "not all traces were sent");
        }
    }
}
