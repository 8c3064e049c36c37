//! What a person sees while something takes long: bars and spinners on a terminal, plain lines elsewhere, nothing in tests.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How a running devstack speaks.
#[derive(Debug, Clone)]
pub struct Progress {
    how: How,
    bars: MultiProgress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Bars,
    Lines,
    Silent,
}

impl Progress {
    /// Bars when standard error is a terminal, else lines.
    pub fn visible() -> Self {
        Self { how: if stderr().is_terminal() { How::Bars } else { How::Lines }, bars: MultiProgress::new() }
    }

    /// Nothing at all, for tests.
    pub fn silent() -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        Self { how: How::Silent, bars }
    }

    /// Shows that something of unknown length goes on.
    pub fn spinner(&self, text: &str) -> Step {
        let style = "{spinner:.cyan} {msg} {elapsed:.dim}";
        self.step(ProgressBar::new_spinner(), style, text)
    }

    /// Shows how much of `total` is done.
    pub fn bar(&self, text: &str, total: u64) -> Step {
        let style = "{spinner:.cyan} {msg} {wide_bar:.cyan/dim} {pos}/{len} {elapsed:.dim}";
        self.step(ProgressBar::new(total), style, text)
    }

    /// Says one line.
    pub fn line(&self, text: &str) {
        match self.how {
            How::Bars => self.bars.suspend(|| warn(text)),
            How::Lines => warn(text),
            How::Silent => {}
        }
    }

    fn step(&self, bar: ProgressBar, style: &str, text: &str) -> Step {
        let bar = self.bars.add(bar);
        bar.set_style(ProgressStyle::with_template(style).expect("the templates are constants"));
        bar.set_message(text.to_owned());
        match self.how {
            How::Bars => bar.enable_steady_tick(Duration::from_millis(100)),
            _ => self.line(text),
        }
        Step { progress: self.clone(), bar, text: text.to_owned(), started: Instant::now(), told_tenths: 0.into() }
    }
}

/// One thing that takes its time; vanishes on drop, so an error leaves no half bar behind.
#[derive(Debug)]
pub struct Step {
    progress: Progress,
    bar: ProgressBar,
    text: String,
    started: Instant,
    /// Tenths that a plain line has already told.
    told_tenths: std::sync::atomic::AtomicU64,
}

impl Step {
    /// Sets how much is done; plain output gets a line per tenth.
    pub fn position(&self, done: u64, note: &str) {
        use std::sync::atomic::Ordering::Relaxed;
        self.bar.set_position(done);
        self.bar.set_message(format!("{} ({note})", self.text));
        let (total, tenths) = (self.bar.length().unwrap_or(0), done * 10 / self.bar.length().unwrap_or(0).max(1));
        if self.progress.how == How::Lines && tenths > self.told_tenths.swap(tenths, Relaxed) {
            self.progress.line(&format!("{}: {done} of {total} ({note})", self.text));
        }
    }

    /// Ends the step with a line that stays, and the time it took.
    pub fn done(self, text: &str) {
        self.bar.finish_and_clear();
        self.progress.line(&format!("{text} ({:.1} s)", self.started.elapsed().as_secs_f64()));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        self.progress.bars.remove(&self.bar);
    }
}

/// Writes a line for people to standard error.
#[expect(clippy::print_stderr, reason = "devstack is a command-line tool; this is where it speaks")]
pub fn warn(text: &str) {
    eprintln!("{text}");
}

/// Writes a line of a command's result to standard output.
pub(crate) fn say(text: &str) {
    // Who reads may stop reading (`head`, say): what runs goes on.
    let _ = writeln!(std::io::stdout(), "{text}");
}
