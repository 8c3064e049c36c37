//! The admin port of every service: `/livez`, `/readyz`, `/metrics`.
//!
//! Liveness says that the process can answer, nothing more: it never depends on a database or a broker, whose absence a
//! restart would not heal. Readiness is the conjunction of named conditions that the service's parts hold. The port is
//! another one than the service's own, opens before anything else and closes last, so that a service that waits for its
//! database, or drains, can say so.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::problem::{Kind, Problem};

/// The conditions under which a service is ready; cheap to clone, all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<Vec<Row>>>);

#[derive(Debug)]
struct Row {
    name: String,
    holds: bool,
    detail: Cow<'static, str>,
    since: SystemTime,
}

impl Readiness {
    /// Without conditions, and so not ready: each part adds its own before the admin port opens.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition that does not hold yet, or gives the one that has this name.
    pub fn condition(&self, name: impl Into<String>) -> Condition {
        let name = name.into();
        let mut rows = self.rows();
        let index = rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            rows.push(Row { name, holds: false, detail: "starting".into(), since: SystemTime::now() });
            rows.len() - 1
        });
        Condition { readiness: self.clone(), index }
    }

    /// Whether there are conditions and all of them hold.
    pub fn is_ready(&self) -> bool {
        let rows = self.rows();
        !rows.is_empty() && rows.iter().all(|row| row.holds)
    }

    fn rows(&self) -> MutexGuard<'_, Vec<Row>> {
        // Each change is one assignment, so a panic elsewhere leaves the rows whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self) -> serde_json::Value {
        let ready = self.is_ready();
        let rows = self.rows();
        let conditions: Vec<_> = rows
            .iter()
            .map(|row| {
                let since = humantime::format_rfc3339_millis(row.since).to_string();
                json!({"name": row.name, "holds": row.holds, "detail": row.detail, "since": since})
            })
            .collect();
        json!({"ready": ready, "conditions": conditions})
    }
}

/// One named condition of a [`Readiness`], held by the part of the service that knows whether it holds.
#[derive(Debug, Clone)]
pub struct Condition {
    readiness: Readiness,
    index: usize,
}

impl Condition {
    /// Says whether the condition holds and why, in words for an operator (no secrets, no row values).
    ///
    /// A change of `holds` is logged and starts `since` anew; a change of the detail alone does neither.
    pub fn set(&self, holds: bool, detail: impl Into<Cow<'static, str>>) {
        let mut rows = self.readiness.rows();
        let row = &mut rows[self.index];
        row.detail = detail.into();
        if row.holds != holds {
            row.holds = holds;
            row.since = SystemTime::now();
            tracing::info!(condition = row.name, holds, detail = %row.detail, "readiness condition changed");
        }
    }

    /// Why it holds, or not, as it was said last.
    pub fn detail(&self) -> String {
        self.readiness.rows()[self.index].detail.to_string()
    }

    /// Whether the condition holds now.
    pub fn holds(&self) -> bool {
        self.readiness.rows()[self.index].holds
    }
}

/// Serves [`router`] until the token is cancelled and the answers under way are finished.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    metrics: PrometheusHandle,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let app = router(readiness, metrics);
    axum::serve(listener, app).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

/// The routes of the admin port; a service that knows more merges its own.
///
/// `/livez` 200; `/readyz` 200 or 503 with `{"ready":bool,"conditions":[{"name","holds","detail","since"}]}`; `/metrics`
/// in the Prometheus text format, the service's own and those of its process (`process_cpu_seconds_total`, …).
pub fn router(readiness: Readiness, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(readyz).with_state(readiness))
        .route("/metrics", get(render).with_state(metrics))
        .fallback(async || Problem::new(Kind::RouteNotFound, "the admin port has /livez, /readyz and /metrics"))
}

async fn readyz(State(readiness): State<Readiness>) -> Response {
    let report = readiness.report();
    let status = if report["ready"] == true { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report)).into_response()
}

async fn render(State(metrics): State<PrometheusHandle>) -> Response {
    // CPU, memory and descriptors of this process, under the names that Prometheus gives them everywhere.
    metrics_process::Collector::default().collect();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.render()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_there_are_conditions_and_all_hold() {
        let readiness = Readiness::new();
        assert!(!readiness.is_ready());
        let database = readiness.condition("database");
        let accepting = readiness.condition("accepting");
        assert!(!readiness.is_ready());
        database.set(true, "replica 1");
        accepting.set(true, "");
        assert!(readiness.is_ready() && database.holds());
        readiness.condition("database").set(false, "gone");
        assert!(!readiness.is_ready() && !database.holds());
    }

    #[test]
    fn since_is_the_last_change_of_holds() {
        let readiness = Readiness::new();
        let condition = readiness.condition("database");
        readiness.rows()[0].since = SystemTime::UNIX_EPOCH;
        condition.set(false, "still starting");
        let report = readiness.report();
        assert_eq!(report["conditions"][0]["since"], "1970-01-01T00:00:00.000Z");
        assert_eq!(report["conditions"][0]["detail"], "still starting");
        condition.set(true, "up");
        assert_ne!(readiness.report()["conditions"][0]["since"], "1970-01-01T00:00:00.000Z");
        assert_eq!(readiness.report()["ready"], true);
    }

    #[tokio::test]
    async fn readyz_is_503_until_ready() {
        let readiness = Readiness::new();
        let condition = readiness.condition("database");
        assert_eq!(readyz(State(readiness.clone())).await.status(), 503);
        condition.set(true, "");
        assert_eq!(readyz(State(readiness)).await.status(), 200);
    }
}
