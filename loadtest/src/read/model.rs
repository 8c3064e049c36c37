//! What the servers hold and must answer: the dataset's table as requests and expected bodies.
//!
//! Of every answer the status is judged, and the length where it is known beforehand; of a share of them every byte. Bodies
//! are made anew when they are compared: held ready, they would be hundreds of megabytes.

use std::collections::HashMap;
use std::io::Write;

use super::mix::Ask;
use crate::dataset::{APPS, App, Site, app_id, details_text, document_text, instance_id, site_id};

/// Rows of the first page, as the API has it without a `limit`.
const PAGE_ROWS: usize = 100;

/// The table, ready to be asked for.
#[derive(Debug)]
pub(super) struct Model {
    sites: Vec<Site>,
    ids: Vec<String>,
    document_bytes: Vec<u32>,
    /// Of the document of each site, without quotes, as the view has them.
    etags: Vec<String>,
    /// By rank: sites and instances in the order of the API.
    pages: Vec<Vec<(String, String)>>,
    /// Later states of sites that a backlog changes, by site and version.
    later: HashMap<(u64, i64), Site>,
    host: String,
}

/// What an answer turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Right,
    /// A server may say that it can't (5xx); that is an error and not a wrong answer.
    Refused,
    Wrong(String),
}

impl Model {
    /// Of these sites, in the order of their numbers, with the tags that the view has given their documents.
    pub(super) fn new(sites: Vec<Site>, mut etags: HashMap<String, String>) -> Self {
        let ids: Vec<String> = sites.iter().map(|site| site_id(site.number)).collect();
        let mut pages = vec![Vec::new(); APPS as usize];
        for site in &sites {
            for app in &site.apps {
                let row = (ids[site.number as usize].clone(), instance_id(site.number, app.installation));
                pages[usize::from(app.rank)].push(row);
            }
        }
        pages.iter_mut().for_each(|page: &mut Vec<_>| page.sort_unstable());
        Self {
            document_bytes: sites.iter().map(|site| document_text(site).len() as u32).collect(),
            etags: ids.iter().map(|id| etags.remove(id).unwrap_or_default()).collect(),
            ids,
            pages,
            sites,
            later: HashMap::new(),
            host: "127.0.0.1".to_owned(),
        }
    }

    /// A state that a site will have later; from then on any state of it is right.
    pub(super) fn expect_later(&mut self, site: &Site) {
        self.later.insert((site.number, site.apps_version), site.clone());
    }

    /// A site as it is at first.
    #[cfg(test)]
    pub(super) fn site(&self, number: u64) -> &Site {
        &self.sites[number as usize]
    }

    /// Bytes of all documents.
    pub(super) fn documents_bytes(&self) -> u64 {
        self.document_bytes.iter().map(|bytes| u64::from(*bytes)).sum()
    }

