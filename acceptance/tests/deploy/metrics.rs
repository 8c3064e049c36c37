//! Every metric that a dashboard or an alert names is a series of the running system.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devstack::{Endpoints, eventually};
use serde_json::Value;

use crate::{SITE, import::import_a_contact, root, system};

/// Scraped, stored and found; far beyond what it takes.
const SERIES_MAX: Duration = Duration::from_secs(90);
/// Series that begin with an event which this test does not cause: how their names begin, and who causes it.
const LATER: [(&str, &str); 9] = [
    ("writer_heartbeat_age_seconds", "only with WRITER_HEARTBEAT_TOPIC: tests/own_servers/heartbeats.rs"),
    ("reader_replica_retries_total", "with the first retry, by its reason"),
    ("console_dead_letters", "with the first topic of dead letters: console/tests"),
    ("consumer_blocked", "with the first partition that stands: messaging/tests"),
    ("consumer_parked_records", "with the first key that is parked: messaging/tests"),
    ("messaging_atomic_kv_store_", "only with calls back, of which the services have none: messaging/tests"),
    ("notifier_closed_total", "with the first connection that is closed from here: notifier/tests"),
    ("notifier_refused_total", "with the first request that is refused: notifier/tests"),
    ("messaging_transaction_aborts_total", "with the first abort"),
];
/// Crates with metrics of their own.
const MEASURED: [&str; 7] = ["writer", "reader", "console", "jobs", "importer", "notifier", "messaging"];
/// Stores are scraped by exporters that need not be installed: prefix of the metric, job of Prometheus.
const EXPORTED: [(&str, &str); 2] = [("pg_", "postgres"), ("kafka_", "kafka")];

#[tokio::test]
async fn every_metric_of_a_dashboard_or_an_alert_has_a_series() -> Result<()> {
    let Some(endpoints) = system().await? else { return Ok(()) };
    let prometheus = endpoints.prometheus.clone().context("prometheus")?;
    let mut names = dashboards()?;
    names.extend(alerts(&prometheus).await?);
    ensure!(names.len() > 30, "only {} metrics are named; the files were misread", names.len());
    ask_everything(&endpoints).await?;
    let absent_jobs = absent_exporters(&prometheus).await?;
    let declared =
        MEASURED.iter().map(|part| declared_in(&root().join(part).join("src"))).collect::<Result<String>>()?;
    for name in &names {
        if let Some((_, why)) = LATER.iter().find(|(later, _)| name.starts_with(later)) {
            ensure!(declared.contains(&format!("\"{}\"", family(name))), "{name} is nobody's metric");
            devstack::warn(&format!("not looked for: {name} ({why})"));
        } else if let Some(job) = absent_jobs.iter().find(|(prefix, _)| name.starts_with(prefix)) {
            devstack::warn(&format!("not looked for: {name} (no exporter of {} is installed)", job.1));
        } else {
            has_series(&prometheus, name).await?;
        }
    }
    Ok(())
}

#[test]
fn names_are_found_in_expressions() {
    for (expression, names) in [
        ("sum by (topic, slot_name) (rate(writer_x_total{a=\"b_c\"}[1m])) > 5e9", &["writer_x_total"][..]),
        ("a_b / on (in_stance) max by (le) (c_d) or vector(0)", &["a_b", "c_d"]),
        ("absent(up{job=\"writer\"} == 1)", &["up"]),
        ("histogram_quantile(0.99, sum by (le) (rate(d_seconds_bucket[5m])))", &["d_seconds_bucket"]),
    ] {
        assert_eq!(metrics_of(expression), names.iter().map(|name| (*name).to_owned()).collect(), "{expression}");
    }
}

