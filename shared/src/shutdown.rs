//! Signals: the first asks for a drain, the second ends the process.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code of a process that was not allowed to finish its drain.
const EXIT_CODE_UNFINISHED: i32 = 1;

/// Listens for SIGTERM and SIGINT from now on and gives the token that the first of them cancels.
///
/// The second ends the process at once, whatever it is doing; nothing is flushed. Inside a tokio runtime.
pub fn on_signals() -> CancellationToken {
    let token = CancellationToken::new();
    let listen = |kind| signal(kind).expect("SIGTERM and SIGINT may be handled");
    let (terminate, interrupt) = (listen(SignalKind::terminate()), listen(SignalKind::interrupt()));
    tokio::spawn(follow(terminate, interrupt, token.clone()));
    token
}

async fn follow(mut terminate: Signal, mut interrupt: Signal, token: CancellationToken) {
    let mut next = async || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    let first = next().await;
    tracing::info!(signal = first, "draining; a second signal ends the process at once");
    token.cancel();
    let second = next().await;
    tracing::warn!(signal = second, "second signal: ending without finishing the drain");
    std::process::exit(EXIT_CODE_UNFINISHED);
}
