//! Connections: accepted, bounded, drained.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{AbortRegistration, Abortable, Aborted};
use http_body_util::Either;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use shared::admin::Condition;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::connections::{Connections, InHand, Open};
use crate::gate;
use crate::open_files;
use crate::refusals::Refusals;
use crate::workers::Workers;

/// Time that the admin port gets to finish its answers, last of all.
pub(crate) const ADMIN_STOP_MAX: Duration = Duration::from_millis(500);

/// The most that hyper reads of a head. Above the largest `READER_HEADER_BYTES_MAX`, so that a head that is too large is
/// refused by the gate; one beyond this by hyper.
const HEAD_BUFFER_BYTES: usize = 256 << 10;

/// Pause after a failed accept (too many open files): what closes meanwhile makes room.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Serves until `shutdown`, then drains: not ready at once, still accepting for the pre-drain with `Connection: close` on
/// every answer, then no longer accepting, the requests in hand finished within the drain's time.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    workers: Arc<Workers>,
    accepting: Condition,
    shutdown: CancellationToken,
) {
    let server = Server {
        places: Connections::new(open_files::room_for(app.config.connections_max, open_files::others(&app.config))),
        connections: GracefulShutdown::new(),
        http: http(),
        listener,
        app,
        workers,
    };
    accepting.set(true, "accepting connections");
    server.accept_until(shutdown.cancelled()).await;
    accepting.set(false, "draining");
    server.app.start_draining();
    server.accept_until(tokio::time::sleep(server.app.config.pre_drain)).await;
    // By now a balancer sends their clients elsewhere.
    server.app.feeds_end.cancel();
    server.drain().await;
}

struct Server {
    listener: TcpListener,
    app: Arc<App>,
    workers: Arc<Workers>,
    places: Arc<Connections>,
    connections: GracefulShutdown,
    http: http1::Builder,
}

fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    // Connections that send no head are closed by `connections`.
    http.header_read_timeout(None).max_buf_size(HEAD_BUFFER_BYTES);
    http
}

impl Server {
    async fn accept_until(&self, end: impl Future<Output = ()>) {
        let accept = async {
            loop {
                match self.listener.accept().await {
                    Ok((stream, _)) => {
                        let (open, leave) = self.places.enter(|| self.app.observe.connection_made_room()).await;
                        self.spawn(stream, open, leave);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "can't accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = end => {}
            () = accept => {}
            () = self.places.close_idle(self.app.config.idle_max) => {}
        }
    }

    fn spawn(&self, stream: TcpStream, open: Open, leave: AbortRegistration) {
        // Answers are written whole; waiting for more to send would only delay them.
        let _ = stream.set_nodelay(true);
        // Off this runtime's poll and onto that of its worker.
        let Ok(stream) = stream.into_std() else {
            return;
        };
        let (app, open) = (self.app.clone(), Arc::new(open));
        let service = {
            let app = app.clone();
            service_fn(move |request| {
                let (app, in_hand) = (app.clone(), InHand::on(open.clone()));
                async move {
                    // On the heap: kept in each connection it would be cold memory at each request.
                    let mut answer = Box::pin(gate::answer(&app, request)).await;
                    if let Either::Right(feed) = answer.body_mut() {
                        feed.hold(in_hand);
                    }
                    Ok::<_, Infallible>(answer)
                }
            })
        };
        let (http, watcher) = (self.http.clone(), self.connections.watcher());
        self.workers.next().spawn(async move {
            let stream = match TcpStream::from_std(stream) {
                Ok(stream) => Refusals::new(stream, app.clone()),
                Err(error) => return tracing::warn!(%error, "can't serve a connection"),
            };
            let connection = watcher.watch(http.serve_connection(TokioIo::new(stream), service));
            app.observe.connection_opened();
            match Abortable::new(connection, leave).await {
                Ok(Ok(())) => {}
                // A client that breaks off, or is too slow, is no error of the reader.
                Ok(Err(error)) => tracing::debug!(%error, "connection ended"),
                Err(Aborted) => tracing::debug!("connection closed: it has waited too long, or for a newcomer"),
            }
            app.observe.connection_closed();
        });
    }

    /// Takes what the system has accepted already, closes the listener, and waits for the connections to end.
    async fn drain(self) {
        while let Some(Ok((stream, _))) = self.listener.accept().now_or_never() {
            let Some((open, leave)) = self.places.try_enter() else {
                break;
            };
            self.spawn(stream, open, leave);
        }
        drop(self.listener);
        let open = self.connections.count();
        if tokio::time::timeout(self.app.config.drain_max, self.connections.shutdown()).await.is_err() {
            tracing::warn!(open, "connections that did not end in time are cut");
        }
    }
}
