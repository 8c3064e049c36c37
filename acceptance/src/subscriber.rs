//! A client of the change feed: a stream or a poll, which comes back with its last token whenever it is cut off.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::Response;
use serde_json::Value;
use tokio::task::JoinHandle;

/// Between two tries while no reader answers.
const PAUSE: Duration = Duration::from_millis(50);

/// Events of each site, in the order in which they were heard.
pub type Heard = BTreeMap<String, Vec<Value>>;

/// The readers that may be asked at the moment; who goes away is taken off.
#[derive(Debug, Clone, Default)]
pub struct Readers(Arc<Mutex<Vec<String>>>);

/// How it follows the feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Server-sent events.
    Stream,
    /// Long polls.
    Poll,
}

/// A running subscriber; it ends when it is dropped.
#[derive(Debug)]
pub struct Subscriber {
    told: Arc<Mutex<Told>>,
    task: JoinHandle<()>,
}

/// What a subscriber was told so far.
#[derive(Debug, Default, Clone)]
pub struct Told {
    /// The changes.
    pub heard: Heard,
    /// How many they are.
    pub count: usize,
    /// Reasons of gaps.
    pub gaps: Vec<String>,
    /// Farewells of readers that stop.
    pub closings: usize,
    /// Times that it was cut off.
    pub cuts: usize,
    /// What should never be answered.
    pub surprises: Vec<String>,
    token: Option<String>,
}

impl Readers {
    /// Adds a reader.
    pub fn add(&self, url: &str) {
        lock(&self.0).push(url.to_owned());
    }

    /// Takes a reader off.
    pub fn remove(&self, url: &str) {
        lock(&self.0).retain(|known| known != url);
    }

    fn pick(&self, turn: usize) -> Option<String> {
        let known = lock(&self.0);
        known.get(turn % known.len().max(1)).cloned()
    }
}

impl Subscriber {
    /// Follows from the oldest change on, with these further parameters of the query (`&app_id=…`).
    pub fn start(number: usize, readers: &Readers, by: By, query: &str) -> Self {
        let told = Arc::new(Mutex::new(Told::default()));
        let (readers, query, shared) = (readers.clone(), query.to_owned(), Arc::clone(&told));
        let task = tokio::spawn(async move {
            let http = reqwest::Client::new();
            for turn in number.. {
                let Some(reader) = readers.pick(turn) else {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                };
                let cut = follow(&http, &reader, by, &query, &shared).await;
                lock(&shared).cut_off(cut);
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self { told, task }
    }

    /// What it was told so far.
    pub fn told(&self) -> Told {
        lock(&self.told).clone()
    }

    /// How many changes it was told so far.
    pub fn count(&self) -> usize {
        lock(&self.told).count
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Told {
    fn cut_off(&mut self, cut: Result<()>) {
        self.cuts += 1;
        self.surprises.extend(cut.err().map(|surprise| format!("{surprise:#}")));
    }

    fn hear(&mut self, event: Value) {
        self.count += 1;
        self.heard.entry(event["site_id"].as_str().unwrap_or_default().to_owned()).or_default().push(event);
    }
}

/// Asks until it is cut off; an error is an answer that should not be.
async fn follow(http: &reqwest::Client, reader: &str, by: By, query: &str, told: &Mutex<Told>) -> Result<()> {
    loop {
        let token = lock(told).token.clone();
        let after =
            if by == By::Stream && token.is_some() { "earliest" } else { token.as_deref().unwrap_or("earliest") };
        let request = http.get(format!("{reader}/v1/changes?after={after}{query}"));
        let request = match (by, &token) {
            (By::Poll, _) => request.header("accept", "application/json").header("prefer", "wait=2"),
            (By::Stream, Some(token)) => request.header("last-event-id", token),
            (By::Stream, None) => request,
        };
        let Ok(answer) = request.send().await else { return Ok(()) };
        let status = answer.status();
        if status == 503 {
            return Ok(());
        }
        if status != 200 {
            let text = answer.text().await.unwrap_or_default();
            bail!("{status} after {token:?}: {text}");
        }
        match by {
            By::Stream => return listen(answer, told).await,
            By::Poll => {
                let Ok(text) = answer.text().await else { return Ok(()) };
                poll(&text, told)?;
            }
        }
    }
}

fn poll(text: &str, told: &Mutex<Told>) -> Result<()> {
    let body: Value = serde_json::from_str(text).with_context(|| text.to_owned())?;
    let mut told = lock(told);
    body["changes"].as_array().context("changes")?.iter().for_each(|event| told.hear(event.clone()));
    told.gaps.extend(body["gap"].as_str().map(str::to_owned));
    told.token = Some(body["next"].as_str().context("next")?.to_owned());
    Ok(())
}

async fn listen(mut answer: Response, told: &Mutex<Told>) -> Result<()> {
    let mut text: Vec<u8> = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        text.extend_from_slice(&chunk);
        while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = text.drain(..end + 2).collect();
            take(std::str::from_utf8(&event)?, told)?;
        }
    }
    Ok(())
}

/// One event as the standard of server-sent events reads it.
fn take(event: &str, told: &Mutex<Told>) -> Result<()> {
    let field = |name: &str| {
        let mut lines = event.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        lines.next()
    };
    let mut told = lock(told);
    if let Some(id) = field("id") {
        told.token = Some(id.to_owned());
    }
    let Some(data) = field("data") else { return Ok(()) };
    let data: Value = serde_json::from_str(data).with_context(|| event.to_owned())?;
    match field("event") {
        None => told.hear(data),
        Some("gap") => told.gaps.push(data["reason"].as_str().unwrap_or_default().to_owned()),
        Some("closing") => told.closings += 1,
        Some(other) => bail!("an event {other}"),
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
