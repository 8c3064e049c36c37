//! The changes of sites' apps, as they come: a stream of server-sent events, or a long poll.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, header};
use shared::ids::{AppId, SiteId};
use tokio::time::timeout;

use crate::answer::Answer;
use crate::changes::{self, Filter, Follower, Gap, Heard, Selected, Start};
use crate::document::write_string;
use crate::error::Error;
use crate::feed;
use crate::openapi::schema;
use crate::position::Grounds;
use crate::request::Call;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Left of a request's time to write the answer of a long poll that reads back much and finds little.
const WRITE_TIME: Duration = Duration::from_millis(500);

/// `GET /v1/changes`: what follows a token, in the form that the client accepts.
#[utoipa::path(
    get, path = "/v1/changes", tag = "feed", operation_id = "follow_changes",
    summary = "What changes, as it comes",
    description = "A stream of server-sent events, each with a `Change` as its data and a token as its `id`; or, with \
        `Accept: application/json`, a long poll that answers with the first changes there are. Events `gap` and `closing` \
        have `{\"reason\"}` as their data.",
    params(
        ("after" = Option<String>, Query, description = "A token: an event's `id`, a poll's `next`. `earliest`: the oldest kept. Without it the feed starts now."),
        ("site_id" = Option<String>, Query),
        ("app_id" = Option<String>, Query),
        ("Last-Event-ID" = Option<String>, Header, description = "As `after`, and before it: browsers send it when they come back."),
    ),
    responses((
        status = 200, description = "Changes after the token, in order for each site.",
        content((schema::Changes = "application/json"), (String = "text/event-stream"))
    ))
)]
pub(crate) async fn changes(call: &Call<'_>) -> Result<Answer, Error> {
    let app = call.app;
    let start = start(call)?;
    let filter = Filter { site_id: id(call, "site_id", SiteId::new)?, app_id: id(call, "app_id", AppId::new)? };
    let permit = Arc::clone(&app.feeds).try_acquire_owned().map_err(|_| {
        app.observe.shed();
        Error::FeedsOverloaded(app.config.feeds_max)
    })?;
    let (mut follower, grounds) = open(call, start, filter).await?;
    if wants_json(call.headers) {
        return poll(call, follower, grounds).await;
    }
    let first = match follower.is_caught_up() {
        true => None,
        false => follower.read_back().await.map_err(|_| Error::NoReplica)?,
    };
    if let Some(Heard::Gap(Gap::Expired)) = first {
        return Err(Error::FeedPositionExpired);
    }
    let claim = grounds.map(|grounds| grounds.of_all([]));
    Ok(Answer::feed(feed::start(app, follower, first, permit), claim))
}

/// Waits for a replica that is where the client demands it to be.
async fn open(call: &Call<'_>, start: Start, filter: Filter) -> Result<(Follower, Option<Grounds>), Error> {
    let (app, demand, started) = (call.app, &call.demand, Instant::now());
    let mut news = app.replicas.news();
    let position = demand.position.as_ref();
    let mut subscription = app.changes.subscribe(position).await;
    if matches!(subscription, Err(Error::PositionNotReached(_))) {
        // By samples that may be older than the request.
        app.replicas.sample_anew().await;
        subscription = app.changes.subscribe(position).await;
    }
    while matches!(subscription, Err(Error::PositionNotReached(_))) {
        let remaining = demand.wait.saturating_sub(started.elapsed());
        if timeout(remaining, news.changed()).await.is_err() {
            return Err(Error::PositionNotReached(demand.wait));
        }
        subscription = app.changes.subscribe(position).await;
    }
    Follower::open(Arc::clone(&app.changes), subscription?, start, filter).await
}

