//! Requests that hyper refuses by itself, because it can't read them: its answers have no body, ours are problems.
//!
//! hyper offers no place to say how such an answer looks, so it is exchanged on its way to the socket. It is known by its
//! status and by what only it lacks: every answer of the gate has an `x-request-id`.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::HeaderMap;
use shared::problem::Kind;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::app::App;
use crate::error::Error;
use crate::request::{X_REQUEST_ID, request_id};
use crate::router::Route;
use crate::unread::Unread;

/// A client's connection on which hyper's own refusals become problems.
pub(crate) struct Refusals {
    stream: Unread<TcpStream>,
    app: Arc<App>,
    /// What is still to be written of the answer that stands in for hyper's.
    owed: Bytes,
}

impl Refusals {
    pub(crate) fn new(stream: TcpStream, app: Arc<App>) -> Self {
        Self { stream: Unread::new(stream, app.config.unread_max), app, owed: Bytes::new() }
    }

    /// Takes over an answer of hyper's own; `false` leaves it to be written.
    fn takes_over(&mut self, written: &[u8]) -> bool {
        let Some(error) = refusal(written, self.app.config.header_bytes_max) else {
            return false;
        };
        let id = request_id(&HeaderMap::new());
        let id = id.to_str().unwrap_or_default();
        let kind = error.kind();
        tracing::debug!(request_id = id, %error, "request refused");
        self.app.observe.request(Route::Unknown, kind.status(), Duration::ZERO);
        self.owed = answer(kind, &error.problem(id).to_json(), id);
        true
    }

    fn poll_owed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.owed.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.owed))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.owed.advance(count),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// What hyper refuses, if these bytes are a refusal of its own.
fn refusal(written: &[u8], header_bytes_max: usize) -> Option<Error> {
    let status = written.strip_prefix(b"HTTP/1.1 ").or_else(|| written.strip_prefix(b"HTTP/1.0 "))?.get(..3)?;
    let error = match status {
        b"400" => Error::NotHttp,
        // 414 is no status of the API: the line is part of the head.
        b"414" | b"431" => Error::HeadersTooLarge(header_bytes_max),
        _ => return None,
    };
    let own = written.windows(X_REQUEST_ID.as_str().len()).all(|window| window != X_REQUEST_ID.as_str().as_bytes());
    own.then_some(error)
}

fn answer(kind: Kind, body: &str, request_id: &str) -> Bytes {
    let status = kind.status();
    let text = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/problem+json\r\ncache-control: no-cache\r\n\
         {X_REQUEST_ID}: {request_id}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        status.as_str(),
        status.canonical_reason().unwrap_or_default(),
        body.len(),
    );
    text.into()
}

impl AsyncRead for Refusals {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Refusals {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.takes_over(buf) {
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    /// A refusal of hyper's is a head alone, in one slice.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = bufs
            && self.takes_over(only)
        {
            return Poll::Ready(Ok(only.len()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_owed(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_owed(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_of_hypers_own_are_taken_over() {
        let kind = |text: &str| refusal(text.as_bytes(), 1).map(|error| error.kind());
        let own = "content-length: 0\r\n\r\n";
        assert_eq!(kind(&format!("HTTP/1.1 400 Bad Request\r\n{own}")), Some(Kind::InvalidParameter));
        assert_eq!(kind(&format!("HTTP/1.1 431 X\r\n{own}")), Some(Kind::HeadersTooLarge));
        assert_eq!(kind(&format!("HTTP/1.0 414 X\r\n{own}")), Some(Kind::HeadersTooLarge));
        assert_eq!(kind("HTTP/1.1 400 Bad Request\r\nx-request-id: 1\r\n\r\n"), None);
        for other in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n", "{}", "", "HTTP/1.1 4"] {
            assert_eq!(kind(other), None, "{other:?}");
        }
    }
}
