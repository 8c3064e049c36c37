//! The services that the console was told about: what their admin ports say, asked now and then.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Deserialize;

use crate::{observe::TOLD, snapshot::Service};

/// One answer may take so long.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Series of one metric of one service that are kept.
const SERIES_MAX: usize = 100;
/// A service that the console is told about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAddress {
    /// For people.
    pub name: String,
    /// Of its admin port.
    pub url: url::Url,
}

impl std::str::FromStr for ServiceAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, url) = text.split_once('=').ok_or("write name=http://host:port")?;
        let url: url::Url = url.trim().parse().map_err(|error| format!("{name}: {error}"))?;
        if url.scheme() != "http" || url.host().is_none() {
            return Err(format!("{name}: an admin port speaks http"));
        }
        Ok(Self { name: name.trim().to_owned(), url })
    }
}

/// What they said last; clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Services(Arc<Mutex<Vec<Service>>>);

impl Services {
    pub(crate) fn all(&self) -> Vec<Service> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks all of them again and again; never ends.
    pub(crate) async fn follow(self, addresses: Vec<ServiceAddress>, interval: Duration) {
        let client = reqwest::Client::builder().timeout(ANSWER_MAX).build().expect("a client without TLS");
        let mut ticks = tokio::time::interval(interval);
        loop {
            ticks.tick().await;
            let asked = addresses.iter().map(|address| ask(&client, address));
            let all = futures_util::future::join_all(asked).await;
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = all;
        }
    }
}

#[derive(Deserialize)]
struct Readyz {
    ready: bool,
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    name: String,
    holds: bool,
    detail: String,
    since: String,
}

async fn ask(client: &reqwest::Client, address: &ServiceAddress) -> Service {
    let name = address.name.clone();
    let readyz = match get(client, address, "readyz").await {
        Ok(text) => text,
        Err(error) => return Service { name, detail: vec![error], ..Service::default() },
    };
    let Ok(readyz) = serde_json::from_str::<Readyz>(&readyz) else {
        return Service {
            name,
            detail: vec!["/readyz is not what a service of Siteview says".to_owned()],
            ..Service::default()
        };
    };
    let fails = readyz.conditions.iter().filter(|condition| !condition.holds);
    let detail = fails.map(|fails| format!("{}: {} (since {})", fails.name, fails.detail, fails.since)).collect();
    let metrics = get(client, address, "metrics").await.map(|text| told(&text)).unwrap_or_default();
    Service { name, ready: Some(readyz.ready), detail, metrics }
}

async fn get(client: &reqwest::Client, address: &ServiceAddress, path: &str) -> Result<String, String> {
    let url = address.url.join(path).map_err(|error| error.to_string())?;
    // Without the URL, which a person has configured and may hold a password.
    let failed = |error: reqwest::Error| format!("does not answer: {}", error.without_url());
    let mut answer = client.get(url).send().await.map_err(failed)?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_BYTES_MAX {
            return Err(format!("/{path} is longer than {ANSWER_BYTES_MAX} bytes"));
        }
    }
    String::from_utf8(body).map_err(|_| format!("/{path} is not text"))
}

/// The metrics that are told, in the Prometheus text format: name and labels, a blank, a number.
fn told(text: &str) -> BTreeMap<String, f64> {
    let mut kept = BTreeMap::<&str, usize>::new();
    let is_told = |line: &&str| {
        let is_of = |name: &&&str| line.strip_prefix(**name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let Some(name) = TOLD.iter().find(is_of) else { return false };
        let kept = kept.entry(name).or_default();
        *kept += 1;
        *kept <= SERIES_MAX
    };
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse::<f64>().ok()?))
    };
    text.lines().filter(is_told).filter_map(sample).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_told_by_name_and_labels() {
        let text = "# HELP writer_lag_records x\nwriter_lag_records{topic=\"a b\",partition=\"0\"} 7\n\
                    writer_lag_records_total 9\nreader_replica_healthy 1\nother 3\n";
        let expected = [("writer_lag_records{topic=\"a b\",partition=\"0\"}", 7.0), ("reader_replica_healthy", 1.0)];
        assert_eq!(told(text), expected.map(|(name, value)| (name.to_owned(), value)).into());
        let many = |name: &str| (0..200).map(|of| format!("{name}{{partition=\"{of}\"}} 1\n")).collect::<String>();
        let told = told(&format!("{}reader_replica_healthy 1\n", many("writer_lag_records")));
        assert_eq!(told.len(), SERIES_MAX + 1, "many of one leave room for the others");
    }

    #[test]
    fn an_address_is_a_name_and_an_http_url() {
        let address: ServiceAddress = "writer=http://127.0.0.1:9101".parse().unwrap();
        assert_eq!((address.name.as_str(), address.url.as_str()), ("writer", "http://127.0.0.1:9101/"));
        for text in ["writer", "writer=", "writer=https://h", "writer=ftp://h"] {
            assert!(text.parse::<ServiceAddress>().is_err(), "{text}");
        }
    }
}
