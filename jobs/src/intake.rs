//! A body as chunks, from the connection to the thread that checks it. The end is said: a connection that breaks off is no end.

use std::{pin::pin, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    time::timeout,
};

use crate::error::Error;

/// Chunks that wait for the thread; a connection's chunk has some 64 KiB at most.
const CHUNKS_MAX: usize = 4;
/// What is still sent after the answer is known is thrown away for so long, so that a client that reads only when it has sent
/// everything gets the answer.
const REST_MAX: Duration = Duration::from_secs(20);

/// What the thread gets.
pub(crate) enum Chunk {
    Bytes(Bytes),
    End,
}

pub(crate) fn pipe() -> (Sender<Chunk>, Receiver<Chunk>) {
    mpsc::channel(CHUNKS_MAX)
}

/// Bounds of one body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) bytes_max: u64,
    pub(crate) idle_max: Duration,
}

/// Passes a body on, or the file in it. Ends early, without an error, when the thread wants no more: it has its reasons.
pub(crate) async fn pour(
    content_type: Option<&str>,
    body: Body,
    to: Sender<Chunk>,
    limits: Limits,
) -> Result<(), Error> {
    let stream = body.into_data_stream();
    match content_type.map(multer::parse_boundary) {
        Some(Ok(boundary)) => {
            let mut parts = multer::Multipart::new(stream.map_err(std::io::Error::other), boundary);
            let next = async |parts: &mut multer::Multipart<'static>| {
                let next = timeout(limits.idle_max, parts.next_field()).await.map_err(|_| Error::Idle)?;
                next.map_err(|error| Error::BrokenBody(error.to_string()))
            };
            let file = loop {
                match next(&mut parts).await? {
                    Some(part) if part.file_name().is_some() || part.name() == Some("file") => break part,
                    Some(_) => {}
                    None => return Err(Error::InvalidParameter("the form has no part `file`".to_owned())),
                }
            };
            pass(file.map_err(|error| error.to_string()), to, limits).await
        }
        _ => pass(stream.map_err(|error| error.to_string()), to, limits).await,
    }
}

async fn pass(
    stream: impl Stream<Item = Result<Bytes, String>>,
    to: Sender<Chunk>,
    limits: Limits,
) -> Result<(), Error> {
    let (mut stream, mut bytes) = (pin!(stream), 0);
    loop {
        let chunk = timeout(limits.idle_max, stream.next()).await.map_err(|_| Error::Idle)?;
        let Some(chunk) = chunk.transpose().map_err(Error::BrokenBody)? else { break };
        bytes += chunk.len() as u64;
        if bytes > limits.bytes_max {
            drop(to);
            drain(stream).await;
            return Err(Error::TooLarge(limits.bytes_max));
        }
        if to.send(Chunk::Bytes(chunk)).await.is_err() {
            drain(stream).await;
            return Ok(());
        }
    }
    // Without a receiver there is an error on its side already.
    let _ = to.send(Chunk::End).await;
    Ok(())
}

/// Reads a body that nobody wants, for a while.
pub(crate) async fn throw_away(body: Body) {
    drain(body.into_data_stream().map_err(|error| error.to_string())).await;
}

async fn drain(mut stream: impl Stream<Item = Result<Bytes, String>> + Unpin) {
    let rest = async { while let Some(Ok(_)) = stream.next().await {} };
    let _ = timeout(REST_MAX, rest).await;
}
