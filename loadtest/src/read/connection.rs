//! One keep-alive connection with at most one request on it, as nearly all clients use theirs.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result, bail, ensure};

use super::answer::Head;

/// What is read at once at most; a document fits several times.
const READ_BYTES: usize = 64 << 10;

/// A connection; non-blocking.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    /// What of the request is still to be written.
    pub(super) out: Vec<u8>,
    written: usize,
    /// The answer so far: `filled` bytes at its start.
    buffer: Vec<u8>,
    filled: usize,
    head: Option<Head>,
}

impl Connection {
    pub(super) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("no connection to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, out: Vec::new(), written: 0, buffer: vec![0; READ_BYTES], filled: 0, head: None })
    }

    /// Writes what is in `out`, as far as the system takes it; false while there is more.
    pub(super) fn flush(&mut self) -> Result<bool> {
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("a request can't be written"),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(true)
    }

    /// Reads what is there; gives status and body once the answer is whole.
    pub(super) fn answer(&mut self) -> Result<Option<(u16, &[u8])>> {
        let Some(head) = self.fill()? else { return Ok(None) };
        ensure!(self.filled == head.whole_bytes(), "there are bytes behind an answer that nobody has asked for");
        (self.filled, self.head) = (0, None);
        Ok(Some((head.status, &self.buffer[head.head_bytes..head.whole_bytes()])))
    }

    /// Reads until the answer is whole or nothing is there.
    fn fill(&mut self) -> Result<Option<Head>> {
        loop {
            if self.buffer.len() - self.filled < READ_BYTES / 2 {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
            match self.stream.read(&mut self.buffer[self.filled..]) {
                Ok(0) => bail!("the server has closed a connection"),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("an answer can't be read"),
            }
            if self.head.is_none() {
                self.head = Head::read(&self.buffer[..self.filled])?;
            }
            if let Some(head) = self.head.filter(|head| self.filled >= head.whole_bytes()) {
                return Ok(Some(head));
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
