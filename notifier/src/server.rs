//! Connections: accepted, bounded, drained.

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::observe;

/// Time for a request's head: a client that sends it byte by byte holds a connection no longer.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// Bytes of a head; the longest thing in it is a channel's id.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// What the system keeps for a client that does not read; frames are some hundred bytes.
const SEND_BUFFER_BYTES: u32 = 32 << 10;
/// Connections that the system has accepted and this process has not.
const BACKLOG: u32 = 4096;
/// Pause after a failed accept (too many open files): what closes meanwhile makes room.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// A websocket has the same limit, and says why it ends; this comes behind it.
const WRITE_SLACK: Duration = Duration::from_secs(1);
/// Time for clients to take their farewell.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Files that are no client's connection.
const OTHER_FILES: usize = 200;

/// Listens; each connection will have a small buffer.
pub(crate) fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts until `shutdown`, then waits for what is open, at most [`DRAIN_MAX`]; streams end by the same token.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    connections_max: usize,
    send_max: Duration,
    shutdown: CancellationToken,
) {
    let room = room_for(connections_max);
    let places = Arc::new(Semaphore::new(room));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match (accepted, Arc::clone(&places).try_acquire_owned()) {
            (Ok((stream, _)), Ok(place)) => {
                let place = Place(Arc::new(place));
                tokio::spawn(converse(stream, router.clone(), place, send_max, shutdown.clone()));
            }
            // One closes as it comes: what it would be told takes a place too.
            (Ok(_), Err(_)) => observe::refused("connections"),
            (Err(error), _) => {
                tracing::warn!(%error, "can't accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    // When all places are free, the last client has gone.
    let all = u32::try_from(room).unwrap_or(u32::MAX);
    if tokio::time::timeout(DRAIN_MAX, places.acquire_many(all)).await.is_err() {
        tracing::warn!("connections that did not end in time are cut");
    }
}

/// A client's place among the connections; held by the connection, and by a websocket that has come out of it.
#[derive(Clone)]
pub(crate) struct Place(
    #[expect(dead_code, reason = "it is given back when the last holder is gone")] Arc<OwnedSemaphorePermit>,
);

/// Until the client or the server ends it, or it has become a websocket.
async fn converse(stream: TcpStream, router: Router, place: Place, send_max: Duration, shutdown: CancellationToken) {
    // Frames are small, and each is wanted now.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    // Also ends a stream of events that nobody reads: hyper waits for the socket and for nothing else.
    stream.set_write_timeout(Some(send_max + WRITE_SLACK));
    let answer = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(place.clone());
        router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(Box::pin(stream)), answer)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // A client that breaks off, or is too slow, is no error of the notifier.
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// Raises the limit of open files to what the process may have, and gives how many connections it leaves room for.
fn room_for(wanted: usize) -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        Ok(usize::try_from(hard).unwrap_or(usize::MAX))
    });
    let room = limit.map_or(wanted, |limit| wanted.min(limit.saturating_sub(OTHER_FILES).max(1)));
    if room < wanted {
        tracing::warn!(wanted, room, "the limit of open files allows fewer connections than are configured");
    }
    room
}
