//! A database of one run on the view's primary: fresh, so that no run finds the work of another.

use anyhow::{Context, Result};
use devstack::postgres::client;
use tokio_postgres::Client;

/// An empty database, and how to look at it.
pub struct Database {
    /// Its URL, the superuser's.
    pub url: String,
    name: String,
    server: Client,
}

impl Database {
    /// Makes an empty one and has the server write out what earlier runs have left, so that their work is not this run's.
    pub async fn create(server_url: &str, name: &str) -> Result<Self> {
        let server = client(server_url).await?;
        server.batch_execute(&format!("create database {name}")).await.with_context(|| format!("database {name}"))?;
        server.batch_execute("checkpoint").await?;
        Ok(Self { url: sibling(server_url, name)?, name: name.to_owned(), server })
    }

    /// A connection to it.
    pub async fn client(&self) -> Result<Client> {
        client(&self.url).await
    }

    /// Bytes of write-ahead log that the server has ever made.
    pub async fn wal_bytes(&self) -> Result<u64> {
        let row = self.server.query_one("select (pg_current_wal_insert_lsn() - '0/0')::int8", &[]).await?;
        Ok(u64::try_from(row.get::<_, i64>(0))?)
    }

    /// Removes it, whoever is still connected.
    pub async fn drop(self) -> Result<()> {
        self.server.batch_execute(&format!("drop database {} with (force)", self.name)).await?;
        Ok(())
    }
}

/// The URL of another database of the same server.
pub fn sibling(url: &str, name: &str) -> Result<String> {
    let (server, _) = url.rsplit_once('/').context("a database URL ends with /<database>")?;
    Ok(format!("{server}/{name}"))
}
