//! The same stream twice: on an idle view, and while the writer drains a backlog flat out.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::Bench;
use super::measure::{Figures, Stream};
use super::model::Model;
use super::served::{Kind, Served};
use super::view::View;
use crate::contender::writer::WriterDrain;
use crate::contender::{Drain, Progress};
use crate::cpu;
use crate::machine::Circumstances;
use crate::report::{say, spread};

/// Until the writer must have stored something of the backlog.
const BEGIN_MAX: Duration = Duration::from_secs(120);

/// Measures pairs of streams, each pair with a backlog of its own.
pub(super) async fn run(bench: &mut Bench<'_>, mut view: View, model: Model) -> Result<()> {
    let (mut model, mut ratios) = (Arc::new(model), Vec::new());
    for _ in 0..bench.options.repeat {
        let expecting = Arc::get_mut(&mut model).context("no stream goes on")?;
        let table = view.add_backlog(bench.stack, bench.options.backlog, expecting)?;
        let served = Served::start(Kind::Reader, bench.stack, &bench.setup, &view.replica_url).await?;
        let idle = stream(bench, &served, &model, None).await?;
        let writer = view.start_writer(bench.stack).await?;
        let busy = stream(bench, &served, &model, Some(&writer)).await?;
        served.stop();
        view.drained(bench.stack, writer, &table).await?;
        ratios.push(busy.quantile_ms(0.99) / idle.quantile_ms(0.99));
    }
    say(&format!("p99 while draining against idle, must be ≤ 3: median of {}: {}", ratios.len(), spread(&ratios)));
    view.drop().await
}

/// One of the two streams; the writer must be busy from its first request to its last.
async fn stream(
    bench: &mut Bench<'_>,
    served: &Served,
    model: &Arc<Model>,
    writer: Option<&WriterDrain>,
) -> Result<Figures> {
    let circumstances = Circumstances::now()?;
    let stream = Stream::new(bench.options, served, bench.stack)?;
    let (figures, drained) = match writer {
        None => (stream.measure(model.clone(), &[]).await?, None),
        Some(writer) => {
            let (before, cpu_before) = (begun(writer).await?, primary_cpu(bench)?);
            let pid = writer.pid().context("the writer has ended by itself")?;
            let figures = stream.measure(model.clone(), &[("writer", pid)]).await?;
            let Progress::Running(Some(after)) = writer.progress().await? else {
                bail!("the run is void: the backlog was drained before the stream ended; raise --backlog")
            };
            let primary_seconds = (primary_cpu(bench)? - cpu_before).as_secs_f64();
            (figures, Some(json!({"records": after - before, "primary_cpu_seconds": primary_seconds})))
        }
    };
    let name = if writer.is_some() { "reader, while draining" } else { "reader, idle view" };
    say(&figures.line(name));
    let more = json!({"contender": Kind::Reader, "while_draining": writer.is_some(), "drained_meanwhile": drained});
    bench.report.write(&[&bench.settings, &more, &json!(circumstances), &figures.json()])?;
    Ok(figures)
}

/// How many records are stored once there are some of the backlog.
async fn begun(writer: &WriterDrain) -> Result<u64> {
    let stored = async || match writer.progress().await {
        Ok(Progress::Running(stored)) => Ok(stored),
        Ok(Progress::Done) => Err(anyhow::anyhow!("the backlog is drained already; raise --backlog")),
        Err(error) => Err(error),
    };
    let at_first = stored().await?.context("the writer tells how far it is")?;
    let more = async || stored().await.map(|now| now.filter(|now| *now > at_first)).transpose();
    let begun = devstack::eventually("the writer has begun with the backlog", BEGIN_MAX, more).await??;
    ensure!(begun > 0, "something is stored");
    Ok(begun)
}

fn primary_cpu(bench: &Bench<'_>) -> Result<Duration> {
    let processes = bench.stack.processes();
    cpu::used(*processes.get(crate::window::PRIMARY).context("the devstack has a primary")?)
}
