//! A system watched through its database: connections, positions, sessions, and the two waits of nearly every test.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use devstack::{eventually, postgres};
use tokio_postgres::{Client, Row};

use super::System;
use crate::kafka::Ends;

/// Until a topic must be drained; minutes, because several tests share two cores.
const DRAIN_MAX: Duration = Duration::from_secs(120);
const REPLICA_MAX: Duration = Duration::from_secs(30);

/// A row of `position`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Offset of the next record to apply.
    pub next_offset: i64,
    /// Raised with each claim.
    pub epoch: i64,
    /// Process id of the writer that took the partition last.
    pub owner_pid: u32,
}

/// A session of Postgres.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// Waits for a transaction to begin.
    Idle,
    /// Waits inside a transaction.
    IdleInTransaction,
    /// At work.
    Active,
}

impl System {
    /// A connection to the primary as the superuser.
    pub async fn primary(&self) -> Result<Client> {
        postgres::client(&self.primary_url).await
    }

    /// A connection to the first replica as the superuser.
    pub async fn replica(&self) -> Result<Client> {
        self.replica_number(0).await
    }

    /// A connection to a replica as the superuser, by its place among the devstack's.
    pub async fn replica_number(&self, index: usize) -> Result<Client> {
        postgres::client(self.replica_urls.get(index).context("so many replicas")?).await
    }

    /// The rows of the first generation's `position` on the primary.
    pub async fn positions(&self, primary: &Client) -> Result<BTreeMap<i32, Position>> {
        self.positions_in(1, primary).await
    }

    /// The rows of a generation's `position` on the primary.
    pub async fn positions_in(&self, generation: i32, primary: &Client) -> Result<BTreeMap<i32, Position>> {
        let statement = format!("select partition, next_offset, epoch, owner from view_g{generation}.position");
        let rows = primary.query(&statement, &[]).await?;
        let position = |row: &Row| {
            let owner: String = row.get(3);
            let owner_pid = owner.rsplit(' ').next().and_then(|pid| pid.parse().ok());
            let owner_pid = owner_pid.with_context(|| format!("the owner {owner:?} ends with its process id"))?;
            Ok((row.get(0), Position { next_offset: row.get(1), epoch: row.get(2), owner_pid }))
        };
        rows.iter().map(position).collect()
    }

    /// The sessions of a login in this database.
    pub async fn sessions(&self, primary: &Client, login: &str) -> Result<Vec<Session>> {
        let statement = "select state from pg_stat_activity where usename = $1::text::name and state is not null";
        let rows = primary.query(statement, &[&login]).await?;
        let session = |row: &Row| match row.get::<_, &str>(0) {
            "idle" => Session::Idle,
            "idle in transaction" | "idle in transaction (aborted)" => Session::IdleInTransaction,
            _ => Session::Active,
        };
        Ok(rows.iter().map(session).collect())
    }

    /// Waits until the first generation's positions on the primary are the ends of the topic, and gives them.
    pub async fn drained(&self) -> Result<Ends> {
        self.drained_in(1).await
    }

    /// As [`Self::drained`], of another generation.
    pub async fn drained_in(&self, generation: i32) -> Result<Ends> {
        let ends = self.topic.ends()?;
        let reached = async || {
            let positions = self.positions_in(generation, &self.primary().await.ok()?).await.ok()?;
            let reached: Ends = positions.into_iter().map(|(partition, row)| (partition, row.next_offset)).collect();
            (reached == ends).then_some(())
        };
        let drained = eventually(&format!("the view is at the end of the topic, {ends:?}"), DRAIN_MAX, reached).await;
        drained.with_context(|| format!("{:?}", self.writer_position()))?;
        Ok(ends)
    }

    /// Waits until every replica has what the primary has now.
    pub async fn replica_caught_up(&self) -> Result<()> {
        let written: String = self.primary().await?.query_one("select pg_current_wal_lsn()::text", &[]).await?.get(0);
        for index in 0..self.replica_urls.len() {
            let replica = self.replica_number(index).await?;
            let replayed = async || {
                let statement = "select pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
                replica.query_one(statement, &[&written]).await.ok()?.get::<_, bool>(0).then_some(())
            };
            eventually("the replica has what the primary had", REPLICA_MAX, replayed).await?;
        }
        Ok(())
    }
}
