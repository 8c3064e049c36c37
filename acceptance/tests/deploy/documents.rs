//! Commands of the documents that are marked `<!-- run -->` work as they stand.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devstack::{Endpoints, bin_dir, eventually};

use crate::{SITE, root, system};

const ARRIVED_MAX: Duration = Duration::from_secs(60);
const MARK: &str = "<!-- run -->\n```sh\n";
const DOCUMENTS: [&str; 4] = ["README.md", "docs/deployment.md", "docs/operations.md", "docs/scaling.md"];

#[tokio::test]
async fn commands_that_are_marked_work() -> Result<()> {
    let Some(endpoints) = system().await? else { return Ok(()) };
    let site = format!("{}/v1/sites/{SITE}/installed-apps", endpoints.reader_url.as_deref().context("reader")?);
    let arrived = async || reqwest::get(&site).await.is_ok_and(|answer| answer.status() == 200).then_some(());
    eventually("the seed is served", ARRIVED_MAX, arrived).await?;
    let environment = environment(&endpoints)?;
    let mut ran = 0;
    for document in DOCUMENTS {
        let text = fs::read_to_string(root().join(document)).context(document)?;
        for block in text.split(MARK).skip(1) {
            let commands = block.split("```").next().unwrap_or_default();
            run(&here(commands, &endpoints), &environment).with_context(|| format!("{document}:\n{commands}"))?;
            ran += 1;
        }
    }
    ensure!(ran > 3, "only {ran} blocks are marked");
    Ok(())
}

/// What a reader of the documents would have exported.
fn environment(endpoints: &Endpoints) -> Result<BTreeMap<&'static str, String>> {
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", bin_dir()?.display());
    let given = |address: &Option<String>| address.clone().context("all parts run");
    Ok(BTreeMap::from([
        ("PATH", path),
        ("DATABASE_URL", given(&endpoints.view_primary_url)?),
        ("KAFKA_BOOTSTRAP_SERVERS", given(&endpoints.kafka)?),
        ("WRITER_SOURCE_DATABASE_URL", given(&endpoints.source_database_url)?),
        ("READER_DATABASE_URLS", endpoints.view_replica_urls.join(",")),
    ]))
}

/// The documents say the default ports; here they are others.
fn here(commands: &str, endpoints: &Endpoints) -> String {
    let addresses = [
        ("127.0.0.1:8080", &endpoints.reader_url),
        ("127.0.0.1:9101", &endpoints.writer_admin_url),
        ("127.0.0.1:9102", &endpoints.reader_admin_url),
        ("127.0.0.1:9103", &endpoints.jobs_admin_url),
        ("127.0.0.1:9104", &endpoints.importer_admin_url),
        ("127.0.0.1:9105", &endpoints.notifier_admin_url),
        ("127.0.0.1:9106", &endpoints.console_admin_url),
    ];
    let host = |url: &Option<String>| url.as_deref().unwrap_or_default().trim_start_matches("http://").to_owned();
    addresses.iter().fold(commands.to_owned(), |text, (written, url)| text.replace(written, &host(url)))
}

fn run(commands: &str, environment: &BTreeMap<&str, String>) -> Result<()> {
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", commands]).env_clear().envs(environment).current_dir(root());
    let done = shell.output().context("bash")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{}\n{said}{}", done.status, String::from_utf8_lossy(&done.stdout));
    Ok(())
}
