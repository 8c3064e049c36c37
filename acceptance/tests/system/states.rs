//! What the tests of operators' verbs share: records made by hand, and waits for a partition's state.

use std::collections::BTreeMap;
use std::sync::Arc;

use acceptance::{App, Record, Site, System};
use anyhow::{Context, Result};
use devstack::eventually;
use serde_json::{Value, json};

use crate::NOTICED_MAX;

/// A row of a site with one app, as an update or, where it is the first, a snapshot's row.
pub fn row(partition: i32, site_id: &str, lsn: u64, version: i64, app_id: &str) -> Record {
    let app = App { app_id: app_id.to_owned(), instance_id: format!("{site_id}.{app_id}"), version: 1 };
    let element = json!({
        "appDefId": app.app_id, "instanceId": app.instance_id, "version": "1.0", "status": "INSTALLED",
        "permissions": ["SITE.READ"],
    });
    let after = json!({"site_id": site_id, "version": version, "installed_apps": json!([element]).to_string()});
    let apps = BTreeMap::from([((app.app_id.clone(), app.instance_id.clone()), app)]);
    record(partition, site_id, Some(envelope("u", lsn, after)), Some(Site { version, apps_version: version, apps }))
}

/// The delete of a site.
pub fn delete(partition: i32, site_id: &str, lsn: u64) -> Record {
    record(partition, site_id, Some(envelope("d", lsn, Value::Null)), None)
}

/// A tombstone.
pub fn tombstone(partition: i32, site_id: &str) -> Record {
    record(partition, site_id, None, None)
}

/// A truncate of the source table, which the policy may let block.
pub fn truncate(partition: i32, lsn: u64) -> Record {
    record(partition, "no-site", Some(envelope("t", lsn, Value::Null)), None)
}

fn envelope(op: &str, lsn: u64, after: Value) -> String {
    let source = json!({"connector": "postgresql", "snapshot": "false", "lsn": lsn});
    json!({"before": null, "after": after, "source": source, "op": op, "ts_ms": 1_700_000_000_000_u64}).to_string()
}

fn record(partition: i32, site_id: &str, value: Option<String>, after: Option<Site>) -> Record {
    let key = json!({"site_id": site_id}).to_string();
    Record { partition, key, value, headers: Vec::new(), site_id: site_id.to_owned(), after: after.map(Arc::new) }
}

/// Waits until `writer position` says that a partition is in this state; gives its line.
pub async fn in_state(system: &System, partition: i32, state: &str) -> Result<Value> {
    let seen = async || {
        let line = system.writer_position().ok()?.remove(&partition)?;
        (line["state"] == state).then_some(line)
    };
    let outcome = eventually(&format!("partition {partition} is {state}"), NOTICED_MAX, seen).await;
    outcome.with_context(|| format!("{:#?}", system.writer_position()))
}

/// The rows of the audit table, oldest first: action, reason, detail.
pub async fn audit(system: &System) -> Result<Vec<(String, String, Value)>> {
    let statement = "select action, reason, detail::text, actor from siteview.audit order by audit_id";
    let rows = system.primary().await?.query(statement, &[]).await?;
    rows.iter()
        .map(|row| {
            let detail: String = row.get(2);
            anyhow::ensure!(!row.get::<_, String>(3).is_empty(), "an audit row names its login");
            Ok((row.get(0), row.get(1), serde_json::from_str(&detail)?))
        })
        .collect()
}
