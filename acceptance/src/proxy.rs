//! A TCP proxy that can be told to fail: slow, silent, cut, or turned to another server.
//!
//! What it holds back while it is silent it passes on afterwards, as a network does that comes back before TCP gives up.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use devstack::free_port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Most bytes that are in one direction of one connection's hand; under latency the throughput is this much per delay.
const CHUNK_BYTES: usize = 256 * 1024;

/// A listening proxy. Its connections end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: Arc<watch::Sender<State>>,
    accepting: JoinHandle<()>,
}

/// What it does to its connections, old and new.
#[derive(Debug, Clone, Copy)]
struct State {
    /// Where new connections go.
    server: SocketAddr,
    /// How long each chunk is held.
    latency: Duration,
    /// Whether nothing passes, in either direction.
    silent: bool,
    /// Raised to end all connections.
    cuts: u64,
    /// The share of connections that a cut ends, of 4.
    quarters_cut: u64,
}

impl Proxy {
    /// Listens on a free port for a server, `host:port`.
    pub async fn new(server: &str) -> Result<Self> {
        Self::on(free_port()?, server).await
    }

    /// Listens on this port of 127.0.0.1.
    pub async fn on(port: u16, server: &str) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let (latency, silent, cuts, quarters_cut) = (Duration::ZERO, false, 0, 4);
        let state = State { server: address(server)?, latency, silent, cuts, quarters_cut };
        let state = Arc::new(watch::Sender::new(state));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self { port, state, accepting })
    }

    /// Listens for the server of a database's URL. Gives the URL that leads through the proxy, too.
    pub async fn before(url: &str) -> Result<(Self, String)> {
        let place = url.rsplit_once('@').and_then(|(_, place)| place.split_once('/'));
        let (server, _) = place.context("a URL names a login and a database")?;
        let proxy = Self::new(server).await?;
        let detour = url.replacen(server, &proxy.address(), 1);
        Ok((proxy, detour))
    }

    /// `host:port` of the proxy itself.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// New connections go to this server; the old ones stay where they are.
    pub fn turn_to(&self, server: &str) -> Result<()> {
        let server = address(server)?;
        self.state.send_modify(|state| state.server = server);
        Ok(())
    }

    /// Holds each chunk for so long; zero ends that.
    pub fn delay(&self, latency: Duration) {
        self.state.send_modify(|state| state.latency = latency);
    }

    /// Passes nothing on, or again everything.
    pub fn silence(&self, silent: bool) {
        self.state.send_modify(|state| state.silent = silent);
    }

    /// Ends so many quarters of the connections at once.
    pub fn cut(&self, quarters: u64) {
        self.state.send_modify(|state| (state.cuts, state.quarters_cut) = (state.cuts + 1, quarters));
    }

    /// Passes everything on at once.
    pub fn heal(&self) {
        self.state.send_modify(|state| (state.latency, state.silent) = (Duration::ZERO, false));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut(4);
    }
}

fn address(server: &str) -> Result<SocketAddr> {
    server.parse().with_context(|| format!("{server} is no address"))
}

async fn accept(listener: TcpListener, state: Arc<watch::Sender<State>>) {
    let mut number: u64 = 0;
    while let Ok((client, _)) = listener.accept().await {
        number += 1;
        tokio::spawn(connection(client, number, state.subscribe()));
    }
}

/// Lives until one side ends, or a cut meets it. A server that is away ends it at once.
async fn connection(client: TcpStream, number: u64, mut state: watch::Receiver<State>) {
    let server = state.borrow().server;
    let Ok(server) = TcpStream::connect(server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let there = pump(from_client, to_server, state.clone());
    let back = pump(from_server, to_client, state.clone());
    let seen = state.borrow_and_update().cuts;
    let is_cut = |state: &State| state.cuts > seen && (number + state.cuts) % 4 < state.quarters_cut;
    tokio::select! {
        () = there => {}
        () = back => {}
        _ = state.wait_for(is_cut) => {}
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut state: watch::Receiver<State>,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(bytes @ 1..) = from.read(&mut chunk).await {
        let latency = state.borrow().latency;
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        if state.wait_for(|state| !state.silent).await.is_err() || to.write_all(&chunk[..bytes]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers every byte with itself and the number of its listener.
    async fn echo(tag: u8) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).await.is_ok() {
                        stream.write_all(&[byte[0], tag]).await.unwrap();
                    }
                });
            }
        });
        address
    }

    async fn ask(stream: &mut TcpStream, byte: u8) -> std::io::Result<u8> {
        let mut answer = [0; 2];
        stream.write_all(&[byte]).await?;
        stream.read_exact(&mut answer).await?;
        assert_eq!(answer[0], byte);
        Ok(answer[1])
    }

    #[tokio::test]
    async fn it_passes_holds_cuts_and_turns() {
        let (first, second) = (echo(1).await, echo(2).await);
        let proxy = Proxy::new(&first).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut stream, 7).await.unwrap(), 1);

        proxy.silence(true);
        stream.write_all(&[8]).await.unwrap();
        let held = tokio::time::timeout(Duration::from_millis(100), stream.read_u8()).await;
        assert!(held.is_err(), "something passed a silent proxy");
        proxy.heal();
        assert_eq!((stream.read_u8().await.unwrap(), stream.read_u8().await.unwrap()), (8, 1), "held, not lost");

        proxy.turn_to(&second).unwrap();
        assert_eq!(ask(&mut stream, 9).await.unwrap(), 1, "an old connection stays");
        proxy.cut(4);
        assert!(ask(&mut stream, 9).await.is_err());
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut stream, 9).await.unwrap(), 2);
    }
}
