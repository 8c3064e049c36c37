//! Free ports.
//!
//! They are taken from below the range from which the kernel gives ports to outgoing connections: a client that keeps
//! trying a port of that range while its server is away can be given the very port as its own end, and connect to itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};
use rand::RngExt;

use crate::options::PortName;

/// Lowest port that is chosen: above the well-known ones and their favourites.
const PORT_MIN: u16 = 10_000;
/// The kernel's default where `/proc` can't be read.
const EPHEMERAL_MIN: u16 = 32_768;
const TRIES: usize = 1000;

/// Gives out ports, none twice in one process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ports {
    given: BTreeMap<PortName, u16>,
}

impl Ports {
    /// Ports that the user has chosen come first.
    pub(crate) fn new(given: BTreeMap<PortName, u16>) -> Self {
        Self { given }
    }

    /// The port given for `name`, else a free one.
    pub(crate) fn get(&self, name: PortName) -> Result<u16> {
        self.given.get(&name).map_or_else(free_port, |port| Ok(*port))
    }
}

/// A port of 127.0.0.1 that nobody listens on at this moment and that this process has not got before.
pub fn free_port() -> Result<u16> {
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let range = PORT_MIN..ephemeral_min().max(PORT_MIN + 1000);
    for _ in 0..TRIES {
        let port = rand::rng().random_range(range.clone());
        let fresh = TAKEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port);
        if fresh && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {} and {}: something holds nearly all of them", range.start, range.end)
}

fn ephemeral_min() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    text.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(EPHEMERAL_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_ports_come_first_and_free_ones_differ() {
        let ports = Ports::new([(PortName::Reader, 8080)].into());
        assert_eq!(ports.get(PortName::Reader).unwrap(), 8080);
        let (a, b) = (ports.get(PortName::Kafka).unwrap(), ports.get(PortName::Kafka).unwrap());
        assert!(a != b && a >= PORT_MIN && b >= PORT_MIN);
    }
}
