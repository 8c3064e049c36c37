//! Redrives: begun, stopped, continued.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::json;

use super::{body, confirmed, wants};
use crate::{
    access::{Caller, Role},
    app::App,
    error::Error,
    fingerprint::Fingerprint,
    redrive::{self, Edit, RATE_MAX, RedriveState, Selection, Stop, Wanted},
};

/// Records per second where nobody says otherwise.
const RATE_DEFAULT: u32 = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Body {
    topic: String,
    fingerprint: Option<Fingerprint>,
    partition: Option<i32>,
    offset: Option<i64>,
    /// Partition and offset of each.
    letters: Option<Vec<(i32, i64)>>,
    rate: Option<u32>,
    redrive_max: Option<u64>,
    /// What the letter is to have instead; of one letter.
    edit: Option<Edit>,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    confirm: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Why {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    confirm: String,
}

pub(crate) async fn list(State(app): State<Arc<App>>) -> Response {
    Json(&app.snapshot().redrives).into_response()
}

/// 202 with the redrive that has begun; a dry run 200 with what would be done.
pub(crate) async fn begin(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    sent: Result<Json<Body>, JsonRejection>,
) -> Result<Response, Error> {
    let sent = body(sent)?;
    let redrive_max = sent.redrive_max.unwrap_or(app.redrive_max);
    // Who edits a letter says what stands in its source topic.
    let is_admins = redrive_max > app.redrive_max || sent.edit.is_some();
    wants(&caller, if is_admins { Role::Admin } else { Role::Operate })?;
    sent.edit.as_ref().map_or(Ok(()), Edit::check).map_err(Error::InvalidParameter)?;
    let selection = match (sent.fingerprint, sent.partition, sent.offset, sent.letters) {
        (Some(fingerprint), None, None, None) => Selection::Fingerprint(fingerprint),
        (None, Some(partition), Some(offset), None) => Selection::Letter { partition, offset },
        (None, None, None, Some(letters)) => Selection::of_places(letters).map_err(Error::InvalidParameter)?,
        _ => return Err(Error::InvalidParameter("name a fingerprint, or partition and offset, or letters".to_owned())),
    };
    let rate_per_second = sent.rate.unwrap_or(RATE_DEFAULT);
    if !(1..=RATE_MAX).contains(&rate_per_second) {
        return Err(Error::InvalidParameter(format!("rate: from 1 to {RATE_MAX} records per second")));
    }
    let reason = match sent.dry_run {
        true => String::new(),
        false => confirmed(&sent.reason, &sent.confirm, &selection.confirmation())?,
    };
    let (dead_letter_topic, by) = (sent.topic, caller.name.clone());
    let (edit, why) = (sent.edit, reason.clone());
    let wanted = Wanted { dead_letter_topic, selection, rate_per_second, redrive_max, by, reason: why, edit };
    let _place = app.place()?;
    let redrive = redrive::begin(&app.settings, wanted).await?;
    if sent.dry_run {
        let counts = redrive::count(&app.settings, redrive).await?;
        return Ok(Json(json!({"dry_run": true, "counts": counts})).into_response());
    }
    tracing::info!(id = redrive.id, topic = redrive.dead_letter_topic, edited = ?redrive.edited, by = caller.name,
        "a redrive begins");
    app.workers.start(&app.settings, redrive.clone(), caller.name, reason)?;
    Ok((StatusCode::ACCEPTED, Json(redrive.without_contents())).into_response())
}

pub(crate) async fn stop(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    sent: Result<Json<Why>, JsonRejection>,
) -> Result<StatusCode, Error> {
    wants(&caller, Role::Operate)?;
    let reason = why(&app, &id, body(sent)?)?;
    tracing::info!(id, by = caller.name, "a redrive is to stop");
    let why = Stop { by: caller.name, reason, everywhere: true };
    if !app.workers.stop(&id, why.clone()) {
        let _place = app.place()?;
        redrive::halt(&app.settings, &id, why).await?;
    }
    Ok(StatusCode::ACCEPTED)
}

pub(crate) async fn go_on(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    sent: Result<Json<Why>, JsonRejection>,
) -> Result<Response, Error> {
    wants(&caller, Role::Operate)?;
    let reason = why(&app, &id, body(sent)?)?;
    let _place = app.place()?;
    let redrive = redrive::last(&app.settings, &id).await?;
    if redrive.state == RedriveState::Done {
        return Err(Error::Conflict("it is done".to_owned()));
    }
    if redrive.redrive_max > app.redrive_max || redrive.edit.is_some() {
        wants(&caller, Role::Admin)?;
    }
    tracing::info!(id, topic = redrive.dead_letter_topic, by = caller.name, "a redrive goes on");
    app.workers.start(&app.settings, redrive.clone(), caller.name, reason)?;
    Ok((StatusCode::ACCEPTED, Json(redrive.without_contents())).into_response())
}

/// What was changed of the letter that it moved, redacted.
pub(crate) async fn difference(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response, Error> {
    let _place = app.place()?;
    Ok(Json(redrive::difference(&app.settings, &app.redaction, &id).await?).into_response())
}

fn why(app: &App, id: &str, why: Why) -> Result<String, Error> {
    let snapshot = app.snapshot();
    let known = snapshot.redrives.iter().find(|row| row.redrive.id == id);
    let known = known.ok_or_else(|| Error::NotFound(format!("no redrive {id}")))?;
    confirmed(&why.reason, &why.confirm, &known.redrive.selection.confirmation())
}
