//! What is known of an import: its state, its errors; and ending it.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use shared::import::{ImportId, Mode, Progress, RowCounts, State as ImportState};

use crate::{
    app::App,
    error::Error,
    errors, gate,
    log::Accepted,
    queries::{self, RowError},
    table::{COLUMNS_MAX, FIELD_BYTES_MAX},
};

/// Errors of one answer.
const ERRORS_MAX: i64 = 1000;

/// What the page has to know.
#[derive(Debug, Serialize)]
pub(crate) struct PageConfig {
    notifier_url: String,
    notifier_socket_url: String,
    file_bytes_max: u64,
    rows_max: u64,
    columns_max: usize,
    field_bytes_max: usize,
}

pub(crate) async fn config(State(app): State<Arc<App>>) -> Json<PageConfig> {
    let url = &app.config.notifier_url;
    let text = |url: &url::Url| url.as_str().trim_end_matches('/').to_owned();
    Json(PageConfig {
        notifier_url: text(url),
        notifier_socket_url: text(&gate::socket_url(url)),
        file_bytes_max: app.config.file_bytes_max,
        rows_max: app.config.rows_max,
        columns_max: COLUMNS_MAX,
        field_bytes_max: FIELD_BYTES_MAX,
    })
}

/// The state of an import, in the words of the frames about it.
#[derive(Debug, Serialize)]
struct Import {
    import_id: ImportId,
    state: ImportState,
    mode: Mode,
    jobs: u32,
    jobs_done: u32,
    rows: u64,
    #[serde(flatten)]
    counts: RowCounts,
}

impl Import {
    fn of(import_id: ImportId, progress: &Progress) -> Self {
        let Progress { state, mode, jobs, rows, counts, .. } = *progress;
        Self { import_id, state, mode, jobs, jobs_done: progress.jobs_done.len(), rows, counts }
    }

    /// In the log, and not seen by those who count yet.
    fn begun(import_id: ImportId, accepted: &Accepted) -> Self {
        let Accepted { jobs, rows, mode } = *accepted;
        Self { import_id, state: ImportState::Accepted, mode, jobs, jobs_done: 0, rows, counts: RowCounts::default() }
    }
}

/// The import, by everything that was committed before the question. `ETag` is the number of its value.
pub(crate) async fn import(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let id = ImportId::parse(&id).ok_or(Error::NotFound)?;
    let (import, updates) = match app.log.progress(id).await? {
        Some(progress) => (Import::of(id, &progress), progress.updates),
        None => (Import::begun(id, &*app.log.accepted(id).await?.ok_or(Error::NotFound)?), 0),
    };
    let tag = HeaderValue::try_from(format!("\"{updates}\"")).expect("digits are ASCII");
    let cache = [(header::ETAG, tag.clone()), (header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))];
    let has_it = headers.get_all(header::IF_NONE_MATCH).iter().any(|known| names(known, &tag));
    Ok(match has_it {
        true => (StatusCode::NOT_MODIFIED, cache).into_response(),
        false => (cache, Json(import)).into_response(),
    })
}

fn names(known: &HeaderValue, tag: &HeaderValue) -> bool {
    let (known, tag) = (known.to_str().unwrap_or_default(), tag.to_str().unwrap_or_default());
    known.split(',').map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == tag)
}

#[derive(Debug, Deserialize)]
pub(crate) struct Paging {
    /// `<line>,<column>` of the last error that is known.
    #[serde(default)]
    after: String,
    limit: Option<i64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Errors {
    errors: Vec<RowError>,
    /// `after` for those behind these; `null` at the end.
    next: Option<String>,
}

/// The errors so far, a page at a time, for a table on a screen.
pub(crate) async fn errors(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    paging: Result<Query<Paging>, QueryRejection>,
) -> Result<Json<Errors>, Error> {
    let Query(paging) = paging?;
    let id = known(&app, &id).await?;
    let invalid = || Error::InvalidParameter("after is the `next` of an earlier answer".to_owned());
    let after = match paging.after.split_once(',') {
        None if paging.after.is_empty() => (0, String::new()),
        Some((line, column)) => (line.parse().map_err(|_| invalid())?, column.to_owned()),
        None => return Err(invalid()),
    };
    let limit = paging.limit.unwrap_or(100).clamp(1, ERRORS_MAX);
    let errors = queries::errors(app.database()?, id, &after, limit).await?;
    let is_full = errors.len() as i64 == limit;
    let next = errors.last().filter(|_| is_full).map(|last| format!("{},{}", last.line, last.column));
    Ok(Json(Errors { errors, next }))
}

/// The errors so far as a file.
pub(crate) async fn error_file(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response, Error> {
    let id = known(&app, &id).await?;
    let pool = app.database()?.clone();
    // Before the answer begins, a database that is away can still be told.
    drop(pool.acquire().await?);
    let name = format!("attachment; filename=\"import-{id}-errors.csv\"");
    let headers = [(header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()), (header::CONTENT_DISPOSITION, name)];
    Ok((headers, Body::from_stream(errors::file(pool, id))).into_response())
}

/// 202 when the wish is in the log: jobs that no importer has begun by then are skipped, and the channel is told what became of the
/// others. 409 when the import has ended.
pub(crate) async fn cancel(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<StatusCode, Error> {
    let id = known(&app, &id).await?;
    let progress = app.log.progress(id).await?;
    if progress.is_some_and(|progress| progress.state.is_end()) {
        return Err(Error::Ended);
    }
    app.log.cancel(id).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn known(app: &App, id: &str) -> Result<ImportId, Error> {
    let id = ImportId::parse(id).ok_or(Error::NotFound)?;
    // A store that has forgotten when it was accepted may still know its end.
    match app.log.accepted(id).await?.is_some() || app.log.progress(id).await?.is_some() {
        true => Ok(id),
        false => Err(Error::NotFound),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_tag_is_found_in_a_list() {
        let tag = HeaderValue::from_static("\"7\"");
        for (known, expected) in
            [("\"7\"", true), ("W/\"7\"", true), ("\"1\", \"7\"", true), ("*", true), ("\"77\"", false)]
        {
            assert_eq!(names(&HeaderValue::from_static(known), &tag), expected, "{known}");
        }
    }
}
