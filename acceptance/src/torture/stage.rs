//! The proxies between the parts, and what is said of the run.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use devstack::{Detour, Endpoints, free_port};

use crate::proxy::Proxy;

/// Writers at once.
pub(super) const WRITERS: usize = 3;

/// Every way that a fault can meet, and where the view's servers are at this moment.
#[derive(Debug)]
pub(super) struct Stage {
    /// From each writer to the primary.
    pub(super) databases: Vec<Proxy>,
    /// From the writers to the broker; the broker advertises it.
    pub(super) kafka: Proxy,
    /// From the test and the reader to primary and replica: it only turns.
    pub(super) primary: Proxy,
    pub(super) replica: Proxy,
    /// `host:port` of primary and replica.
    servers: RefCell<(String, String)>,
    started: Instant,
}

/// The ports of a broker behind a proxy, to be chosen before it starts.
pub(super) fn detour() -> Result<Detour> {
    Ok(Detour { port: free_port()?, advertised_port: free_port()? })
}

impl Stage {
    pub(super) async fn new(endpoints: &Endpoints, detour: Detour) -> Result<Self> {
        let (primary, replica) = servers(endpoints)?;
        let mut databases = Vec::new();
        for _ in 0..WRITERS {
            databases.push(Proxy::new(&primary).await?);
        }
        Ok(Self {
            databases,
            kafka: Proxy::on(detour.advertised_port, &format!("127.0.0.1:{}", detour.port)).await?,
            primary: Proxy::new(&primary).await?,
            replica: Proxy::new(&replica).await?,
            servers: RefCell::new((primary, replica)),
            started: Instant::now(),
        })
    }

    /// The same endpoints by way of the proxies that only turn.
    pub(super) fn endpoints(&self, of: &Endpoints) -> Result<Endpoints> {
        let primary = of.view_primary_url.as_deref().context("a primary")?;
        let replica = of.view_replica_urls.first().context("a replica")?;
        Ok(Endpoints {
            view_primary_url: Some(by_way_of(&self.primary, primary)?),
            view_replica_urls: vec![by_way_of(&self.replica, replica)?],
            ..of.clone()
        })
    }

    pub(super) fn primary_address(&self) -> String {
        self.servers.borrow().0.clone()
    }

    pub(super) fn replica_address(&self) -> String {
        self.servers.borrow().1.clone()
    }

    /// There is another primary; the replica's place is empty until [`Self::replica_is_back`].
    pub(super) fn failed_over(&self) -> Result<()> {
        let mut servers = self.servers.borrow_mut();
        let servers = &mut *servers;
        std::mem::swap(&mut servers.0, &mut servers.1);
        self.databases.iter().chain([&self.primary]).try_for_each(|proxy| proxy.turn_to(&servers.0))
    }

    /// The replica's clients leave the server that has become the primary.
    pub(super) fn replica_is_back(&self) -> Result<()> {
        self.replica.turn_to(&self.replica_address())?;
        self.replica.cut(4);
        Ok(())
    }

    /// Tells what happens, in a test's captured output or on the terminal.
    #[expect(clippy::print_stdout, reason = "the progress of a run is what its caller sees")]
    pub(super) fn say(&self, what: impl std::fmt::Debug) {
        println!("{:7.1} s  {what:?}", self.started.elapsed().as_secs_f64());
    }
}

/// For so long.
pub(super) async fn last(duration: Duration) {
    tokio::time::sleep(duration).await;
}

fn servers(endpoints: &Endpoints) -> Result<(String, String)> {
    let primary = endpoints.view_primary_url.as_deref().context("a primary")?;
    let replica = endpoints.view_replica_urls.first().context("a replica")?;
    Ok((address(primary)?.to_owned(), address(replica)?.to_owned()))
}

fn address(url: &str) -> Result<&str> {
    let place = url.rsplit_once('@').and_then(|(_, place)| place.split_once('/'));
    place.map(|(address, _)| address).context("a URL names login and database")
}

/// The URL of a server through a proxy.
pub(super) fn by_way_of(proxy: &Proxy, url: &str) -> Result<String> {
    Ok(url.replacen(address(url)?, &proxy.address(), 1))
}
