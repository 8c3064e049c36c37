//! What can happen, drawn from the seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt};

/// A fault of one writer, by its number, or of the writers' ways to the servers.
#[derive(Debug, Clone, Copy)]
pub(super) enum MemberFault {
    /// SIGKILL, and a new one after a while.
    Kill(usize, Duration),
    /// SIGSTOP for so long.
    Freeze(usize, Duration),
    /// SIGTERM, and a new one.
    Stop(usize),
    /// Each chunk between writer and Postgres takes so long, for so long.
    SlowDatabase(usize, Duration, Duration),
    /// Nothing passes between writer and Postgres for so long.
    SilentDatabase(usize, Duration),
    /// The connections of a writer to Postgres end.
    CutDatabase(usize),
    /// A writer finds a server that only reads, as a demoted primary does, for so long.
    ReadOnlyDatabase(usize, Duration),
    /// Each chunk between writers and broker takes so long, for so long.
    SlowKafka(Duration, Duration),
    /// Nothing passes between writers and broker for so long.
    SilentKafka(Duration),
    /// So many quarters of the writers' connections to the broker end.
    CutKafka(u64),
}

/// A fault of a server.
#[derive(Debug, Clone, Copy)]
pub(super) enum ServerFault {
    /// SIGKILL of the broker, which is away for so long.
    KillBroker(Duration),
    /// The broker stops in order, and is away for so long.
    RestartBroker(Duration),
    /// SIGKILL of the primary, which is away for so long.
    KillPrimary(Duration),
    /// The primary's fast shutdown, away for so long.
    RestartPrimary(Duration),
    /// SIGKILL of the replica, away for so long.
    KillReplica(Duration),
    /// The replica hears nothing of the primary for so long; then the primary dies and the replica takes its place.
    FailOver(Duration),
}

pub(super) fn member_fault(rng: &mut StdRng, writers: usize) -> MemberFault {
    use MemberFault::*;
    let writer = rng.random_range(0..writers);
    match rng.random_range(0..16) {
        0..3 => Kill(writer, span(rng, 0, 3000)),
        // Mostly short ones, now and then one far beyond the session of the group.
        3..5 => Freeze(writer, span(rng, 100, 2500)),
        5 => Freeze(writer, span(rng, 5000, 15_000)),
        6 => Stop(writer),
        7 => SlowDatabase(writer, span(rng, 5, 200), span(rng, 500, 4000)),
        8 => SilentDatabase(writer, span(rng, 200, 6000)),
        9 | 10 => CutDatabase(writer),
        11 => ReadOnlyDatabase(writer, span(rng, 300, 3000)),
        12 => SlowKafka(span(rng, 5, 300), span(rng, 500, 4000)),
        13 => SilentKafka(span(rng, 200, 6000)),
        _ => CutKafka(rng.random_range(1..=4)),
    }
}

/// The first is always a failover, so that no run is without one.
pub(super) fn server_fault(rng: &mut StdRng, number: usize) -> ServerFault {
    use ServerFault::*;
    match if number == 0 { 9 } else { rng.random_range(0..10) } {
        0 | 1 => KillBroker(span(rng, 0, 3000)),
        2 => RestartBroker(span(rng, 0, 2000)),
        3 | 4 => KillPrimary(span(rng, 0, 2000)),
        5 => RestartPrimary(span(rng, 0, 2000)),
        6 | 7 => KillReplica(span(rng, 0, 2000)),
        _ => FailOver(span(rng, 100, 2000)),
    }
}

/// Some time between two numbers of milliseconds.
pub(super) fn span(rng: &mut impl Rng, from_ms: u64, to_ms: u64) -> Duration {
    Duration::from_millis(rng.random_range(from_ms..=to_ms))
}
