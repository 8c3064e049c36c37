//! The first pass: every row of both sides once.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    Candidate, Said, SourceRow, Verification,
    compare::{Stream, compare, join},
};
use crate::store::SiteSeen;

/// Sites that may seem to differ; with more the pass ends early: such a view is built anew and not repaired.
const CANDIDATES_MAX: usize = 100_000;
/// How often the progress is drawn.
const DRAWN_EVERY: Duration = Duration::from_millis(200);

/// What the pass came to.
#[derive(Debug, Default)]
pub struct Scanned {
    /// Sites that either side has.
    pub compared: u64,
    /// The sites that seemed to differ.
    pub candidates: Vec<Candidate>,
    /// Whether all rows were compared.
    pub complete: bool,
}

impl Verification<'_> {
    /// Compares both sides as they are at the moment at which each chunk is read.
    pub(super) async fn scan(&mut self) -> anyhow::Result<Scanned> {
        let bar = progress(self.source.rows_estimated);
        self.source.list_keys().await?;
        let (mut said, mut seen) = (Stream::unread(), Stream::unread());
        let mut scanned = Scanned::default();
        while said.read_to().is_some() || seen.read_to().is_some() {
            if seen.is_empty() {
                self.read_view(&mut seen).await?;
            }
            if said.is_empty() {
                self.read_source(&mut said).await?;
            }
            for (row, seen) in join(&mut said, &mut seen) {
                scanned.compared += 1;
                self.look(row, seen, &mut scanned.candidates);
            }
            bar.set_position(scanned.compared);
            if scanned.candidates.len() > CANDIDATES_MAX {
                scanned.candidates.truncate(CANDIDATES_MAX);
                bar.finish_and_clear();
                return Ok(scanned);
            }
        }
        bar.finish_and_clear();
        Ok(Scanned { complete: true, ..scanned })
    }

    fn look(&self, row: Option<SourceRow>, seen: Option<SiteSeen>, candidates: &mut Vec<Candidate>) {
        let said = row.as_ref().map_or(Said::Nothing, |row| self.project(row));
        if let Some(difference) = compare(&said, seen.as_ref()) {
            let site_id = row.map(|row| row.site_id).or(seen.map(|seen| seen.site_id)).unwrap_or_default();
            candidates.push(Candidate::new(site_id, difference, &said));
        }
    }

    async fn read_source(&mut self, stream: &mut Stream<SourceRow>) -> anyhow::Result<()> {
        let mut keys = self.source.next_keys().await?;
        let rows = self.source.rows(&keys).await?;
        stream.push(rows, keys.pop());
        Ok(())
    }

    async fn read_view(&mut self, stream: &mut Stream<SiteSeen>) -> anyhow::Result<()> {
        let after = stream.read_to().unwrap_or_default().to_owned();
        let rows = SiteSeen::next(&mut self.view, &after, self.settings.chunk_rows).await?;
        let read_to = rows.last().map(|row| row.site_id.clone());
        stream.push(rows, read_to);
        Ok(())
    }
}

/// A bar on a terminal, nothing elsewhere; standard output stays the report's.
fn progress(total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total.max(1)), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("comparing {wide_bar} {pos}/{len} {elapsed}");
    bar.set_style(style.expect("the template is a constant"));
    bar.enable_steady_tick(DRAWN_EVERY);
    bar
}
