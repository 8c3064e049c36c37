//! `POST /v1/imports`: a file becomes an import, or nothing.

use std::{sync::Arc, time::Instant};

use axum::{
    Extension,
    body::{Body, HttpBody as _},
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use opentelemetry::trace::SpanContext;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use shared::{
    import::{ImportId, Mode},
    telemetry::traceparent,
};

use super::ReadingParameters;
use crate::{
    app::App,
    check::check,
    cut::Import,
    error::Error,
    intake::{self, Limits},
    observe::{self, UnderWay},
    produce::{Outcome, produce},
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Bytes of such a key, and of an owner's id.
const KEY_BYTES_MAX: usize = 255;

#[derive(Debug, Deserialize)]
pub(crate) struct Parameters {
    channel_id: Option<String>,
    owner_id: Option<String>,
    #[serde(default)]
    mode: Mode,
    // Not flattened into a struct of their own by serde: a query has texts alone.
    #[serde(flatten)]
    reading: ReadingParameters,
}

/// 202 with `Location` once the import is in the log; its progress is told by the notifier.
pub(crate) async fn upload(
    State(app): State<Arc<App>>,
    parameters: Result<Query<Parameters>, QueryRejection>,
    span: Option<Extension<SpanContext>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let _under_way = UnderWay::new();
    let mut body = Some(body);
    let accepted = async {
        let Query(parameters) = parameters?;
        let traceparent = span.map(|Extension(span)| traceparent(&span));
        accept(app, parameters, traceparent, &headers, &mut body).await
    };
    let accepted = accepted.await;
    // Refused before it was read: a client that still sends would not see the answer.
    if let Some(unread) = body {
        intake::throw_away(unread).await;
    }
    match accepted {
        Ok(id) => (StatusCode::ACCEPTED, [(header::LOCATION, format!("/v1/imports/{id}"))]).into_response(),
        Err(error) => {
            observe::refused(error.outcome());
            error.into_response()
        }
    }
}

async fn accept(
    app: Arc<App>,
    parameters: Parameters,
    traceparent: Option<String>,
    headers: &HeaderMap,
    body: &mut Option<Body>,
) -> Result<ImportId, Error> {
    let channel = app.channel(parameters.channel_id.as_deref().unwrap_or_default())?;
    let owner_id = owner(parameters.owner_id)?;
    let boundary = boundary(headers)?;
    let reading = parameters.reading.reading()?;
    let key = headers.get(IDEMPOTENCY_KEY).map(|key| idempotency_key(key.as_bytes())).transpose()?;
    // Told before it is sent. What a form is longer than its file is not known yet.
    let length = body.as_ref().map_or(0, |body| body.size_hint().lower());
    if boundary.is_none() && length > app.config.file_bytes_max {
        return Err(Error::TooLarge(app.config.file_bytes_max));
    }
    let place = app.place()?;
    let may_exist = key.is_some();
    let id = key.map_or_else(ImportId::new, |key| id_of_key(channel.as_str(), &owner_id, key));
    let began = Instant::now();

    let mut file = app.spool.place(id)?;
    let (to, from) = intake::pipe();
    let rows_max = app.config.rows_max;
    let checking = tokio::task::spawn_blocking(move || {
        let plan = check(from, &mut file, &reading, rows_max);
        (plan, file)
    });
    let limits = Limits { bytes_max: app.config.file_bytes_max, idle_max: app.config.upload_idle_max };
    let body = body.take().unwrap_or_default();
    let poured = intake::pour(boundary, body, to, limits).await;
    let (plan, file) = checking.await.map_err(|_| Error::Internal)?;
    // Why the body broke off says more than that it did.
    poured?;
    let plan = plan?;
    observe::checked(began.elapsed());

    let import = Import {
        id,
        channel_id: channel.as_str().to_owned(),
        owner_id,
        mode: parameters.mode,
        jobs: plan.jobs,
        rows: plan.rows,
        fields: plan.fields,
        columns: plan.columns,
        traceparent,
    };
    // A thread that goes on when the client does not wait: the file is there, so the import will be.
    let producing = tokio::task::spawn_blocking(move || {
        let (began, _place) = (Instant::now(), place);
        let outcome = produce(&app.log, &import, &plan, &file, may_exist)?;
        observe::produced(outcome, import.rows, import.jobs, began.elapsed());
        if outcome == Outcome::Accepted {
            tracing::info!(import = %import.id, rows = import.rows, jobs = import.jobs, "import accepted");
        }
        Ok(())
    });
    producing.await.map_err(|_| Error::Internal)?.map(|()| id)
}

fn owner(owner_id: Option<String>) -> Result<String, Error> {
    let owner_id = owner_id.unwrap_or_default();
    match owner_id.len() {
        1..=KEY_BYTES_MAX if !owner_id.chars().any(char::is_control) => Ok(owner_id),
        _ => Err(Error::InvalidParameter(format!("owner_id is 1 to {KEY_BYTES_MAX} bytes of printable text"))),
    }
}

/// What stands between the parts of a form; `None` where the body is the file.
fn boundary(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let Some(text) = headers.get(header::CONTENT_TYPE) else { return Ok(None) };
    let text = text.to_str().map_err(|_| Error::MediaType(String::new()))?;
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    // Browsers say what the system has registered for `.csv`, on Windows often Excel's.
    match essence.as_str() {
        "multipart/form-data" => {
            multer::parse_boundary(text).map(Some).map_err(|error| Error::BrokenBody(error.to_string()))
        }
        "text/csv"
        | "text/plain"
        | "text/tab-separated-values"
        | "application/csv"
        | "application/vnd.ms-excel"
        | "application/octet-stream" => Ok(None),
        _ => Err(Error::MediaType(essence)),
    }
}

fn idempotency_key(key: &[u8]) -> Result<&[u8], Error> {
    match key.len() {
        1..=KEY_BYTES_MAX => Ok(key),
        _ => Err(Error::InvalidParameter(format!("Idempotency-Key is 1 to {KEY_BYTES_MAX} bytes"))),
    }
}

/// Nobody who does not know the channel's id can find it. Lengths stand before texts, so that no two triples have one digest.
fn id_of_key(channel: &str, owner: &str, key: &[u8]) -> ImportId {
    let mut digest = Sha256::new();
    for part in [channel.as_bytes(), owner.as_bytes(), key] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let digest = digest.finalize();
    ImportId::of_digest(digest[..16].try_into().expect("a digest has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_of_its_channel_owner_and_key() {
        let id = id_of_key("c", "o", b"k");
        assert_eq!(id, id_of_key("c", "o", b"k"));
        for other in [id_of_key("co", "", b"k"), id_of_key("c", "", b"ok"), id_of_key("c", "o", b"l")] {
            assert_ne!(id, other);
        }
    }

    #[test]
    fn a_form_has_a_boundary_and_a_file_none() {
        for (kind, expected) in [
            ("multipart/form-data; boundary=b", Some(Some("b"))),
            ("Text/CSV; charset=utf-8", Some(None)),
            ("multipart/form-data", None),
            ("multipart/form-data; boundary", None),
            ("application/json", None),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, axum::http::HeaderValue::from_static(kind))]);
            assert_eq!(boundary(&headers).ok().as_ref().map(Option::as_deref), expected, "{kind}");
        }
        assert_eq!(boundary(&HeaderMap::new()).ok(), Some(None));
    }
}
