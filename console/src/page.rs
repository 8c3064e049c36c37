//! The page: rendered here, whole, from a snapshot; the script puts a new main part in its place after each change and asks
//! before anything is done. Every text of a record, an error or a name is escaped by the templates.

mod dead;
mod held;
mod lags;
mod view;

use axum::response::Html;
use maud::{DOCTYPE, Markup, html};
use serde_json::Value;

use crate::{access::Caller, snapshot::Snapshot};

/// The whole page. `signs_in` says whether there are sessions, which can be ended.
pub(crate) fn document(snapshot: &Snapshot, caller: &Caller, signs_in: bool) -> Html<String> {
    let main = main_of(snapshot);
    let body = html! {
        body data-role=(caller.role.as_str()) {
            a.skip href="#main" { "To the content" }
            header {
                h1 { "Siteview console" }
                p { span #live role="status" { "connecting" } " · " (caller.name) ", " (caller.role.as_str()) }
                @if signs_in { button #sign-out type="button" { "Sign out" } }
            }
            main #main tabindex="-1" { (maud::PreEscaped(main)) }
            p #said role="status" aria-live="polite" {}
            (dialogs())
        }
    };
    whole(&body)
}

/// What a browser without a session is shown.
pub(crate) fn sign_in() -> (axum::http::StatusCode, Html<String>) {
    let body = html! {
        body {
            header { h1 { "Siteview console" } }
            main #main {
                form #sign-in {
                    label for="token" { "Token" }
                    input #token name="token" type="password" autocomplete="current-password" required autofocus;
                    button type="submit" { "Sign in" }
                    p #refused role="alert" {}
                }
            }
        }
    };
    (axum::http::StatusCode::UNAUTHORIZED, whole(&body))
}

fn whole(body: &Markup) -> Html<String> {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Siteview console" }
                link rel="stylesheet" href="/assets/console.css";
                script src="/assets/console.js" defer {}
                script src="/assets/letters.js" defer {}
            }
            (body)
        }
    };
    Html(page.into_string())
}

/// The part that changes; made once for each snapshot, whoever looks.
pub(crate) fn main_of(snapshot: &Snapshot) -> &str {
    let make = || {
        let page = html! {
            @if let Some(error) = &snapshot.error { p.alert role="alert" { "Kafka does not tell how things stand: " (error) } }
            @else if !snapshot.complete { p.alert { "Still reading; what is shown is not all yet." } }
            @for limit in &snapshot.beyond_limits { p.alert { "Not all is shown: " (limit) } }
            (summary(snapshot))
            (held::section(snapshot))
            (held::parked(snapshot))
            (dead::letters(snapshot))
            (dead::redrives(snapshot))
            (lags::groups(snapshot))
            (lags::retries(snapshot))
            (lags::transactions(snapshot))
            (view::generations(snapshot))
            (view::replicas(snapshot))
            (lags::services(snapshot))
            (held::audits(snapshot))
        };
        page.into_string()
    };
    snapshot.page.get_or_init(make)
}

fn summary(snapshot: &Snapshot) -> Markup {
    let blocked = snapshot.held.iter().filter(|held| held.state.waits_for_operator()).count();
    let parked: usize = snapshot.held.iter().map(|held| held.state.parked.len()).sum();
    let dead: u64 = snapshot.dead_letters.iter().map(|of| of.letters.saturating_sub(of.redriven)).sum();
    let lag: i64 = snapshot.groups.iter().map(|group| group.lag_records).sum();
    let all = [
        ("blocked", "#blocked", blocked as i64, true),
        ("parked keys", "#parked", parked as i64, true),
        ("dead letters left", "#dead-letters", i64::try_from(dead).unwrap_or(i64::MAX), true),
        ("records behind", "#groups", lag, false),
    ];
    html! {
        nav aria-label="Summary" {
            @for (what, link, count, is_bad) in all {
                a href=(link) .bad[is_bad && count > 0] { strong { (count) } " " (what) }
            }
        }
    }
}

