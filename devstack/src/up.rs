//! `devstack up`: starts parts, stays until it is told to end, stops them.

use std::future::pending;
use std::io::Read;
use std::time::Duration;

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

use crate::options::Options;
use crate::progress::say;
use crate::stack::Devstack;

/// How often the parts are looked at while they run.
const WATCH: Duration = Duration::from_millis(200);

/// Runs until SIGINT, SIGTERM, the end of standard input (when `until_stdin_closes`) or the death of a part, which is the
/// only one of them that is an error.
pub async fn run(options: Options, until_stdin_closes: bool) -> Result<()> {
    let end = end(until_stdin_closes)?;
    tokio::pin!(end);
    let progress = options.progress.clone();
    let stack = tokio::select! {
        started = Devstack::start(options) => started?,
        () = &mut end => return Ok(()),
    };
    say(stack.endpoints().to_json().trim_end());
    progress.line(&format!("all parts are ready; logs in {}; Ctrl-C stops them", stack.logs().display()));
    let outcome = tokio::select! {
        outcome = watch(&stack) => outcome,
        () = &mut end => Ok(()),
    };
    progress.line("stopping");
    drop(stack);
    outcome
}

/// Returns only when a part ends by itself.
pub(crate) async fn watch(stack: &Devstack) -> Result<()> {
    let mut ticks = tokio::time::interval(WATCH);
    loop {
        ticks.tick().await;
        if let Some(failure) = stack.failure() {
            return Err(failure.into());
        }
    }
}

/// Completes when somebody wants the end. Listens from the call on, not from the first poll.
pub(crate) fn end(until_stdin_closes: bool) -> Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let closed = until_stdin_closes.then(stdin_closed);
    Ok(async move {
        let closed = async {
            match closed {
                Some(closed) => closed.await.unwrap_or_default(),
                None => pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = closed => {}
        }
    })
}

/// A thread of its own reads, because a blocked read could not be given up and would hold up the end of the runtime.
fn stdin_closed() -> tokio::sync::oneshot::Receiver<()> {
    let (tell, closed) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        let _ = tell.send(());
    });
    closed
}