/// Answers with the first changes that there are, or with none when the wait is over.
async fn poll(call: &Call<'_>, mut follower: Follower, grounds: Option<Grounds>) -> Result<Answer, Error> {
    let app = call.app;
    let (started, wait) = (Instant::now(), call.demand.wait);
    // Reading back counts as work: it may take what any request may.
    let work_max = wait.max(app.config.request_time_max.saturating_sub(WRITE_TIME));
    let next = async |follower: &mut Follower| match follower.is_caught_up() {
        true => timeout(wait.saturating_sub(started.elapsed()), follower.next()).await.map(Some),
        false => timeout(work_max.saturating_sub(started.elapsed()), follower.next_back()).await,
    };
    let begin = follower.cursor().clone();
    let (mut events, mut gap) = (None, None);
    while events.is_none() {
        let heard = tokio::select! {
            biased;
            heard = next(&mut follower) => heard,
            () = app.feeds_end.cancelled() => break,
        };
        match heard {
            Ok(None) => {}
            Ok(Some(Heard::Gap(Gap::Expired))) => return Err(Error::FeedPositionExpired),
            Ok(Some(Heard::Gap(other))) => gap = Some(other),
            Ok(Some(Heard::Changes(selected))) => events = Some(selected),
            Err(_elapsed) if !follower.is_caught_up() && *follower.cursor() == begin => return Err(Error::NoReplica),
            Err(_elapsed) => {
                follower.rest();
                break;
            }
        }
    }
    let claim = grounds.map(|grounds| grounds.of_all(events.iter().flat_map(Selected::positions)));
    Ok(Answer::untagged(body(&follower, events.as_ref(), gap), claim))
}

/// `{"changes":[…],"next":"token"}`, and `"gap":"reason"` where something is missing before the changes.
fn body(follower: &Follower, events: Option<&Selected>, gap: Option<Gap>) -> Vec<u8> {
    let mut body = b"{\"changes\":[".to_vec();
    for (index, event) in events.into_iter().flat_map(Selected::events).enumerate() {
        body.extend_from_slice(if index > 0 { b"," } else { b"" });
        body.extend_from_slice(event);
    }
    body.extend_from_slice(b"],\"next\":");
    write_string(&mut body, &changes::token(follower.cursor()));
    if let Some(gap) = gap {
        crate::observe::feed_gap(gap.reason());
        body.extend_from_slice(b",\"gap\":");
        write_string(&mut body, gap.reason());
    }
    body.push(b'}');
    body
}

/// Where to begin: the last event that the client has, as browsers tell it when they come back, else `after`.
fn start(call: &Call<'_>) -> Result<Start, Error> {
    let token = |name: &'static str, text: &str| {
        let invalid = Error::InvalidParameter { name, why: "is neither `earliest` nor a token of this feed" };
        match text {
            "earliest" => Ok(Start::Earliest),
            text => changes::cursor(text).map(Start::After).ok_or(invalid),
        }
    };
    let last = call.headers.get(LAST_EVENT_ID).filter(|id| !id.is_empty());
    match (last, call.parameter("after")) {
        (Some(id), _) => token("Last-Event-ID", id.to_str().unwrap_or_default()),
        (None, Some(text)) => token("after", &text),
        (None, None) => Ok(Start::Now),
    }
}

fn id<T>(
    call: &Call<'_>,
    name: &str,
    new: impl Fn(Box<str>) -> Result<T, shared::ids::InvalidId>,
) -> Result<Option<T>, Error> {
    Ok(call.parameter(name).map(|text| new(text.into())).transpose()?)
}

/// Whether JSON is accepted and a stream is not; of both, the one that is named first.
fn wants_json(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    let types = values.flat_map(|value| value.split(',')).filter_map(|range| range.split(';').next());
    let known = types.map(|essence| essence.trim().to_ascii_lowercase());
    let mut known = known.filter(|essence| essence == "application/json" || essence == "text/event-stream");
    known.next().is_some_and(|essence| essence == "application/json")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_stream_is_the_rule_and_json_is_asked_for() {
        for (accept, json) in [
            ("application/json", true),
            ("Application/JSON;q=0.9", true),
            ("text/event-stream", false),
            ("text/event-stream, application/json", false),
            ("application/json, text/event-stream", true),
            ("*/*", false),
            ("text/html, application/json", true),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(wants_json(&headers), json, "{accept}");
        }
        assert!(!wants_json(&HeaderMap::new()));
    }
}
