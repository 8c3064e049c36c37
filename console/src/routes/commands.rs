//! Commands to groups.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::{State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use messaging::blocking::Verb;
use serde::Deserialize;

use super::{body, confirmed, wants};
use crate::{
    access::{Caller, Role},
    app::App,
    commands::{self, Wanted},
    error::Error,
};

/// How long the group may take to say what came of a command.
const OUTCOME_MAX: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Body {
    group: String,
    verb: Verb,
    topic: String,
    partition: i32,
    offset: Option<i64>,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    confirm: String,
}

/// 200 when the group has answered, else 202.
pub(crate) async fn send(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    sent: Result<Json<Body>, JsonRejection>,
) -> Result<Response, Error> {
    let sent = body(sent)?;
    wants(&caller, if sent.verb == Verb::Ignore { Role::Admin } else { Role::Operate })?;
    let wanted = Wanted {
        group: sent.group,
        verb: sent.verb,
        topic: sent.topic,
        partition: sent.partition,
        offset: sent.offset,
        by: caller.name,
        reason: String::new(),
    };
    let reason = confirmed(&sent.reason, &sent.confirm, &wanted.confirmation())?;
    let wanted = Wanted { reason, ..wanted };
    wanted.check(&app.snapshot())?;
    let _place = app.place()?;
    let sent = commands::send(&app.settings, &wanted, OUTCOME_MAX).await?;
    let status = if sent.event.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(sent)).into_response())
}
