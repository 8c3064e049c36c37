//! Traces of batches and of requests, as a collector gets them.

use std::time::Duration;

use acceptance::{Collector, Record, Source, scenario, spans as traced};
use anyhow::{Context, Result, ensure};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tokio::net::TcpListener;

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
        let mut writer = system.writer(&[("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())])?;
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
        let applied: i64 = batches.iter().filter_map(|span| traced::int(span, "siteview.records.applied")).sum();
        let messages: i64 = batches.iter().filter_map(|span| traced::int(span, "messaging.batch.message_count")).sum();
        ensure!(applied > 0 && messages == records.len() as i64, "{applied} applied of {messages} messages");
        for batch in &batches {
            let stages: Vec<&str> =
                spans.iter().filter(|s| s.parent_span_id == batch.span_id).map(|s| s.name.as_str()).collect();
            ensure!(["decode", "fold", "store", "commit"].iter().all(|stage| stages.contains(stage)), "{stages:?}");
        }
        let links: Vec<&Vec<u8>> = batches.iter().flat_map(|span| &span.links).map(|link| &link.trace_id).collect();
        ensure!(links.len() == 1 && traced::hex(links[0]) == TRACE, "one record belongs to a trace: {links:?}");
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
        let mut reader = system.reader(&[("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())])?;
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
        let mut ids: Vec<_> = spans.iter().filter_map(|span| traced::text(span, "siteview.request_id")).collect();
        ids.sort_unstable();
        ensure!(ids == ["invalid", "sampled", "without"], "one span each, and none that is not wanted: {spans:#?}");
        for span in &spans {
            let (id, trace, parent) = (
                traced::text(span, "siteview.request_id"),
                traced::hex(&span.trace_id),
                traced::hex(&span.parent_span_id),
            );
            let is_clients = id == Some("sampled");
            ensure!((trace == TRACE) == is_clients, "{id:?} is in the trace {trace}");
            ensure!(parent == if is_clients { PARENT } else { "" }, "{id:?} has the parent {parent}");
            let (name, route, status) = match id {
                Some("invalid") => ("GET", None, 404),
                _ => ("GET /v1/sites/{site_id}/installed-apps", Some("/v1/sites/{site_id}/installed-apps"), 200),
            };
            ensure!(span.name == name && span.kind() == SpanKind::Server, "{span:#?}");
            ensure!(traced::text(span, "http.request.method") == Some("GET"), "{span:#?}");
            ensure!(traced::text(span, "http.route") == route, "{span:#?}");
            ensure!(traced::int(span, "http.response.status_code") == Some(status), "{span:#?}");
        }
        Ok(())
    })
    .await
}
