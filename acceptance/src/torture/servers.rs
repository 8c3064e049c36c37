//! The servers and what happens to them, one fault after another, each healed before the next.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use devstack::{Devstack, Server, eventually};
use rand::rngs::StdRng;

use super::clients::{Asking, lock};
use super::faults::{ServerFault, server_fault, span};
use super::stage::{Stage, last};
use crate::kafka::Ends;
use crate::service::Service;
use crate::system::System;

/// Until what a fault has undone must be done again; writers suffer faults of their own meanwhile.
const HEALED_MAX: Duration = Duration::from_secs(120);
/// Leaves the replica without a primary to hear; it keeps what it has.
const DEAFEN: &str = "alter system set primary_conninfo = 'host=127.0.0.1 port=1'";

pub(super) struct Servers<'s> {
    pub(super) stack: &'s mut Devstack,
    pub(super) system: &'s System,
    pub(super) stage: &'s Stage,
    pub(super) asking: &'s Asking,
    pub(super) reader: &'s Service,
    pub(super) rng: StdRng,
    /// Faults so far.
    pub(super) faults: usize,
}

impl Servers<'_> {
    /// One fault after another until `until`; all are over when it returns.
    pub(super) async fn disturb(&mut self, until: Instant) -> Result<()> {
        while Instant::now() < until {
            let fault = server_fault(&mut self.rng, self.faults);
            self.stage.say(fault);
            self.suffer(fault).await.with_context(|| format!("{fault:?}"))?;
            self.faults += 1;
            let pause = span(&mut self.rng, 500, 3000);
            last(pause).await;
        }
        Ok(())
    }

    async fn suffer(&mut self, fault: ServerFault) -> Result<()> {
        match fault {
            ServerFault::KillBroker(away) => without(self.broker()?, Server::kill, away).await,
            ServerFault::RestartBroker(away) => without(self.broker()?, Server::stop, away).await,
            ServerFault::KillPrimary(away) => self.of_the_view(false, Server::kill, away).await,
            ServerFault::RestartPrimary(away) => self.of_the_view(false, Server::stop, away).await,
            ServerFault::KillReplica(away) => self.of_the_view(true, Server::kill, away).await,
            ServerFault::FailOver(deaf) => {
                self.asking.disturbances.begin(true);
                self.fail_over(deaf).await?;
                self.asking.disturbances.end();
                Ok(())
            }
        }
    }

    fn broker(&self) -> Result<&Server> {
        self.stack.kafka().context("a broker")
    }

    async fn of_the_view(&self, replica: bool, end: fn(&Server), away: Duration) -> Result<()> {
        let server = if replica { self.stack.view_replica() } else { self.stack.view_primary() };
        self.asking.disturbances.begin(replica);
        without(server.context("a server of the view")?, end, away).await?;
        self.healed().await?;
        self.asking.disturbances.end();
        Ok(())
    }

    /// The replica hears nothing for a while, then it is the primary: the transactions of that while are lost, and clients
    /// demand the positions that are lost.
    async fn fail_over(&mut self, deaf: Duration) -> Result<()> {
        self.system.replica().await?.batch_execute(DEAFEN).await?;
        self.system.replica().await?.batch_execute("select pg_reload_conf()").await?;
        last(deaf).await;
        let lost = self.positions().await?;
        lock(&self.asking.demanded).extend(lost.clone());
        self.stack.fail_over().await?;
        self.stage.failed_over()?;
        let kept = self.positions().await?;
        let records: i64 = lost.iter().map(|(partition, offset)| offset - kept.get(partition).unwrap_or(&0)).sum();
        self.stage.say(format_args!("failed over; the new primary lacks {records} records"));
        self.stack.attach_replica().await?;
        self.stage.replica_is_back()?;
        self.healed().await?;
        let reached = async || {
            let now = self.positions().await.ok()?;
            lost.iter().all(|(partition, offset)| now[partition] >= *offset).then_some(())
        };
        eventually("what the failover lost is projected again", HEALED_MAX, reached).await?;
        self.system.replica_caught_up().await
    }

    async fn positions(&self) -> Result<Ends> {
        let rows: BTreeMap<_, _> = self.system.positions(&self.system.primary().await?).await?;
        Ok(rows.into_iter().map(|(partition, row)| (partition, row.next_offset)).collect())
    }

    /// The reader asks both servers, and the replica has what the primary has.
    async fn healed(&self) -> Result<()> {
        for proxy in [&self.stage.primary, &self.stage.replica] {
            let (name, address) = ("reader_replica_healthy", proxy.address());
            let healthy = async || {
                let value = self.reader.metric(name, &[("replica", &address)]).await.ok()??;
                (value == 1.0).then_some(())
            };
            eventually("the reader has both servers again", HEALED_MAX, healthy).await?;
        }
        self.system.replica_caught_up().await
    }
}

/// Ends a server, and starts it again after a while.
async fn without(server: &Server, end: fn(&Server), away: Duration) -> Result<()> {
    end(server);
    last(away).await;
    server.start().await
}
