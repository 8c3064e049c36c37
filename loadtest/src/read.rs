//! `loadtest read`: the reader under an open loop, beside what a bare select costs, and beside a peer.
//!
//! ```text
//! view ── a topic, the writer, a replica            yardstick ── pgbench on the same replica
//! model ─ requests and expected answers             served ───── reader or peer, a process
//! mix ─── which request is next                     measure ──── one stream: generator, CPU and memory of everybody
//! ```
//!
//! Turns of one repetition: yardstick, reader, peer. Ratios are of the turns of one repetition, never of two runs. A stream
//! with a wrong answer, or whose rate was missed, is void and ends the run.

mod answer;
mod connection;
mod generator;
mod measure;
mod mix;
mod model;
mod schedule;
mod served;
mod tally;
mod view;
mod while_draining;
mod yardstick;

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use self::measure::{Figures, Stream};
use self::mix::Wanted;
pub use self::mix::{Mix, Path};
use self::model::Model;
use self::served::{Kind, Served, Setup};
use self::view::View;
use self::yardstick::{Selects, Yardstick};
use crate::config::{ReadOptions, ReadPeer};
use crate::machine::Circumstances;
use crate::report::{Report, say, spread};
use crate::stack::Stack;

/// A run of this command.
struct Bench<'a> {
    stack: &'a Stack,
    options: &'a ReadOptions,
    setup: Setup,
    report: Report,
    /// Fields of every result.
    settings: Value,
}

/// Makes the view, measures turn by turn, tells figures and ratios.
pub async fn run(options: ReadOptions) -> Result<()> {
    ensure!(
        options.mix.is_only(Path::Site) || !(options.while_draining || options.peer.is_some()),
        "--peer and --while-draining take look-ups of a site only, --mix site=100"
    );
    ensure!(
        options.tagged == 0 || options.peer != Some(ReadPeer::Naive),
        "this peer knows no tags: leave out --tagged, or take --peer memory"
    );
    let stack = Stack::take(&options.place).await?;
    let (view, model) = View::make(&stack, &options).await?;
    let mut bench = Bench::new(&stack, &options, &view, &model)?;
    if options.place.quick {
        say("QUICK RUN: it shows that all works; its figures are too short to be quoted");
    }
    match options.while_draining {
        true => while_draining::run(&mut bench, view, model).await,
        false => bench.turns(view, Arc::new(model)).await,
    }
}

/// What one repetition came to.
struct Turn {
    yardstick: Option<Selects>,
    reader: Figures,
    peer: Option<Figures>,
}

impl<'a> Bench<'a> {
    fn new(stack: &'a Stack, options: &'a ReadOptions, view: &View, model: &Model) -> Result<Self> {
        let setup = Setup::new(options)?;
        let settings = json!({
            "benchmark": "read", "label": options.place.label, "quick": options.place.quick, "setup": setup,
            "asked": wanted(options), "sample_every": options.sample_every, "connections": options.connections,
            "rate_asked": options.rate, "seconds": options.seconds, "dataset_rows": options.sites,
            "dataset_bytes": model.documents_bytes(), "topic_bytes": view.topic_bytes, "site_apps": options.site_apps,
        });
        Ok(Self { stack, options, setup, report: Report::open(&options.place, "read")?, settings })
    }

    async fn turns(&mut self, view: View, model: Arc<Model>) -> Result<()> {
        let yardstick = match self.options.yardstick_seconds {
            0 => None,
            _ => Some(Yardstick::prepare(self.stack, self.options.sites).await?),
        };
        let mut turns = Vec::new();
        for _ in 0..self.options.repeat {
            turns.push(self.turn(yardstick.as_ref(), &view, &model).await?);
        }
        self.tell(&turns);
        if let Some(yardstick) = yardstick {
            yardstick.drop().await?;
        }
        view.drop().await
    }

    async fn turn(&mut self, yardstick: Option<&Yardstick>, view: &View, model: &Arc<Model>) -> Result<Turn> {
        let selects = match yardstick {
            None => None,
            Some(yardstick) => Some(yardstick.measure(self.stack, self.options.yardstick_seconds).await?),
        };
        if let Some(selects) = &selects {
            say(&format!("pgbench: {:.1} µs CPU per select, client and server", selects.work_cpu_us_per_select));
        }
        let reader = self.stream(Kind::Reader, view, model, selects.as_ref()).await?;
        let peer = match self.options.peer {
            None => None,
            Some(peer) => Some(self.stream(peer.into(), view, model, selects.as_ref()).await?),
        };
        Ok(Turn { yardstick: selects, reader, peer })
    }

    /// One stream to a server that is started for it.
    async fn stream(
        &mut self,
        kind: Kind,
        view: &View,
        model: &Arc<Model>,
        selects: Option<&Selects>,
    ) -> Result<Figures> {
        let circumstances = Circumstances::now()?;
        let served = Served::start(kind, self.stack, &self.setup, &view.replica_url).await?;
        let figures = Stream::new(self.options, &served, self.stack)?.measure(model.clone(), &[]).await?;
        served.stop();
        say(&figures.line(kind.name()));
        let ratio = selects.map(|selects| figures.work_cpu_us_per_request / selects.work_cpu_us_per_select);
        let more = json!({"contender": kind, "yardstick": selects, "cpu_against_yardstick": ratio});
        self.report.write(&[&self.settings, &more, &json!(circumstances), &figures.json()])?;
        Ok(figures)
    }

    fn tell(&self, turns: &[Turn]) {
        let each = |of: fn(&Turn) -> Option<f64>| turns.iter().filter_map(of).collect::<Vec<f64>>();
        let columns: [(&str, Vec<f64>); 9] = [
            ("CPU µs/request, reader + replica", each(|turn| Some(turn.reader.work_cpu_us_per_request))),
            ("CPU µs/select, pgbench + replica", each(|turn| Some(turn.yardstick.as_ref()?.work_cpu_us_per_select))),
            ("  ratio of the two, must be ≤ 1.0", each(|turn| turn.against_yardstick(&turn.reader))),
            ("reader p50, ms", each(|turn| Some(turn.reader.quantile_ms(0.5)))),
            ("reader p99, ms", each(|turn| Some(turn.reader.quantile_ms(0.99)))),
            ("reader RSS at the end, MB", each(|turn| Some(turn.reader.rss_bytes.last as f64 / 1e6))),
            ("documents/s", each(|turn| Some(turn.reader.documents_per_second))),
            ("CPU µs/request, peer + replica", each(|turn| Some(turn.peer.as_ref()?.work_cpu_us_per_request))),
            ("  peer against reader: more is better", each(Turn::gain)),
        ];
        say(&format!("median of {} (lowest to highest)", turns.len()));
        for (what, values) in columns.iter().filter(|(_, values)| !values.is_empty()) {
            say(&format!("  {what:<38} {}", spread(values)));
        }
    }
}

impl Turn {
    fn against_yardstick(&self, figures: &Figures) -> Option<f64> {
        Some(figures.work_cpu_us_per_request / self.yardstick.as_ref()?.work_cpu_us_per_select)
    }

    fn gain(&self) -> Option<f64> {
        Some(self.peer.as_ref()?.work_cpu_us_per_request / self.reader.work_cpu_us_per_request)
    }
}

fn wanted(options: &ReadOptions) -> Wanted {
    Wanted {
        mix: options.mix,
        keys: options.keys,
        sites: options.sites,
        unknown_percent: options.unknown,
        tagged_percent: options.tagged,
        batch_sites: options.batch,
        seed: options.seed,
    }
}
