//! `endpoints.json`: where everything listens. Its names are a contract with whoever drives a devstack from outside.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Addresses of what runs; what does not run is absent. The database URLs are a superuser's, password included.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoints {
    /// `host:port` of the broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<String>,
    /// Kafka Connect's REST interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<String>,
    /// The database with the MetaSite table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_database_url: Option<String>,
    /// The view's database on the primary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub view_primary_url: Option<String>,
    /// The same database on each replica.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub view_replica_urls: Vec<String>,
    /// The query API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reader_url: Option<String>,
    /// The reader's admin port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reader_admin_url: Option<String>,
    /// The writer's admin port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writer_admin_url: Option<String>,
    /// The admin port of `writer relay`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_admin_url: Option<String>,
    /// The import's page and API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jobs_url: Option<String>,
    /// The admin port of jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jobs_admin_url: Option<String>,
    /// The importer's admin port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub importer_admin_url: Option<String>,
    /// The notifier, as websockets reach it; the same address speaks HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notifier_url: Option<String>,
    /// The notifier's admin port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notifier_admin_url: Option<String>,
    /// The database of the imported contacts, on the view's primary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contacts_database_url: Option<String>,
    /// The console's page and API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_url: Option<String>,
    /// The console's admin port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_admin_url: Option<String>,
    /// Prometheus, which scrapes the services and, where exporters are installed, Kafka and the databases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<String>,
    /// Process ids, for whoever wants to kill or freeze a part.
    pub pids: Pids,
}

/// Process ids by part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pids {
    /// Every writer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub writer: Vec<i32>,
    /// Every reader.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reader: Vec<i32>,
    /// `writer relay`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay: Option<i32>,
    /// Every jobs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<i32>,
    /// Every importer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub importer: Vec<i32>,
    /// Every notifier.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notifier: Vec<i32>,
    /// The console.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console: Option<i32>,
    /// The broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<i32>,
    /// The Connect worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<i32>,
    /// The postmaster of the view's primary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub view_primary: Option<i32>,
    /// The postmaster of the view's first replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub view_replica: Option<i32>,
    /// The postmasters of all replicas, in the order of their URLs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub view_replicas: Vec<i32>,
    /// The postmaster of the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<i32>,
}

impl Endpoints {
    /// Reads a file as [`crate::Devstack`] writes it.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("{} can't be read", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no endpoints.json", path.display()))
    }

    /// The text of the file.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("texts and numbers always serialise") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_parts_are_absent_fields() {
        let pids = Pids { writer: vec![1], kafka: Some(3), ..Pids::default() };
        let endpoints = Endpoints { kafka: Some("127.0.0.1:9092".into()), pids, ..Endpoints::default() };
        let json: serde_json::Value = serde_json::from_str(&endpoints.to_json()).unwrap();
        assert_eq!(json, serde_json::json!({"kafka": "127.0.0.1:9092", "pids": {"writer": [1], "kafka": 3}}));
        assert_eq!(serde_json::from_value::<Endpoints>(json).unwrap(), endpoints);
    }
}
