//! An app, and the sites that have it.

use bytes::Bytes;
use http::HeaderValue;
use shared::ids::AppId;

use crate::answer::Answer;
use crate::document::{self, write_string};
use crate::error::Error;
use crate::openapi::schema;
use crate::page;
use crate::position::number;
use crate::queries::{AppCount, AppPage, AppPageRow, PAGE_ROWS_MAX, PageKey};
use crate::request::Call;

/// One row more is asked for, to know whether there is a next page.
const LIMIT_MAX: i64 = PAGE_ROWS_MAX - 1;
const LIMIT_DEFAULT: i64 = 100;

/// `GET /v1/apps/{app_id}`: how many sites have it.
#[utoipa::path(
    get, path = "/v1/apps/{app_id}", tag = "look-ups", operation_id = "get_app",
    summary = "How many sites have an app",
    params(("app_id" = String, Path)),
    responses((status = 200, description = "The exact number; 0 for an app that nobody knows.", body = schema::AppCount))
)]
pub(crate) async fn count(call: &Call<'_>) -> Result<Answer, Error> {
    let app = call.id(0, AppId::new)?;
    let ((sites, positions), grounds) = call.app.replicas.ask(&AppCount(&app), &call.demand).await?;
    let mut body = b"{\"app_id\":".to_vec();
    write_string(&mut body, app.as_str());
    body.extend_from_slice(format!(",\"site_count\":{sites}}}").as_bytes());
    Ok(Answer::json(body, grounds.of_snapshot(&positions)))
}

/// `GET /v1/apps/{app_id}/sites`: one page of them, by site, then instance.
#[utoipa::path(
    get, path = "/v1/apps/{app_id}/sites", tag = "look-ups", operation_id = "list_sites_of_app",
    summary = "The sites that have an app, page by page",
    params(
        ("app_id" = String, Path),
        ("limit" = Option<i64>, Query, description = "Rows of a page.", minimum = 1, maximum = 1000),
        ("after" = Option<String>, Query, description = "The `next` of the page before."),
        ("include" = Option<String>, Query, description = "`app`: each row has the installation's other members too.", pattern = "^app$"),
    ),
    responses((
        status = 200, body = schema::SitesOfApp,
        description = "One page. A row that is there from the first request to the last is seen exactly once."
    ))
)]
pub(crate) async fn sites(call: &Call<'_>) -> Result<Answer, Error> {
    let app = call.id(0, AppId::new)?;
    let limit = limit(call)?;
    let with_documents = includes_app(call)?;
    let after = after(call, &app)?;
    // One row more than asked for tells whether there is a next page.
    let page = AppPage { app_id: &app, after: &after, rows_max: limit + 1, with_documents };
    let ((mut rows, positions), grounds) = call.app.replicas.ask(&page, &call.demand).await?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next = rows.last().filter(|_| more).map(|last| page::token(&app, &last.key));
    let body = body(&app, &rows, next.as_deref()).map_err(Error::Document)?;
    let link = next.map(|token| link(call, limit, &token, with_documents));
    Ok(Answer { link, ..Answer::json(body, grounds.of_snapshot(&positions)) })
}

fn limit(call: &Call<'_>) -> Result<i64, Error> {
    let invalid = Error::InvalidParameter { name: "limit", why: "is not a whole number from 1 to 1000" };
    match call.parameter("limit") {
        None => Ok(LIMIT_DEFAULT),
        Some(text) => number(&text).filter(|limit| (1..=LIMIT_MAX).contains(limit)).ok_or(invalid),
    }
}

fn includes_app(call: &Call<'_>) -> Result<bool, Error> {
    match call.parameter("include").as_deref() {
        None => Ok(false),
        Some("app") => Ok(true),
        Some(_) => Err(Error::InvalidParameter { name: "include", why: "may only be `app`" }),
    }
}

fn after(call: &Call<'_>, app: &AppId) -> Result<PageKey, Error> {
    let invalid = Error::InvalidParameter { name: "after", why: "is not the `next` of a page of this app" };
    match call.parameter("after") {
        None => Ok(PageKey::default()),
        Some(token) => page::key(app, &token).ok_or(invalid),
    }
}

fn body(app: &AppId, rows: &[AppPageRow], next: Option<&str>) -> Result<Vec<u8>, serde_json::Error> {
    /// A row of two uuids in JSON.
    const ROW_BYTES_USUAL: usize = 112;
    let mut out = Vec::with_capacity(64 + rows.len() * ROW_BYTES_USUAL);
    out.extend_from_slice(b"{\"app_id\":");
    write_string(&mut out, app.as_str());
    out.extend_from_slice(b",\"sites\":[");
    for (index, row) in rows.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_row(&mut out, app, row)?;
    }
    out.extend_from_slice(b"],\"next\":");
    match next {
        Some(token) => write_string(&mut out, token),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
    Ok(out)
}

fn write_row(out: &mut Vec<u8>, app: &AppId, row: &AppPageRow) -> Result<(), serde_json::Error> {
    let PageKey { site_id, instance_id } = &row.key;
    out.extend_from_slice(b"{\"site_id\":");
    write_string(out, site_id);
    if !instance_id.is_empty() {
        out.extend_from_slice(b",\"instance_id\":");
        write_string(out, instance_id);
    }
    if let Some(document) = &row.document {
        write_details(out, document, app.as_str(), instance_id)?;
    }
    out.push(b'}');
    Ok(())
}

/// Appends the details of one installation; row and document are of one snapshot, so it is there.
pub(super) fn write_details(
    out: &mut Vec<u8>,
    document: &Bytes,
    app_id: &str,
    instance_id: &str,
) -> Result<(), serde_json::Error> {
    let apps = document::apps(document)?;
    let found = apps.iter().find(|app| app.app_id == app_id && app.instance_id == instance_id);
    found.map_or(Ok(()), |app| app.write_details(out))
}

/// The next page (RFC 8288), relative to this one; the path is as the client encoded it.
fn link(call: &Call<'_>, limit: i64, token: &str, with_documents: bool) -> HeaderValue {
    let include = if with_documents { "&include=app" } else { "" };
    let text = format!("<{}?limit={limit}&after={token}{include}>; rel=\"next\"", call.uri.path());
    HeaderValue::try_from(text).expect("the path of a request, a number and base64url are fit for a header")
}
