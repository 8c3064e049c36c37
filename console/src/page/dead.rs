//! Dead letters by kind, and redrives.

use maud::{Markup, html};
use serde_json::json;

use super::{Action, counted, moment, record_button, table};
use crate::{
    redrive::RedriveState,
    snapshot::{DeadLetters, Kind, RedriveRow, Snapshot},
};

pub(super) fn letters(snapshot: &Snapshot) -> Markup {
    html! {
        section #dead-letters aria-labelledby="dead-letters-title" {
            h2 #dead-letters-title { "Dead letters" }
            @if snapshot.dead_letters.is_empty() { p.well { "There is no dead-letter topic." } }
            @for topic in &snapshot.dead_letters { (of_topic(topic)) }
        }
    }
}

fn of_topic(topic: &DeadLetters) -> Markup {
    let columns = ["Kind", "Error", "Letters", "Given back", "First", "Last", "Do"];
    let rows: Vec<Vec<Markup>> = topic.kinds.iter().map(|kind| row(topic, kind)).collect();
    html! {
        article {
            h3 { (topic.topic) }
            p { (counted(topic.letters, "letter")) ", " (topic.redriven) " of them given back."
                @if topic.unread > 0 { " " (topic.unread) " older offsets are not looked at." }
                @if topic.foreign > 0 { " " (topic.foreign) " records are no letters of this topic." } }
            @if !rows.is_empty() { (table(&format!("Kinds of dead letters in {}", topic.topic), &columns, &rows)) }
        }
    }
}

fn row(topic: &DeadLetters, kind: &Kind) -> Vec<Markup> {
    let (partition, offset) = kind.last_letter;
    let all = Action {
        id: format!("redrive-{}-{}", topic.topic, kind.fingerprint),
        label: "Redrive all",
        says: format!(
            "Redrive all {} letters of kind {} ({}: {}) of {} to their source topic. Every group of that topic sees them again.",
            kind.letters, kind.fingerprint, kind.reason, kind.pattern, topic.topic
        ),
        role: "operate",
        url: "/v1/redrives".to_owned(),
        body: json!({"topic": topic.topic, "fingerprint": kind.fingerprint}),
        confirm: kind.fingerprint.to_string(),
        is_redrive: true,
    };
    let all_button = all.button();
    let one = Action {
        id: format!("redrive-{}-{partition}-{offset}", topic.topic),
        label: "Redrive last",
        says: format!(
            "Redrive one letter of {}: partition {partition}, offset {offset}, to its source topic.",
            topic.topic
        ),
        body: json!({"topic": topic.topic, "partition": partition, "offset": offset}),
        confirm: format!("{partition}@{offset}"),
        ..all
    };
    let returned = (kind.returned > 0).then(|| html! { br; small { (kind.returned) " had come back before" } });
    vec![
        html! { code { (kind.fingerprint) } },
        html! { strong { (kind.reason) } ": " (kind.pattern) },
        html! { (kind.letters) (returned.unwrap_or_default()) },
        html! { (kind.redriven) },
        moment(&kind.first_at),
        moment(&kind.last_at),
        html! {
            (record_button(&topic.topic, partition, offset)) (letters_button(&topic.topic, kind)) (one.button())
            (edit_button(&topic.topic, partition, offset)) (all_button)
        },
    ]
}

/// A button that lists the letters of a kind, to be chosen from.
fn letters_button(topic: &str, kind: &Kind) -> Markup {
    html! {
        button type="button" .lists id=(format!("letters-{topic}-{}", kind.fingerprint)) data-topic=(topic)
            data-fingerprint=(kind.fingerprint) { "Letters" }
    }
}

/// A button that opens the letter to be edited.
fn edit_button(topic: &str, partition: i32, offset: i64) -> Markup {
    let path = format!("/v1/dead-letters/{topic}/{partition}/{offset}");
    html! {
        button type="button" .edits .admin id=(format!("edit-{topic}-{partition}-{offset}")) data-url=(path) data-topic=(topic)
            data-partition=(partition) data-offset=(offset) { "Edit last" }
    }
}

pub(super) fn redrives(snapshot: &Snapshot) -> Markup {
    let columns = ["Redrive", "Of", "State", "Moved", "Not moved", "Begun", "Do"];
    let rows: Vec<Vec<Markup>> = snapshot.redrives.iter().map(redrive).collect();
    html! {
        section #redrives aria-labelledby="redrives-title" {
            h2 #redrives-title { "Redrives" }
            @if rows.is_empty() { p { "None yet." } }
            @else { (table("Redrives, the newest first", &columns, &rows)) }
        }
    }
}

fn redrive(row: &RedriveRow) -> Vec<Markup> {
    let (redrive, counts) = (&row.redrive, row.redrive.counts);
    let what = redrive.selection.confirmation();
    let action = |verb: &'static str, label: &'static str| Action {
        id: format!("{verb}-{}", redrive.id),
        label,
        says: format!("{label} the redrive of {what} of {}.", redrive.dead_letter_topic),
        role: "operate",
        url: format!("/v1/redrives/{}/{verb}", redrive.id),
        body: json!({}),
        confirm: what.clone(),
        is_redrive: false,
    };
    let (state, does) = match redrive.state {
        RedriveState::Done => ("done", html! {}),
        _ if row.works_here => ("running", action("stop", "Stop").button()),
        RedriveState::Stopped => ("stopped", action("continue", "Continue").button()),
        RedriveState::Running => {
            let both = html! { (action("continue", "Continue").button()) " " (action("stop", "Stop").button()) };
            ("not worked on here", both)
        }
    };
    let edited: Vec<String> = redrive.edited.iter().map(|part| format!("{part:?}").to_lowercase()).collect();
    let edited = edited.join(", ");
    let difference = html! {
        button type="button" .shows id=(format!("difference-{}", redrive.id))
            data-url=(format!("/v1/redrives/{}/difference", redrive.id)) { "Difference" }
    };
    let (read, end): (i64, i64) = (redrive.next.values().sum(), redrive.ends.values().sum());
    vec![
        html! { small { (redrive.id) } br; (redrive.by) ": " (redrive.reason) },
        html! {
            code { (what) } br; (redrive.dead_letter_topic)
            @if !redrive.edited.is_empty() { br; "edited: " (edited) " " (difference) }
        },
        html! { (state) @if let Some(failure) = &row.failure { br; span.error { (failure) } } },
        html! { strong { (counts.moved) } br; progress max=(end.max(1)) value=(read) aria-label="read" {} },
        html! { (counts.moved_before) " before, " (counts.guarded) " too often, " (counts.without_value) " without value" },
        moment(&redrive.begun_at),
        does,
    ]
}