/// A table whose cells say their column on narrow screens.
fn table(caption: &str, columns: &[&str], rows: &[Vec<Markup>]) -> Markup {
    html! {
        div.scrolls tabindex="0" role="region" aria-label=(caption) {
            table {
                caption { (caption) }
                thead { tr { @for column in columns { th scope="col" { (column) } } } }
                tbody {
                    @for row in rows {
                        tr { @for (column, cell) in columns.iter().zip(row) { td data-label=(column) { (cell) } } }
                    }
                }
            }
        }
    }
}

/// So many of something, in words.
fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A moment, as people say it; the script makes it relative.
fn moment(rfc3339: &str) -> Markup {
    html! { time datetime=(rfc3339) { (rfc3339) } }
}

/// A button that asks for a reason and for the name of what is hit, and then sends `body`.
struct Action<'a> {
    id: String,
    label: &'a str,
    /// In words: what is hit and what happens.
    says: String,
    /// The role it wants: a class of the button.
    role: &'a str,
    url: String,
    body: Value,
    /// What is typed to confirm.
    confirm: String,
    /// Asks for a rate, and offers to count first.
    is_redrive: bool,
}

impl Action<'_> {
    fn button(&self) -> Markup {
        html! {
            button type="button" id=(self.id) class=(format!("does {}", self.role)) data-says=(self.says) data-url=(self.url)
                data-body=(self.body.to_string()) data-confirm=(self.confirm) data-redrive[self.is_redrive] { (self.label) }
        }
    }
}

/// A button that shows a record.
fn record_button(topic: &str, partition: i32, offset: i64) -> Markup {
    let path = format!("/v1/records/{topic}/{partition}/{offset}");
    html! {
        button type="button" id=(format!("record-{topic}-{partition}-{offset}")) .shows data-url=(path) { "Record" }
    }
}

fn dialogs() -> Markup {
    html! {
        dialog #confirm aria-labelledby="confirm-says" {
            form method="dialog" {
                h2 #confirm-says {}
                p #rate-row hidden {
                    label for="rate" { "Records per second" }
                    input #rate type="number" min="1" max="100000" value="100";
                    button #count type="button" { "Count first" }
                    output #counted {}
                }
                label for="reason" { "Why (stands in the audit)" }
                input #reason required maxlength="500" autocomplete="off";
                label for="named" { "Type " code #expected {} " to confirm" }
                input #named required autocomplete="off" spellcheck="false";
                p #refusal role="alert" {}
                div.buttons {
                    button #do type="submit" { "Do it" }
                    button #cancel type="button" { "Cancel" }
                }
            }
        }
        dialog #letters aria-labelledby="letters-says" {
            h2 #letters-says {}
            p #letters-note role="status" {}
            ul #letters-list {}
            div.buttons {
                button #letters-more type="button" { "More" }
                button #letters-redrive type="button" .does .operate { "Redrive chosen" }
                button #letters-close type="button" { "Close" }
            }
        }
        dialog #edit aria-labelledby="edit-says" {
            form method="dialog" {
                h2 #edit-says {}
                p #edit-note {}
                label for="edit-key" { "Key" }
                input #edit-key autocomplete="off" spellcheck="false";
                label for="edit-value" { "Value" }
                textarea #edit-value rows="10" spellcheck="false" {}
                label for="edit-headers" { "Headers, one a line: " code { "name: value" } }
                textarea #edit-headers rows="4" spellcheck="false" {}
                p #edit-refusal role="alert" {}
                div.buttons {
                    button #edit-go type="submit" { "Redrive as edited" }
                    button #edit-cancel type="button" { "Cancel" }
                }
            }
        }
        dialog #record aria-labelledby="record-title" {
            h2 #record-title { "Record" }
            pre #record-text tabindex="0" {}
            div.buttons { button #record-close type="button" { "Close" } }
        }
    }
}
