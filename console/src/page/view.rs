//! Generations of the view, and replicas.

use maud::{Markup, html};

use super::table;
use crate::{
    snapshot::Snapshot,
    view::{Generation, Replica},
};

pub(super) fn generations(snapshot: &Snapshot) -> Markup {
    let rows: Vec<Vec<Markup>> = snapshot.generations.iter().map(generation).collect();
    let columns = ["Generation", "State", "Group", "Fed by", "Records behind", "Cause", "Told by"];
    html! {
        section #generations aria-labelledby="generations-title" {
            h2 #generations-title { "Generations" }
            @if rows.is_empty() { p { "No service tells of any (" code { "--service writer=url" } ")." } }
            @else { (table("Generations of the view, as writers see them", &columns, &rows)) }
        }
    }
}

fn generation(of: &Generation) -> Vec<Markup> {
    vec![
        html! { (of.generation) },
        html! { strong { (of.state) } },
        html! { (of.group) },
        html! { @if of.members == 0 { span.bad[of.state == "active"] { "nobody" } } @else { (of.members) } },
        html! { @if let Some(lag) = of.lag_records { (lag) } },
        html! { @if let Some(cause) = of.cause { (cause.words()) } },
        html! { (of.told_by.join(", ")) },
    ]
}

pub(super) fn replicas(snapshot: &Snapshot) -> Markup {
    let rows: Vec<Vec<Markup>> = snapshot.replicas.iter().map(replica).collect();
    let columns = ["Replica", "Reader", "State", "Generation", "Seconds behind"];
    html! {
        section #replicas aria-labelledby="replicas-title" {
            h2 #replicas-title { "Replicas" }
            @if rows.is_empty() { p { "No service tells of any (" code { "--service reader=url" } ")." } }
            @else { (table("Replicas, as readers see them", &columns, &rows)) }
        }
    }
}

fn replica(of: &Replica) -> Vec<Markup> {
    vec![
        html! { (of.replica) },
        html! { (of.reader) },
        html! { @if of.healthy { "can be asked" } @else { span.bad { "cannot be asked" } } },
        html! { @if let Some(generation) = of.generation { (generation) } },
        html! { @if let Some(lag) = of.lag_seconds { (format!("{lag:.1}")) @if !of.healthy { " when it was last seen" } } },
    ]
}
