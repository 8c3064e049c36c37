//! Connections: accepted, bounded, drained. axum's own server sets no time for a request's head, so whoever sends one byte by byte
//! would keep a connection for ever.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

/// A request's head has to be there so soon after the connection is open, or after the answer to the request before it; an idle
/// connection ends by it too.
const HEAD_READ_MAX: Duration = Duration::from_secs(30);
/// Connections at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 512;
/// Pause after a failed accept (too many open files): what closes meanwhile makes room.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// What a connection may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    head_read_max: Duration,
    connections_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head_read_max: HEAD_READ_MAX, connections_max: CONNECTIONS_MAX }
    }
}

/// Serves until `shutdown`, then finishes the answers under way.
pub(crate) async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: CancellationToken) {
    let (places, connections) = (Arc::new(Semaphore::new(limits.connections_max)), GracefulShutdown::new());
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head_read_max);
    while let Some(accepted) = shutdown.run_until_cancelled(accept(&listener, &places)).await {
        let (stream, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = connections.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // A client that breaks off, or is too slow, is no error of the console.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    connections.shutdown().await;
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(tokio::net::TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.expect("it is never closed");
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        time::timeout,
    };

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn whoever_does_not_send_a_head_makes_room_for_others() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(async || "here"));
        let limits = Limits { head_read_max: Duration::from_millis(100), connections_max: 1 };
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(listener, router, limits, stop.clone()));
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n").await.unwrap();
        let mut other = TcpStream::connect(address).await.unwrap();
        other.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let (mut refused, mut answered) = (Vec::new(), String::new());
        timeout(DEADLINE, slow.read_to_end(&mut refused)).await.expect("it is closed").unwrap();
        timeout(DEADLINE, other.read_to_string(&mut answered)).await.expect("there is room").unwrap();
        assert!(!refused.starts_with(b"HTTP/1.1 200") && answered.ends_with("here"), "{answered}");
        stop.cancel();
        timeout(DEADLINE, served).await.expect("it ends").unwrap();
    }
}
