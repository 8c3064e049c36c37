//! The peer of `loadtest read`: a reader of the same table as one writes it with axum and a pool of sqlx, in good faith.
//!
//! It answers one route, `GET /v1/sites/{site_id}/installed-apps`, with the stored document and its tag. It has no positions,
//! no limits, no metrics, no conditional requests: less than the reader does, so that the comparison is kind to it.
//!
//! As `memory` it reads all documents at its start and answers from a map, with tags: HTTP by axum and nothing else, which is what a cache
//! can come to at best.
//!
//! `naive-reader DATABASE_URL LISTEN naive|memory`

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::net::TcpListener;

/// Connections of the pool; sqlx has 10 by default.
const CONNECTIONS: u32 = 16;
const DOCUMENT: &str = "select document, etag from view_g1.site_apps where site_id = $1 and deleted_at is null";

const ALL: &str = "select site_id, document, etag from view_g1.site_apps where deleted_at is null";
const SITE: &str = "/v1/sites/{site_id}/installed-apps";

/// Documents and their tags by site, as they are sent.
type Documents = HashMap<String, (Bytes, HeaderValue)>;

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
    let mut next = || args.next().context("usage: naive-reader DATABASE_URL LISTEN naive|memory");
    let (url, listen, kind) = (next()?, next()?, next()?);
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS).connect(&url).await?;
    let look_ups = match kind.as_str() {
        "naive" => Router::new().route(SITE, get(installed_apps)).with_state(Arc::new(pool)),
        "memory" => Router::new().route(SITE, get(from_memory)).with_state(Arc::new(all(&pool).await?)),
        _ => bail!("naive or memory, not {kind}"),
    };
    let app = look_ups.route("/livez", get(|| async { "ok" }));
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

async fn all(pool: &PgPool) -> Result<Documents> {
    let rows = sqlx::query_as::<_, (String, String, String)>(ALL).fetch_all(pool).await?;
    let sent = |(site_id, document, etag): (String, String, String)| {
        Ok((site_id, (document.into(), HeaderValue::try_from(format!("\"{etag}\""))?)))
    };
    rows.into_iter().map(sent).collect()
}

async fn from_memory(
    State(documents): State<Arc<Documents>>,
    Path(site_id): Path<String>,
    headers: HeaderMap,
) -> Response {
    match documents.get(&site_id) {
        Some((_, etag)) if headers.get(header::IF_NONE_MATCH) == Some(etag) => {
            (StatusCode::NOT_MODIFIED, [(header::ETAG, etag.clone())]).into_response()
        }
        Some((document, etag)) => {
            let json = HeaderValue::from_static("application/json");
            ([(header::CONTENT_TYPE, json), (header::ETAG, etag.clone())], document.clone()).into_response()
        }
        None => (StatusCode::NOT_FOUND, "no such site").into_response(),
    }
}