    /// Appends the request's bytes.
    pub(super) fn write(&self, ask: &Ask, out: &mut Vec<u8>) {
        let end = |out: &mut Vec<u8>, more: &str| {
            let host = &self.host;
            put(out, format_args!(" HTTP/1.1\r\nhost: {host}\r\nuser-agent: loadtest\r\naccept: */*\r\n{more}\r\n"));
        };
        match ask {
            Ask::Site { site, knows_tag } => {
                put(out, format_args!("GET /v1/sites/{}/installed-apps", self.id(*site)));
                match self.etags.get(*site as usize).filter(|_| *knows_tag) {
                    Some(etag) => end(out, &format!("if-none-match: \"{etag}\"\r\n")),
                    None => end(out, ""),
                }
            }
            Ask::Batch(sites) => {
                let ids: Vec<String> = sites.iter().map(|site| format!("\"{}\"", self.id(*site))).collect();
                let body = format!("{{\"site_ids\":[{}]}}", ids.join(","));
                put(out, format_args!("POST /v1/installed-apps/batch-get"));
                end(out, &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()));
                out.extend_from_slice(body.as_bytes());
            }
            Ask::Sites(rank) => {
                put(out, format_args!("GET /v1/apps/{}/sites", app_id(*rank)));
                end(out, "");
            }
            Ask::Count(rank) => {
                put(out, format_args!("GET /v1/apps/{}", app_id(*rank)));
                end(out, "");
            }
            Ask::Instance { site, place } => {
                let installation = self.installed(*site, *place).map_or(0, |app| app.installation);
                put(out, format_args!("GET /v1/instances/{}", instance_id(*site, installation)));
                end(out, "");
            }
        }
    }

    /// Judges an answer; by every byte of its body when `closely`.
    pub(super) fn judge(&self, ask: &Ask, status: u16, body: &[u8], closely: bool) -> Verdict {
        if status >= 500 {
            return Verdict::Refused;
        }
        let wrong = |what: &str| {
            let body = String::from_utf8_lossy(&body[..body.len().min(300)]);
            Verdict::Wrong(format!("{ask:?}: {what}; status {status}, body {body}"))
        };
        if !self.may_have_status(ask, status) {
            return wrong("another status was expected");
        }
        if status == 304 || status == 404 {
            return Verdict::Right;
        }
        if let Ask::Site { site, .. } = ask
            && self.later.is_empty()
            && body.len() != self.document_bytes[*site as usize] as usize
        {
            return wrong("the document has another length");
        }
        match closely && !self.is_body(ask, body) {
            true => wrong("the body is not the model's"),
            false => Verdict::Right,
        }
    }

    fn may_have_status(&self, ask: &Ask, status: u16) -> bool {
        match ask {
            Ask::Site { site, .. } if !self.has(*site) => status == 404,
            // A backlog may have changed the document, and its tag, since.
            Ask::Site { knows_tag: true, .. } => status == 304 || (status == 200 && !self.later.is_empty()),
            Ask::Instance { site, place } if self.installed(*site, *place).is_none() => status == 404,
            _ => status == 200,
        }
    }

    fn is_body(&self, ask: &Ask, body: &[u8]) -> bool {
        match ask {
            Ask::Site { site, .. } => self.is_document(*site, body),
            Ask::Batch(sites) => self.batch(sites) == body,
            Ask::Sites(rank) => self.is_first_page(*rank, body),
            Ask::Count(rank) => {
                let count = self.page(*rank).len();
                format!("{{\"app_id\":\"{}\",\"site_count\":{count}}}", app_id(*rank)).as_bytes() == body
            }
            Ask::Instance { site, place } => self.instance(*site, *place).as_bytes() == body,
        }
    }

    /// Whether this is the document of the site at the version that it says it has.
    fn is_document(&self, site: u64, body: &[u8]) -> bool {
        let first = &self.sites[site as usize];
        if self.later.is_empty() {
            return document_text(first).as_bytes() == body;
        }
        let Some(version) = version(body) else { return false };
        let state = if version == first.apps_version { Some(first) } else { self.later.get(&(site, version)) };
        state.is_some_and(|state| document_text(state).as_bytes() == body)
    }

    fn batch(&self, sites: &[u64]) -> Vec<u8> {
        let one = |site: &u64| match self.sites.get(*site as usize) {
            Some(state) => {
                format!("{{\"site_id\":\"{}\",\"status\":200,\"document\":{}}}", self.id(*site), document_text(state))
            }
            None => format!("{{\"site_id\":\"{}\",\"status\":404}}", self.id(*site)),
        };
        let results: Vec<String> = sites.iter().map(one).collect();
        format!("{{\"results\":[{}]}}", results.join(",")).into_bytes()
    }

    /// The rows byte for byte; what the token of the next page looks like is the server's business.
    fn is_first_page(&self, rank: u16, body: &[u8]) -> bool {
        let rows = self.page(rank);
        let row =
            |(site, instance): &(String, String)| format!("{{\"site_id\":\"{site}\",\"instance_id\":\"{instance}\"}}");
        let texts: Vec<String> = rows.iter().take(PAGE_ROWS).map(row).collect();
        let start = format!("{{\"app_id\":\"{}\",\"sites\":[{}],\"next\":", app_id(rank), texts.join(","));
        match body.strip_prefix(start.as_bytes()) {
            Some(b"null}") => rows.len() <= PAGE_ROWS,
            Some(rest) => rows.len() > PAGE_ROWS && rest.starts_with(b"\"") && rest.ends_with(b"\"}"),
            None => false,
        }
    }

    fn instance(&self, site: u64, place: u8) -> String {
        self.installed(site, place).map_or_else(String::new, |app| {
            let (instance, app_id, site) = (instance_id(site, app.installation), app_id(app.rank), self.id(site));
            let details = details_text(app);
            format!("{{\"instance_id\":\"{instance}\",\"app_id\":\"{app_id}\",\"site_id\":\"{site}\",{details}}}")
        })
    }

    fn has(&self, site: u64) -> bool {
        (site as usize) < self.sites.len()
    }

    fn id(&self, site: u64) -> std::borrow::Cow<'_, str> {
        self.ids.get(site as usize).map_or_else(|| site_id(site).into(), |id| id.as_str().into())
    }

    fn installed(&self, site: u64, place: u8) -> Option<App> {
        let apps = &self.sites.get(site as usize)?.apps;
        apps.get(usize::from(place) % apps.len().max(1)).copied()
    }

    fn page(&self, rank: u16) -> &[(String, String)] {
        self.pages.get(usize::from(rank)).map_or(&[], Vec::as_slice)
    }
}

/// The version that a document tells: its second member.
fn version(document: &[u8]) -> Option<i64> {
    const MEMBER: &[u8] = b",\"version\":";
    let at = document.windows(MEMBER.len()).position(|window| window == MEMBER)? + MEMBER.len();
    let digits = document[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&document[at..at + digits]).ok()?.parse().ok()
}

fn put(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("memory takes every byte");
}

#[cfg(test)]
#[path = "model/tests.rs"]
mod tests;
