//! An import of one contact, so that its services have something to measure.

use std::time::Duration;

use anyhow::{Context, Result};
use devstack::Endpoints;
use reqwest::{Client, Response};
use serde_json::Value;

/// From the upload to its end in the browser; far beyond what it takes.
const COMPLETED_MAX: Duration = Duration::from_secs(90);

/// Makes a channel, uploads a file, and hears of its end as a browser without websockets does.
pub async fn import_a_contact(endpoints: &Endpoints) -> Result<()> {
    let jobs = endpoints.jobs_url.as_deref().context("jobs")?;
    // The same address speaks HTTP.
    let notifier = endpoints.notifier_url.as_deref().context("notifier")?.replacen("ws://", "http://", 1);
    let http = Client::new();
    let made = http.post(format!("{notifier}/v1/channels")).send().await?.error_for_status()?;
    let made: Value = made.json().await?;
    let channel = made["channel_id"].as_str().context("channel_id")?;
    let upload = http.post(format!("{jobs}/v1/imports?channel_id={channel}&owner_id=ada"));
    let upload = upload.header("content-type", "text/csv").body("email,name\nada@example.org,Ada\n");
    upload.send().await?.error_for_status()?;
    let listen = http.get(format!("{notifier}/v1/channels/{channel}")).header("accept", "text/event-stream");
    let events = listen.send().await?.error_for_status()?;
    tokio::time::timeout(COMPLETED_MAX, until_completed(events)).await.context("the import does not end")?
}

async fn until_completed(mut events: Response) -> Result<()> {
    let mut heard = String::new();
    while !heard.contains("\"completed\"") {
        let chunk = events.chunk().await?.with_context(|| format!("the stream ended: {heard}"))?;
        heard.push_str(&String::from_utf8_lossy(&chunk));
    }
    Ok(())
}
