//! The peer of `loadtest read`: a reader of the same table as one writes it with axum and a pool of sqlx, in good faith.
//!
//! It answers one route, `GET /v1/sites/{site_id}/installed-apps`, with the stored document and its tag. It has no positions,
//! no limits, no metrics, no conditional requests: less than the reader does, so that the comparison is kind to it.
//!
//! `naive-reader DATABASE_URL LISTEN`

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::net::TcpListener;

/// Connections of the pool; sqlx has 10 by default.
const CONNECTIONS: u32 = 16;
const DOCUMENT: &str = "select document, etag from view_g1.site_apps where site_id = $1 and deleted_at is null";

#[tokio::main]
async fn main() -> ExitCode {
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            devstack::warn(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (url, listen) = args.next().zip(args.next()).context("usage: naive-reader DATABASE_URL LISTEN")?;
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS).connect(&url).await?;
    let app = Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/v1/sites/{site_id}/installed-apps", get(installed_apps))
        .with_state(Arc::new(pool));
    Ok(axum::serve(TcpListener::bind(listen).await?, app).await?)
}

async fn installed_apps(State(pool): State<Arc<PgPool>>, Path(site_id): Path<String>) -> Response {
    let found = sqlx::query_as::<_, (String, String)>(DOCUMENT).bind(site_id).fetch_optional(&*pool).await;
    match found {
        Ok(Some((document, etag))) => {
            let headers =
                [(header::CONTENT_TYPE, "application/json".to_owned()), (header::ETAG, format!("\"{etag}\""))];
            (headers, document).into_response()
        }
        Ok(None) => (StatusCode::NOT_FOUND, "no such site").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
