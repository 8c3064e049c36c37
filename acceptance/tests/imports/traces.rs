//! An import is one trace, from its client's span to what its jobs announce; and every service sends the spans of its requests.

use std::collections::BTreeSet;

use acceptance::{Collector, Member, Owner, RawRecord, Sheet, channel, import_scenario, spans};
use anyhow::{Result, bail, ensure};
use devstack::eventually;
use opentelemetry_proto::tonic::trace::v1::Span;
use rand::SeedableRng;
use rand::rngs::StdRng;
use reqwest::Client;
use serde_json::Value;

use crate::{DEADLINE, ONE_AT_A_TIME, servers};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
/// Three jobs: the first has 50 rows, the others 500 at most.
const ROWS: usize = 900;

#[tokio::test(flavor = "multi_thread")]
async fn an_import_is_one_trace_through_jobs_and_importer() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    import_scenario(&servers()?, async |stage| {
        let collector = Collector::start().await?;
        let traced = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())];
        let mut members = [
            stage.notifier("notifier", &traced)?,
            stage.jobs("jobs", &traced)?,
            stage.importer("importer", &traced)?,
            stage.console("console", &traced)?,
        ];
        for member in &mut members {
            member.ready().await?;
        }
        let [notifier, jobs, _, console] = &members;
        let http = Client::new();
        let channel = channel(&notifier.address()).await?;
        let Sheet { text, .. } = Sheet::new(&mut StdRng::seed_from_u64(4), &mut Owner::new("ada"), ROWS);
        let url = format!("http://{}/v1/imports?channel_id={channel}&owner_id=ada", jobs.address());
        let upload = http.post(url).header("content-type", "text/csv").body(text);
        let answer = upload.header("traceparent", format!("00-{TRACE}-{PARENT}-01")).send().await?;
        ensure!(answer.status() == 202, "{answer:?}");
        let location = answer.headers()["location"].to_str()?.to_owned();
        completed(&http, &format!("http://{}{location}", jobs.address())).await?;
        http.get(format!("http://{}/v1/overview", console.address())).send().await?.error_for_status()?;

        for member in &mut members {
            stop(member).await?;
        }
        let named = |service: &str, name: &str| -> Vec<Span> {
            collector.spans(service).into_iter().filter(|span| span.name == name).collect()
        };
        let uploads = named("jobs", "POST /v1/imports");
        let [upload] = &uploads[..] else { bail!("one upload: {:#?}", collector.spans("jobs")) };
        ensure!((spans::hex(&upload.trace_id), spans::hex(&upload.parent_span_id)) == (TRACE.into(), PARENT.into()));
        ensure!(spans::int(upload, "http.response.status_code") == Some(202), "{upload:#?}");
        let worked = named("importer", &format!("process {}", stage.topic("import.jobs").name()));
        let jobs_done = stage.topic("import.jobs").read_committed()?.len();
        let place = |span: &Span| {
            let partition = spans::text(span, "messaging.destination.partition.id").map(str::to_owned);
            (partition, spans::int(span, "messaging.kafka.offset"))
        };
        let places: BTreeSet<_> = worked.iter().map(place).collect();
        ensure!(jobs_done == 3 && places.len() == jobs_done, "{jobs_done} jobs, {worked:#?}");
        for span in &worked {
            ensure!(span.trace_id == upload.trace_id && span.parent_span_id == upload.span_id, "{span:#?}");
        }
        let announced = announced_by(&stage.topic("import.progress.commands").read_committed()?);
        ensure!(announced.len() == jobs_done && announced.is_subset(&of(&worked)), "{announced:?}");
        ensure!(named("notifier", "POST /v1/channels").len() == 1, "{:#?}", collector.spans("notifier"));
        ensure!(named("console", "GET /v1/overview").len() == 1, "{:#?}", collector.spans("console"));
        Ok(())
    })
    .await
}

async fn completed(http: &Client, url: &str) -> Result<()> {
    let is_completed = async || {
        let import: Value = http.get(url).send().await.ok()?.json().await.ok()?;
        (import["state"] == "completed").then_some(())
    };
    eventually("the import is completed", DEADLINE, is_completed).await
}

async fn stop(member: &mut Member) -> Result<()> {
    let name = member.name().to_owned();
    let (status, _) = member.service().stop().await?;
    ensure!(status.success(), "{name} ended with {status}");
    Ok(())
}

/// The spans that commands name as theirs.
fn announced_by(commands: &[RawRecord]) -> BTreeSet<String> {
    let headers = commands.iter().flat_map(|command| &command.headers).filter(|(name, _)| name == "traceparent");
    headers.map(|(_, value)| String::from_utf8_lossy(value.as_deref().unwrap_or_default()).into_owned()).collect()
}

fn of(worked: &[Span]) -> BTreeSet<String> {
    worked.iter().map(|span| format!("00-{TRACE}-{}-01", spans::hex(&span.span_id))).collect()
}
