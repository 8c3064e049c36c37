//! A body as chunks, from the connection to the thread that checks it. The end is said: a connection that breaks off is no end.

use std::{
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
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

/// Bytes of a form before its file begins. The form's parser keeps the head of a part whole, however long it is.
const FORM_HEAD_BYTES_MAX: usize = 64 << 10;

const PIECE_BYTES: usize = 8 << 10;

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

/// Passes a body on, or the file in it where there is a form's boundary. Ends early, without an error, when the thread wants no more: it has its reasons.
pub(crate) async fn pour(boundary: Option<String>, body: Body, to: Sender<Chunk>, limits: Limits) -> Result<(), Error> {
    let stream = body.into_data_stream();
    match boundary {
        Some(boundary) => {
            let is_begun = Arc::new(AtomicBool::new(false));
            let mut parts = multer::Multipart::new(bounded(stream, Arc::clone(&is_begun)), boundary);
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
            is_begun.store(true, Ordering::Relaxed);
            pass(file.map_err(|error| error.to_string()), to, limits).await
        }
        None => pass(stream.map_err(|error| error.to_string()), to, limits).await,
    }
}

/// A form's bytes until its file has begun, and all of them from then on. A piece at a time: the parser takes all that there is, and one
/// more, before it looks at any of it. The first piece is there at once: the parser asks twice for its first bytes, and takes an
/// end that comes the second time for one too early.
fn bounded(
    stream: impl Stream<Item = Result<Bytes, axum::Error>>,
    is_begun: Arc<AtomicBool>,
) -> impl Stream<Item = io::Result<Bytes>> {
    let mut before = 0;
    let one = stream.flat_map(|chunk| stream::iter(pieces(chunk))).enumerate().then(async |(number, piece)| {
        if number > 0 {
            tokio::task::yield_now().await;
        }
        piece
    });
    one.map(move |piece| {
        if before > FORM_HEAD_BYTES_MAX && !is_begun.load(Ordering::Relaxed) {
            return Err(io::Error::other("the file does not begin within the form's first bytes"));
        }
        before += piece.as_ref().map_or(0, Bytes::len);
        piece
    })
}

fn pieces(chunk: Result<Bytes, axum::Error>) -> Vec<io::Result<Bytes>> {
    match chunk {
        Ok(bytes) => bytes.chunks(PIECE_BYTES).map(|piece| Ok(bytes.slice_ref(piece))).collect(),
        Err(error) => vec![Err(io::Error::other(error))],
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What arrives of a form whose file comes after so many bytes, given in chunks.
    async fn poured(before: usize, chunk: usize) -> Result<Vec<u8>, Error> {
        let file = "content-disposition: form-data; name=\"file\"; filename=\"a.csv\"\r\n\r\n";
        let text = format!("--b\r\nx-note: {}\r\n{file}{}\r\n--b--\r\n", "x".repeat(before), "email\n".repeat(100_000));
        let chunks: Vec<_> =
            text.as_bytes().chunks(chunk).map(|bytes| io::Result::Ok(Bytes::copy_from_slice(bytes))).collect();
        let (to, mut from) = pipe();
        let limits = Limits { bytes_max: 1 << 20, idle_max: Duration::from_secs(60) };
        let pouring = pour(Some("b".to_owned()), Body::from_stream(stream::iter(chunks)), to, limits);
        let mut all = Vec::new();
        let taking = async {
            while let Some(Chunk::Bytes(bytes)) = from.recv().await {
                all.extend_from_slice(&bytes);
            }
        };
        tokio::join!(pouring, taking).0.map(|()| all)
    }

    #[tokio::test]
    async fn a_form_may_come_whole_in_one_chunk() {
        let form = "--b\r\ncontent-disposition: form-data; name=\"file\"\r\n\r\nemail\n\r\n--b--\r\n";
        let (to, mut from) = pipe();
        let limits = Limits { bytes_max: 100, idle_max: Duration::from_secs(60) };
        let body = Body::from_stream(stream::iter([io::Result::Ok(Bytes::from_static(form.as_bytes()))]));
        pour(Some("b".to_owned()), body, to, limits).await.unwrap();
        assert!(matches!(from.recv().await, Some(Chunk::Bytes(bytes)) if bytes == "email\n"));
        assert!(matches!(from.recv().await, Some(Chunk::End)));
    }

    #[tokio::test]
    async fn a_form_may_be_as_long_as_it_likes_only_behind_the_begin_of_its_file() {
        for chunk in [1000, 60_000, 200_000] {
            let file = poured(10_000, chunk).await.unwrap();
            assert!(file == "email\n".repeat(100_000).as_bytes(), "{chunk}");
            assert!(matches!(poured(1 << 20, chunk).await, Err(Error::BrokenBody(_))), "{chunk}");
        }
    }
}
