//! Groups and their lag, retry topics, open transactions, services.

use maud::{Markup, html};
use messaging::blocking::Verb;
use serde_json::json;

use super::{Action, counted, moment, table};
use crate::{
    lag::Cause,
    snapshot::{Group, PartitionLag, Service, Snapshot},
};

pub(super) fn groups(snapshot: &Snapshot) -> Markup {
    let mut all: Vec<&Group> = snapshot.groups.iter().collect();
    all.sort_by(|a, b| b.cause.cmp(&a.cause).then(b.lag_records.cmp(&a.lag_records)).then(a.name.cmp(&b.name)));
    let rows: Vec<Vec<Markup>> = all
        .iter()
        .map(|group| {
            let behind = group.partitions.iter().filter(|of| of.cause != Cause::CaughtUp);
            vec![
                html! { strong { (group.name) } br; small { (group.state) ", " (counted(group.members.len() as u64, "member")) } },
                html! { (group.lag_records) },
                group.next_record_at.as_deref().map_or_else(|| html! {}, moment),
                html! { span.cause .bad[group.cause >= Cause::NoMember] { (group.cause.words()) } },
                html! { ul { @for of in behind { li { (partition(group, of)) } } } },
            ]
        })
        .collect();
    let columns = ["Group", "Records behind", "Oldest waiting", "Cause", "Partitions behind"];
    html! {
        section #groups aria-labelledby="groups-title" {
            h2 #groups-title { "Consumer groups" }
            @if rows.is_empty() { p { "The brokers know no group." } }
            @else { (table("Groups, what is worst first", &columns, &rows)) }
        }
    }
}

fn partition(group: &Group, of: &PartitionLag) -> Markup {
    let pause = Action {
        id: format!("pause-{}-{}-{}", group.name, of.topic, of.partition),
        label: "Pause",
        says: format!("Pause: {}, partition {}, of {}. Nothing more is begun.", of.topic, of.partition, group.name),
        role: "operate",
        url: "/v1/commands".to_owned(),
        body: json!({"group": group.name, "verb": Verb::Pause, "topic": of.topic, "partition": of.partition}),
        confirm: of.partition.to_string(),
        is_redrive: false,
    };
    html! {
        (of.topic) "-" (of.partition) ": " (of.lag_records) ", " (of.cause.words())
        @if let Some(at) = &of.next_record_at { ", next record of " (moment(at)) }
        @if let Some(why) = of.lag_seconds_unknown { ", age unknown: " (why.words()) }
        @if let Some(since) = &of.unmoved_since { ", offset unmoved since " (moment(since)) }
        @if group.takes_commands && ![Cause::Paused, Cause::Blocked].contains(&of.cause) { " " (pause.button()) }
    }
}

pub(super) fn retries(snapshot: &Snapshot) -> Markup {
    let rows: Vec<Vec<Markup>> = snapshot
        .retry_topics
        .iter()
        .map(|of| {
            vec![
                html! { (of.topic) },
                html! { (of.group) },
                html! { (of.source_topic) },
                html! { (of.number) },
                html! { (of.waiting_records) },
                of.next_due_at.as_deref().map_or_else(|| html! {}, moment),
            ]
        })
        .collect();
    let columns = ["Topic", "Group", "Of topic", "Number", "Waiting", "Next due"];
    html! {
        section #retries aria-labelledby="retries-title" {
            h2 #retries-title { "Retry topics" }
            @if rows.is_empty() { p { "None." } }
            @else { (table("Records that wait for their next attempt", &columns, &rows)) }
        }
    }
}

pub(super) fn transactions(snapshot: &Snapshot) -> Markup {
    let rows: Vec<Vec<Markup>> = snapshot
        .open_transactions
        .iter()
        .map(|of| {
            vec![
                html! { (of.topic) "-" (of.partition) },
                html! { (of.last_stable_offset) },
                html! { (of.high_watermark) },
                html! { (of.high_watermark - of.last_stable_offset) },
                moment(&of.since),
            ]
        })
        .collect();
    let columns = ["Partition", "Last stable offset", "High watermark", "Held back", "Since"];
    html! {
        section #transactions aria-labelledby="transactions-title" {
            h2 #transactions-title { "Open transactions" }
            @if rows.is_empty() { p.well { "No reader of committed records is held back." } }
            @else { (table("Partitions whose end is not visible to readers of committed records", &columns, &rows)) }
        }
    }
}

pub(super) fn services(snapshot: &Snapshot) -> Markup {
    html! {
        section #services aria-labelledby="services-title" {
            h2 #services-title { "Services" }
            @if snapshot.services.is_empty() { p { "The console was told about none (" code { "--service name=url" } ")." } }
            @for service in &snapshot.services { (one_service(service)) }
        }
    }
}

fn one_service(service: &Service) -> Markup {
    let state = match service.ready {
        Some(true) => "ready",
        Some(false) => "not ready",
        None => "no answer",
    };
    html! {
        article .bad[service.ready != Some(true)] {
            h3 { (service.name) " " small { (state) } }
            @for detail in &service.detail { p.error { (detail) } }
            @if !service.metrics.is_empty() {
                dl { @for (name, value) in &service.metrics { dt { (name) } dd { (value) } } }
            }
        }
    }
}
