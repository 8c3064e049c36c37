//! What is shown; any role may see it.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, Query, State},
    response::{Html, IntoResponse, Response},
};
use rdkafka::error::KafkaResult;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    access::Caller,
    app::App,
    error::Error,
    fingerprint::Fingerprint,
    page,
    records::{self, Cursor},
    redrive,
    snapshot::Snapshot,
};

/// Letters of one page.
const LETTERS_MAX: usize = 1000;
const LETTERS_DEFAULT: usize = 50;

pub(crate) async fn page(State(app): State<Arc<App>>, Extension(caller): Extension<Caller>) -> Html<String> {
    page::document(&app.snapshot(), &caller, app.access.everybody().is_none())
}

pub(crate) async fn overview(State(app): State<Arc<App>>) -> Response {
    Json(&*app.snapshot()).into_response()
}

pub(crate) async fn groups(State(app): State<Arc<App>>) -> Response {
    Json(&app.snapshot().groups).into_response()
}

pub(crate) async fn generations(State(app): State<Arc<App>>) -> Response {
    Json(&app.snapshot().generations).into_response()
}

pub(crate) async fn replicas(State(app): State<Arc<App>>) -> Response {
    Json(&app.snapshot().replicas).into_response()
}

pub(crate) async fn blocking(State(app): State<Arc<App>>) -> Json<Value> {
    Json(blocking_of(&app.snapshot()))
}

pub(crate) async fn parked(State(app): State<Arc<App>>) -> Json<Value> {
    Json(parked_of(&app.snapshot()))
}

pub(crate) async fn dead_letters(State(app): State<Arc<App>>) -> Response {
    Json(&app.snapshot().dead_letters).into_response()
}

pub(crate) async fn audit(State(app): State<Arc<App>>) -> Response {
    Json(&app.snapshot().audits).into_response()
}

/// Held partitions but for those in which keys are parked and nothing else.
pub(crate) fn blocking_of(snapshot: &Snapshot) -> Value {
    let holds = |held: &&crate::snapshot::Held| {
        let state = &held.state;
        !state.blocked.is_empty() || state.paused || state.mode != messaging::blocking::Mode::Blocking
    };
    json!(snapshot.held.iter().filter(holds).collect::<Vec<_>>())
}

/// Parked records, one for each key.
pub(crate) fn parked_of(snapshot: &Snapshot) -> Value {
    let rows = snapshot.held.iter().flat_map(|held| {
        let of = &held.state;
        let row = move |(offset, stuck): (&i64, &messaging::blocking::Stuck)| {
            json!({"group": held.group, "topic": of.topic, "partition": of.partition, "offset": offset, "stuck": stuck})
        };
        of.parked.iter().map(row)
    });
    rows.collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Paging {
    fingerprint: Option<Fingerprint>,
    /// `<partition>:<offset>`, the `next` of the page before.
    after: Option<String>,
    limit: Option<usize>,
}

pub(crate) async fn letters(
    State(app): State<Arc<App>>,
    Path(topic): Path<String>,
    Query(paging): Query<Paging>,
) -> Result<Json<Value>, Error> {
    let after = paging.after.as_deref().map(cursor).transpose()?;
    let limit = paging.limit.unwrap_or(LETTERS_DEFAULT).clamp(1, LETTERS_MAX);
    known(&app, &topic)?;
    let looker = Arc::clone(&app);
    let look = move || {
        records::letters(&looker.settings, &looker.redaction, &topic, paging.fingerprint.as_ref(), after, limit)
    };
    let (letters, next) = blocking_look(&app, look).await?;
    let next = next.map(|(partition, offset)| format!("{partition}:{offset}"));
    Ok(Json(json!({"letters": letters, "next": next})))
}

/// A letter as it may be edited.
pub(crate) async fn editable(
    State(app): State<Arc<App>>,
    Path((topic, partition, offset)): Path<(String, i32, i64)>,
) -> Result<Response, Error> {
    known(&app, &topic)?;
    let _place = app.place()?;
    let letter = redrive::editable(&app.settings, &app.redaction, &topic, (partition, offset)).await?;
    Ok(Json(letter).into_response())
}

fn cursor(text: &str) -> Result<Cursor, Error> {
    let numbers = text.split_once(':').and_then(|(of, offset)| Some((of.parse().ok()?, offset.parse().ok()?)));
    numbers.ok_or_else(|| Error::InvalidParameter("after: not what an earlier page gave".to_owned()))
}

pub(crate) async fn record(
    State(app): State<Arc<App>>,
    Path((topic, partition, offset)): Path<(String, i32, i64)>,
) -> Result<Response, Error> {
    known(&app, &topic)?;
    let looker = Arc::clone(&app);
    let shown = topic.clone();
    let look = move || records::one(&looker.settings, &looker.redaction, &topic, partition, offset);
    match blocking_look(&app, look).await? {
        Some(record) => Ok(Json(record).into_response()),
        None => Err(Error::NotFound(format!("{shown}-{partition} has no record at offset {offset} (any more)"))),
    }
}

/// Only topics that the console shows something of: it is no browser of topics.
fn known(app: &App, topic: &str) -> Result<(), Error> {
    let snapshot = app.snapshot();
    let is_known = snapshot.dead_letters.iter().any(|of| of.topic == topic)
        || snapshot.held.iter().any(|held| held.state.topic == topic);
    if is_known { Ok(()) } else { Err(Error::NotFound(format!("nothing of a topic {topic} is dead or held"))) }
}

async fn blocking_look<T: Send + 'static>(
    app: &App,
    look: impl FnOnce() -> KafkaResult<T> + Send + 'static,
) -> Result<T, Error> {
    let place = app.place()?;
    let looked = tokio::task::spawn_blocking(move || {
        let _place = place;
        look()
    });
    looked.await.expect("it neither panics nor is aborted").map_err(|error| Error::Kafka(error.to_string()))
}