/// The metrics that a PromQL expression names. Those of this project, its exporters and `up` all but the last have an
/// underscore, which labels outside of braces and `by (…)` have not.
fn metrics_of(expression: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let (mut rest, mut grouping) = (expression, false);
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        let length = match first {
            '"' => 2 + rest[1..].find('"').unwrap_or(rest.len() - 2),
            '{' => 1 + rest.find('}').unwrap_or(rest.len() - 1),
            '[' => 1 + rest.find(']').unwrap_or(rest.len() - 1),
            '(' if grouping => 1 + rest.find(')').unwrap_or(rest.len() - 1),
            c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        let is_name = (token.contains('_') || token == "up") && first.is_ascii_alphabetic();
        if is_name && !after.trim_start().starts_with('(') {
            names.insert(token.to_owned());
        }
        grouping = ["by", "on", "without", "ignoring"].contains(&token) || (grouping && first == ' ');
        rest = after;
    }
    names
}

/// Every `observe.rs` below a folder, one behind the other: only these name metrics.
fn declared_in(folder: &Path) -> Result<String> {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            text += &declared_in(&path)?;
        } else if path.ends_with("observe.rs") {
            text += &std::fs::read_to_string(&path)?;
        }
    }
    Ok(text)
}

/// The metric of a series: those of a histogram have endings.
fn family(name: &str) -> &str {
    ["_bucket", "_sum", "_count"].into_iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name)
}

fn dashboards() -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(root().join("deploy/observe/grafana/dashboards"))? {
        let dashboard: Value = serde_json::from_slice(&std::fs::read(entry?.path())?)?;
        let panels = dashboard["panels"].as_array().context("panels")?;
        let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
        names.extend(targets.filter_map(|target| target["expr"].as_str()).flat_map(metrics_of));
    }
    Ok(names)
}

/// As Prometheus has read them.
async fn alerts(prometheus: &str) -> Result<BTreeSet<String>> {
    let rules = get(&format!("{prometheus}/api/v1/rules")).await?;
    let groups = rules["data"]["groups"].as_array().context("groups")?;
    let rules = groups.iter().filter_map(|group| group["rules"].as_array()).flatten();
    Ok(rules.filter_map(|rule| rule["query"].as_str()).flat_map(metrics_of).collect())
}

/// The stores whose exporter is not there.
async fn absent_exporters(prometheus: &str) -> Result<Vec<(&'static str, &'static str)>> {
    let url = format!("{prometheus}/api/v1/targets?state=active");
    // Some seconds after its start Prometheus takes over all files of targets together; before that none seems to be there.
    let found = async || {
        let active = get(&url).await.ok()?["data"]["activeTargets"].as_array()?.clone();
        active.iter().any(|target| target["labels"]["job"] == "reader").then_some(active)
    };
    let active = eventually("Prometheus has its targets", SERIES_MAX, found).await?;
    let scraped = |job: &str| active.iter().any(|target| target["labels"]["job"] == job);
    Ok(EXPORTED.into_iter().filter(|(_, job)| !scraped(job)).collect())
}

/// One request of each kind, one that waits for a position in vain, and an import; the site of the seed has to arrive first.
async fn ask_everything(endpoints: &Endpoints) -> Result<()> {
    let reader = endpoints.reader_url.as_deref().context("reader")?;
    let site = format!("{reader}/v1/sites/{SITE}/installed-apps");
    let arrived = async || reqwest::get(&site).await.is_ok_and(|answer| answer.status() == 200).then_some(());
    eventually("the seed is served", SERIES_MAX, arrived).await?;
    let far = reqwest::Client::new().get(&site).header("projection-min-position", "1/0:999999999");
    let answer = far.header("prefer", "wait=1").send().await?;
    ensure!(answer.status() == 503, "a position that is far away: {}", answer.status());
    import_a_contact(endpoints).await
}

async fn has_series(prometheus: &str, name: &str) -> Result<()> {
    let url = format!("{prometheus}/api/v1/series?match[]={name}");
    let found = async || {
        let answer = get(&url).await.ok()?;
        answer["data"].as_array().is_some_and(|series| !series.is_empty()).then_some(())
    };
    eventually(&format!("a series of {name}, which a dashboard or an alert names"), SERIES_MAX, found).await
}

async fn get(url: &str) -> Result<Value> {
    Ok(reqwest::get(url).await?.error_for_status()?.json().await?)
}
