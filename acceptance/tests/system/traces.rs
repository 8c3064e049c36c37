//! Traces of batches and of requests, as a collector gets them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use acceptance::{Record, Source, scenario};
use anyhow::{Context, Result, ensure};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::{PARTITIONS, drained_history, servers};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_a_span_per_batch_with_its_stages_also_at_the_end() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let collector = Collector::start().await?;
        let mut records = Source::new(51, PARTITIONS, 50).records(200);
        let traceparent = ("traceparent", format!("00-{TRACE}-{PARENT}-01"));
        records[0].headers.push(traceparent);
        let mut writer = system.writer(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url)])?;
        writer.ready().await?;
        system.topic().produce(&records)?;
        system.drained().await?;
        // Sooner than the exporter's interval: what waits is sent before the process ends.
        let (status, _) = writer.stop().await?;
        ensure!(status.success(), "ended with {status}");
        let spans = collector.spans("writer");
        let batches: Vec<&Span> = spans.iter().filter(|span| span.parent_span_id.is_empty()).collect();
        let name = format!("process {}", system.topic().name());
        ensure!(!batches.is_empty() && batches.iter().all(|span| span.name == name), "{batches:#?}");
        let applied: i64 = batches.iter().filter_map(|span| int(span, "siteview.records.applied")).sum();
        let messages: i64 = batches.iter().filter_map(|span| int(span, "messaging.batch.message_count")).sum();
        ensure!(applied > 0 && messages == records.len() as i64, "{applied} applied of {messages} messages");
        for batch in &batches {
            let stages: Vec<&str> =
                spans.iter().filter(|s| s.parent_span_id == batch.span_id).map(|s| s.name.as_str()).collect();
            ensure!(["decode", "fold", "store", "commit"].iter().all(|stage| stages.contains(stage)), "{stages:?}");
        }
        let links: Vec<&Vec<u8>> = batches.iter().flat_map(|span| &span.links).map(|link| &link.trace_id).collect();
        ensure!(links.len() == 1 && hex(links[0]) == TRACE, "one record belongs to a trace: {links:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_does_not_answer_holds_nothing_up() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        // Accepts connections and says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", silent.local_addr()?);
        let records: Vec<Record> = Source::new(52, PARTITIONS, 100).records(2000);
        system.topic().produce(&records)?;
        let mut writer = system.writer(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &url), ("WRITER_BATCH_RECORDS_MAX", "10")])?;
        system.drained().await?;
        let (status, took) = writer.stop().await?;
        ensure!(status.success() && took < Duration::from_secs(5), "ended with {status} after {took:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_a_span_in_its_clients_trace_or_in_a_new_one() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let (_, model) = drained_history(system, 53, 60).await?;
        system.replica_caught_up().await?;
        let collector = Collector::start().await?;
        let mut reader = system.reader(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url)])?;
        reader.ready().await?;
        let site = format!("/v1/sites/{}/installed-apps", model.sites.keys().next().context("a site")?);
        let (sampled, unsampled) = (format!("00-{TRACE}-{PARENT}-01"), format!("00-{TRACE}-{PARENT}-00"));
        for (id, path, traceparent, status) in [
            ("sampled", &*site, Some(&*sampled), 200),
            ("unsampled", &site, Some(&unsampled), 200),
            ("invalid", "/nowhere", Some("00-1-2-01"), 404),
            ("without", &site, None, 200),
        ] {
            let request = reqwest::Client::new().get(format!("{}{path}", reader.url())).header("x-request-id", id);
            let request = traceparent.into_iter().fold(request, |request, text| request.header("traceparent", text));
            let answer = request.send().await?;
            ensure!(answer.status() == status, "{id}: {}", answer.status());
        }
        let (status, _) = reader.stop().await?;
        ensure!(status.success(), "ended with {status}");
        let spans = collector.spans("reader");
        let mut ids: Vec<_> = spans.iter().filter_map(|span| text(span, "siteview.request_id")).collect();
        ids.sort_unstable();
        ensure!(ids == ["invalid", "sampled", "without"], "one span each, and none that is not wanted: {spans:#?}");
        for span in &spans {
            let (id, trace, parent) =
                (text(span, "siteview.request_id"), hex(&span.trace_id), hex(&span.parent_span_id));
            let is_clients = id == Some("sampled");
            ensure!((trace == TRACE) == is_clients, "{id:?} is in the trace {trace}");
            ensure!(parent == if is_clients { PARENT } else { "" }, "{id:?} has the parent {parent}");
            let (name, route, status) = match id {
                Some("invalid") => ("GET", None, 404),
                _ => ("GET /v1/sites/{site_id}/installed-apps", Some("/v1/sites/{site_id}/installed-apps"), 200),
            };
            ensure!(span.name == name && span.kind() == SpanKind::Server, "{span:#?}");
            ensure!(text(span, "http.request.method") == Some("GET"), "{span:#?}");
            ensure!(text(span, "http.route") == route, "{span:#?}");
            ensure!(int(span, "http.response.status_code") == Some(status), "{span:#?}");
        }
        Ok(())
    })
    .await
}

fn int(span: &Span, key: &str) -> Option<i64> {
    match attribute(span, key)? {
        Value::IntValue(value) => Some(*value),
        _ => None,
    }
}

fn text<'a>(span: &'a Span, key: &str) -> Option<&'a str> {
    match attribute(span, key)? {
        Value::StringValue(value) => Some(value),
        _ => None,
    }
}

fn attribute<'a>(span: &'a Span, key: &str) -> Option<&'a Value> {
    let attribute = span.attributes.iter().find(|attribute| attribute.key == key)?;
    attribute.value.as_ref()?.value.as_ref()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An HTTP server that takes what OTLP exporters send.
struct Collector {
    url: String,
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

impl Collector {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (url, requests) = (format!("http://{}", listener.local_addr()?), Arc::<Mutex<Vec<_>>>::default());
        let received = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&received)));
            }
        });
        Ok(Self { url, requests })
    }

    /// The spans of a service.
    fn spans(&self, service: &str) -> Vec<Span> {
        let requests = self.requests.lock().expect("no test panics with it");
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        let name = format!("{service:?}");
        let of_service = resources.filter(|spans| {
            let attributes = spans.resource.iter().flat_map(|resource| &resource.attributes);
            attributes.into_iter().any(|a| a.key == "service.name" && format!("{:?}", a.value).contains(&name))
        });
        of_service.flat_map(|spans| &spans.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
    }
}

/// Answers POSTs of protobuf to the path of the specification, one after the other, and nothing else.
async fn serve(stream: TcpStream, received: Arc<Mutex<Vec<ExportTraceServiceRequest>>>) -> Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut length, mut head) = (0, String::new());
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let line = line.to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if line.trim().is_empty() {
                break;
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        ensure!(head.starts_with("post /v1/traces http/1.1"), "{head}");
        ensure!(head.contains("content-type: application/x-protobuf"), "{head}");
        let request = ExportTraceServiceRequest::decode(&body[..]).context("a request of OTLP")?;
        received.lock().expect("no test panics with it").push(request);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")
            .await?;
    }
}
