//! The open loop: one thread, one epoll, many keep-alive connections.
//!
//! Requests go out when they are due, or at once when that is past; nothing that a server does moves a due moment, and a
//! latency runs from there. When all connections are waiting for answers, requests wait for the first one that is free: that
//! wait is part of their latency too, and requests that it holds up are never left out. So an answer that takes a second
//! makes a second's worth of requests late, as it does for real clients (no coordinated omission).
//!
//! A request costs three system calls at most and no wake-up of another thread: the generator shares its cores with what it
//! measures.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use super::connection::Connection;
use super::mix::{Ask, Asks};
use super::model::Model;
use super::schedule::Schedule;
use super::tally::Tally;

/// Answers that are taken from one wait.
const EVENTS_MAX: usize = 256;
/// How long none of the answers that are waited for may come; the reader's own deadline is well below.
const STRAGGLERS_MAX: Duration = Duration::from_secs(20);

/// One stream of requests to one server.
pub(super) struct Generator<'a> {
    model: &'a Model,
    asks: Asks,
    schedule: Schedule,
    /// Of so many answers one is compared byte for byte.
    sample_every: u64,
    epoll: OwnedFd,
    lines: Vec<Line>,
    /// Lines without a request, the one that is free longest first.
    free: std::collections::VecDeque<usize>,
    /// The next request to be sent.
    next: u64,
    tally: Tally,
}

/// A connection, and what was asked on it.
struct Line {
    connection: Connection,
    asked: Option<(u64, Ask)>,
    /// The system did not take all of the request at once.
    is_writing: bool,
}

/// Opens so many connections: before the schedule begins, as clients have theirs.
pub(super) fn connect(address: SocketAddr, count: usize) -> Result<Vec<Connection>> {
    (0..count).map(|_| Connection::open(address)).collect()
}

impl<'a> Generator<'a> {
    pub(super) fn new(
        model: &'a Model,
        asks: Asks,
        schedule: Schedule,
        connections: Vec<Connection>,
        sample_every: u64,
    ) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut lines = Vec::with_capacity(connections.len());
        for (index, connection) in connections.into_iter().enumerate() {
            epoll::add(&epoll, &connection, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
            lines.push(Line { connection, asked: None, is_writing: false });
        }
        let free = (0..lines.len()).collect();
        Ok(Self { model, asks, schedule, sample_every, epoll, lines, free, next: 0, tally: Tally::new()? })
    }

    /// Sends everything and returns when all is answered. Errors when a connection breaks or an answer never comes.
    pub(super) fn run(mut self) -> Result<Tally> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            self.send_what_is_due()?;
            if self.next == self.schedule.total() && self.free.len() == self.lines.len() {
                return Ok(self.tally);
            }
            self.wait(&mut events)?;
            for event in events.drain(..) {
                self.serve(event.data.u64() as usize)?;
            }
        }
    }

    fn send_what_is_due(&mut self) -> Result<()> {
        let mut now = Instant::now();
        while self.next < self.schedule.total() && !self.free.is_empty() {
            let due = self.schedule.due(self.next);
            if due > now {
                now = Instant::now();
                if due > now {
                    break;
                }
            }
            let index = self.free.pop_front().expect("there was one a moment ago");
            self.send(index, now)?;
        }
        Ok(())
    }

    fn send(&mut self, index: usize, now: Instant) -> Result<()> {
        let ask = self.asks.draw();
        self.model.write(&ask, &mut self.lines[index].connection.out);
        self.lines[index].asked = Some((self.next, ask));
        if self.schedule.is_counted(self.next) {
            self.tally.sent(now, now.saturating_duration_since(self.schedule.due(self.next)));
        }
        self.next += 1;
        self.flush(index)
    }

    /// Writes on, and asks to be told when there is room where the system did not take all.
    fn flush(&mut self, index: usize) -> Result<()> {
        let line = &mut self.lines[index];
        let is_writing = !line.connection.flush()?;
        if is_writing != line.is_writing {
            line.is_writing = is_writing;
            let also = if is_writing { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
            let data = epoll::EventData::new_u64(index as u64);
            epoll::modify(&self.epoll, &line.connection, data, epoll::EventFlags::IN | also)?;
        }
        Ok(())
    }

    /// Waits for answers, until the next request is due if there is a connection for it.
    fn wait(&self, events: &mut Vec<epoll::Event>) -> Result<()> {
        let (now, total) = (Instant::now(), self.schedule.total());
        let until = match self.next < total && !self.free.is_empty() {
            true => self.schedule.due(self.next),
            false => now + STRAGGLERS_MAX,
        };
        let timeout = Timespec::try_from(until.saturating_duration_since(now)).context("a wait is of seconds")?;
        let found = match epoll::wait(&self.epoll, spare_capacity(events), Some(&timeout)) {
            Err(Errno::INTR) => return Ok(()),
            found => found?,
        };
        let is_due = self.next < total && !self.free.is_empty();
        ensure!(found > 0 || is_due, "{} requests got no answer within {STRAGGLERS_MAX:?}", self.asked());
        Ok(())
    }

    fn serve(&mut self, index: usize) -> Result<()> {
        if self.lines[index].is_writing {
            self.flush(index)?;
        }
        let line = &mut self.lines[index];
        let (status, body) = match line.connection.answer() {
            Ok(Some(answer)) => answer,
            Ok(None) => return Ok(()),
            Err(error) => return Err(error.context(format!("while {:?} was asked", line.asked))),
        };
        let now = Instant::now();
        let Some((request, ask)) = line.asked.take() else {
            bail!("an answer that nobody has asked for");
        };
        let verdict = self.model.judge(&ask, status, body, request.is_multiple_of(self.sample_every));
        let latency = now.saturating_duration_since(self.schedule.due(request));
        self.tally.answered(ask.path(), latency, verdict, self.schedule.is_counted(request));
        self.free.push_back(index);
        Ok(())
    }

    fn asked(&self) -> usize {
        self.lines.len() - self.free.len()
    }
}

#[cfg(test)]
#[path = "generator/tests.rs"]
mod tests;
