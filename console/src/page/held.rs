//! What stands, what is parked, what happened.

use maud::{Markup, html};
use messaging::blocking::{Mode, Stuck, Verb, WaitsFor};
use serde_json::json;

use super::{Action, counted, moment, record_button, table};
use crate::snapshot::{Held, Snapshot};

pub(super) fn section(snapshot: &Snapshot) -> Markup {
    let holds = |held: &&Held| {
        let state = &held.state;
        !state.blocked.is_empty() || state.paused || state.mode != Mode::Blocking || state.out_of_range.is_some()
    };
    let mut held: Vec<&Held> = snapshot.held.iter().filter(holds).collect();
    // What waits for a person comes first.
    held.sort_by_key(|held| !held.state.waits_for_operator());
    html! {
        section #blocked aria-labelledby="blocked-title" {
            h2 #blocked-title { "Blocked partitions" }
            @if held.is_empty() { p.well { "No partition stands." } }
            @for held in held { (article(held)) }
        }
    }
}

fn article(held: &Held) -> Markup {
    let state = &held.state;
    html! {
        article.held .bad[state.waits_for_operator()] {
            h3 { (state.topic) "-" (state.partition) " " small { "of " (held.group) } }
            @if let Some(outside) = &state.out_of_range {
                p { "The group's offset " strong { (outside.committed) } " is not in the log, which held " (outside.low) " to "
                    (outside.high) " then, since " (moment(&outside.since)) ": nothing is consumed until somebody resets it ("
                    code { "kafka-consumer-groups.sh --reset-offsets" } ")." }
            }
            @for (offset, stuck) in &state.blocked { (stuck_record(held, *offset, stuck)) }
            @if let Mode::IgnoringAll { from } = state.mode {
                p { "Whatever fails from offset " (from) " on goes to the dead letters. "
                    (command(held, Verb::Unblock, Some(from), "End ignoring", "operate", "Failures block again")) }
            }
            @if state.paused {
                p { "Paused: nothing is begun. " (command(held, Verb::Resume, None, "Resume", "operate", "Goes on")) }
            } @else if state.out_of_range.is_none() {
                p { (command(held, Verb::Pause, None, "Pause", "operate", "Nothing more is begun")) }
            }
        }
    }
}

fn stuck_record(held: &Held, offset: i64, stuck: &Stuck) -> Markup {
    let waits = match stuck.waits_for {
        WaitsFor::Operator => "stands until somebody decides",
        WaitsFor::Retry => "is tried again by itself",
    };
    let key = stuck.key.as_deref().unwrap_or("none");
    html! {
        p { "Offset " strong { (offset) } ", key " code { (key) } ", since " (moment(&stuck.since)) ", after "
            (counted(stuck.attempts.into(), "attempt")) ": " (waits)
            @if let Some(next) = &stuck.next_attempt { ", due " (moment(&next.at)) } "." }
        p.error { strong { (stuck.class) } ": " (stuck.error) }
        p.buttons {
            (record_button(&held.state.topic, held.state.partition, offset))
            (command(held, Verb::Unblock, Some(offset), "Try again", "operate", "The record is tried again at once"))
            @if stuck.waits_for == WaitsFor::Operator || !held.state.blocked.is_empty() {
                (command(held, Verb::Skip, Some(offset), "Skip once", "operate", "This record goes to the dead letters"))
                (command(held, Verb::Ignore, Some(offset), "Ignore from here", "admin",
                    "This record and whatever fails behind it in its partition go to the dead letters"))
            }
        }
    }
}

pub(super) fn parked(snapshot: &Snapshot) -> Markup {
    let mut rows = Vec::new();
    for held in &snapshot.held {
        for (offset, stuck) in &held.state.parked {
            let place =
                html! { (held.state.topic) "-" (held.state.partition) " @ " (offset) br; small { (held.group) } };
            let error = html! { strong { (stuck.class) } ": " (stuck.error) };
            let does = html! {
                (record_button(&held.state.topic, held.state.partition, *offset))
                (command(held, Verb::Unpark, Some(*offset), "Unpark", "operate", "The record is tried again, and then those of its key behind it"))
                (command(held, Verb::Skip, Some(*offset), "Skip once", "operate", "This record goes to the dead letters; its key goes on"))
            };
            let key = html! { code { (stuck.key.as_deref().unwrap_or("none")) } };
            rows.push(vec![key, place, moment(&stuck.since), error, does]);
        }
    }
    html! {
        section #parked aria-labelledby="parked-title" {
            h2 #parked-title { "Parked keys" }
            @if rows.is_empty() { p.well { "No key waits." } }
            @else { (table("Keys that wait while others go on", &["Key", "First record", "Since", "Error", "Do"], &rows)) }
        }
    }
}

pub(super) fn audits(snapshot: &Snapshot) -> Markup {
    let rows: Vec<Vec<Markup>> = snapshot
        .audits
        .iter()
        .take(50)
        .map(|row| {
            let audited = &row.audited;
            let who = audited.command.as_ref().map(|command| {
                let verb = format!("{:?}", command.verb).to_lowercase();
                html! { (verb) " by " (command.by) ": " (command.reason) }
            });
            vec![
                moment(&audited.at),
                html! { (audited.event) },
                html! { (audited.topic) "-" (audited.partition) " @ " (audited.offset) br; small { (row.group) } },
                html! { (who.unwrap_or_default()) " " (audited.detail) },
            ]
        })
        .collect();
    html! {
        section #audit aria-labelledby="audit-title" {
            h2 #audit-title { "What happened" }
            @if rows.is_empty() { p { "Nothing yet." } }
            @else { (table("The last events of all groups", &["When", "What", "Where", "Who and why"], &rows)) }
        }
    }
}

fn command(held: &Held, verb: Verb, offset: Option<i64>, label: &str, role: &str, effect: &str) -> Markup {
    let (group, topic, partition) = (&held.group, &held.state.topic, held.state.partition);
    let place = offset.map_or_else(|| partition.to_string(), |offset| format!("{partition}@{offset}"));
    let key = offset.and_then(|offset| held.state.blocked.get(&offset).or_else(|| held.state.parked.get(&offset)));
    let key = key.and_then(|stuck| stuck.key.as_deref()).map(|key| format!(", key {key}")).unwrap_or_default();
    let action = Action {
        id: format!("{verb:?}-{topic}-{place}").to_lowercase(),
        label,
        says: match offset {
            Some(offset) => format!("{label}: {topic}, partition {partition}, offset {offset}{key}. {effect}."),
            None => format!("{label}: {topic}, partition {partition}. {effect}."),
        },
        role,
        url: "/v1/commands".to_owned(),
        body: json!({"group": group, "verb": verb, "topic": topic, "partition": partition, "offset": offset}),
        confirm: place,
        is_redrive: false,
    };
    action.button()
}
