//! A collector of traces, as OTLP exporters see one, and what its spans say.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// An HTTP server that takes what OTLP exporters send.
#[derive(Debug)]
pub struct Collector {
    url: String,
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

impl Collector {
    /// Listens until the test's runtime ends.
    pub async fn start() -> Result<Self> {
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

    /// The base URL for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The spans of a service so far.
    pub fn spans(&self, service: &str) -> Vec<Span> {
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

/// Of a span, by the names of its attributes; ids as traces are searched for.
pub mod spans {
    use super::{Span, Value};

    /// A number.
    pub fn int(span: &Span, key: &str) -> Option<i64> {
        match attribute(span, key)? {
            Value::IntValue(value) => Some(*value),
            _ => None,
        }
    }

    /// A text.
    pub fn text<'a>(span: &'a Span, key: &str) -> Option<&'a str> {
        match attribute(span, key)? {
            Value::StringValue(value) => Some(value),
            _ => None,
        }
    }

    fn attribute<'a>(span: &'a Span, key: &str) -> Option<&'a Value> {
        let attribute = span.attributes.iter().find(|attribute| attribute.key == key)?;
        attribute.value.as_ref()?.value.as_ref()
    }

    /// An id.
    pub fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
