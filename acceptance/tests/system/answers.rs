//! Every route of the reader and every error that a client can cause, as golden files: status, headers that are promised,
//! body.

mod refusals;

use acceptance::{Record, Service, System, scenario};
use anyhow::{Context, Result};
use reqwest::{Body, Client, Method, Response};

use crate::{PARTITIONS, servers};

/// Headers whose values are promised and the same in each run.
const PROMISED: [&str; 8] =
    ["content-type", "etag", "cache-control", "vary", "link", "allow", "retry-after", "projection-position"];
/// Headers that are promised and whose values are others in each run.
const PRESENT: [&str; 2] = ["projection-as-of", "server-timing"];
/// Given with each request, so that problems are the same in each run.
const REQUEST_ID: &str = "the-request";

/// Partition, site, JSON of its apps; none is a tombstone.
const SITES: [(i32, &str, Option<&str>); 6] = [
    (
        0,
        "two-apps",
        Some(
            r#"[{"appDefId":"stores","instanceId":"i-2","version":"2.0","status":"PAUSED"},{"appDefId":"blog","instanceId":"i-1","version":"1.0","installedAt":"2024-03-01T10:00:00Z","permissions":["A",1.0]}]"#,
        ),
    ),
    (1, "twice", Some(r#"[{"appDefId":"stores","instanceId":"i-4"},{"appDefId":"stores","instanceId":"i-3"}]"#)),
    (2, "żółw 🐢", Some(r#"[{"appDefId":"stores"}]"#)),
    (3, "empty", Some("[]")),
    (3, "deleted", Some(r#"[{"appDefId":"blog","instanceId":"i-9"}]"#)),
    (3, "deleted", None),
];

const GETS: [&str; 30] = [
    "/v1/sites/two-apps/installed-apps",
    "/v1/sites/%C5%BC%C3%B3%C5%82w%20%F0%9F%90%A2/installed-apps",
    "/v1/sites/empty/installed-apps",
    "/v1/sites/deleted/installed-apps",
    "/v1/sites/never-seen/installed-apps",
    "/v1/sites/a%2Fb/installed-apps",
    "/v1/sites/%FF/installed-apps",
    "/v1/sites/two-apps/installed-apps/blog",
    "/v1/sites/twice/installed-apps/stores",
    "/v1/sites/twice/installed-apps/blog",
    "/v1/sites/never-seen/installed-apps/blog",
    "/v1/apps/stores",
    "/v1/apps/nobody",
    "/v1/apps/stores/sites",
    "/v1/apps/stores/sites?limit=2",
    "/v1/apps/stores/sites?include=app",
    "/v1/apps/nobody/sites",
    "/v1/apps/stores/sites?limit=0",
    "/v1/apps/stores/sites?limit=1001",
    "/v1/apps/stores/sites?after=AAAA",
    "/v1/apps/stores/sites?include=everything",
    "/v1/instances/i-3",
    "/v1/instances/i-9",
    "/v1/changes?after=AAAA",
    "/v1/changes?site_id=a%2Fb",
    "/docs",
    "/docs/nothing",
    "/v1/nothing",
    "/problems/site-not-found",
    "/v1/installed-apps/batch-get",
];

const POSTS: [(&str, &str, &str); 6] = [
    ("/v1/installed-apps/batch-get", "application/json", r#"{"site_ids":["twice","never-seen","twice","deleted"]}"#),
    ("/v1/installed-apps/batch-get", "application/json", r#"{"site_ids":[]}"#),
    ("/v1/installed-apps/batch-get", "application/json", r#"{"site_ids":["a/b"]}"#),
    ("/v1/installed-apps/batch-get", "application/json", r#"{"sites":["twice"]}"#),
    ("/v1/installed-apps/batch-get", "text/plain", r#"{"site_ids":[]}"#),
    ("/v1/apps/stores", "application/json", "{}"),
];

/// Requests of one header more: path, its name, its value.
const WITH_HEADER: [(&str, &str, &str); 6] = [
    (GETS[0], "projection-min-position", "somewhere"),
    (GETS[0], "projection-min-position", "1/0:9999"),
    (GETS[0], "projection-min-version", "-1"),
    (GETS[0], "projection-min-version", "8"),
    ("/v1/changes?after=earliest&site_id=twice", "accept", "application/json"),
    ("/v1/changes", "accept", "application/json"),
];
/// Bodies that have no end, or a golden file of their own.
const HEADS: [&str; 2] = ["/v1/changes", "/openapi.json"];

#[tokio::test(flavor = "multi_thread")]
async fn every_route_and_error_answers_as_the_golden_file_says() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let _writer = filled(system).await?;
        let mut reader = system.reader(&[])?;
        reader.ready().await?;
        insta::assert_snapshot!(transcript(&reader).await?);
        Ok(())
    })
    .await
}

/// Puts the sites into the view; gives the writer, which goes on.
async fn filled(system: &System) -> Result<Service> {
    system.topic().produce(&SITES.map(record))?;
    let mut writer = system.writer(&[])?;
    writer.ready().await?;
    system.drained().await?;
    system.replica_caught_up().await?;
    Ok(writer)
}

fn record((partition, site_id, apps): (i32, &str, Option<&str>)) -> Record {
    let row = |apps| serde_json::json!({"site_id": site_id, "version": 7, "installed_apps": apps});
    let value = apps.map(|apps| serde_json::json!({"op": "c", "after": row(apps), "source": {"lsn": 1}}).to_string());
    let key = serde_json::json!({"site_id": site_id}).to_string();
    Record { partition, key, value, headers: Vec::new(), site_id: site_id.to_owned(), after: None }
}

async fn transcript(reader: &Service) -> Result<String> {
    let client = Client::new();
    let mut lines = String::new();
    for path in GETS {
        let response = ask(&client, reader, Method::GET, path, &[], "").await?;
        lines += &told(&format!("GET {path}"), response).await?;
    }
    for (path, content_type, body) in POSTS {
        let response = ask(&client, reader, Method::POST, path, &[("content-type", content_type)], body).await?;
        lines += &told(&format!("POST {path} {content_type} {body}"), response).await?;
    }
    let site = GETS[0];
    for tag in ["*", "W/\"other\""] {
        let response = ask(&client, reader, Method::GET, site, &[("if-none-match", tag)], "").await?;
        lines += &told(&format!("GET {site} If-None-Match: {tag}"), response).await?;
    }
    let response = ask(&client, reader, Method::HEAD, site, &[], "").await?;
    let tag = response.headers().get("etag").context("a tag")?.to_str()?.to_owned();
    lines += &told(&format!("HEAD {site}"), response).await?;
    for (method, tags) in [
        (Method::GET, tag.clone()),
        (Method::GET, format!("W/{tag}")),
        (Method::GET, format!("\"other\", W/{tag}")),
        (Method::HEAD, tag.clone()),
    ] {
        let response = ask(&client, reader, method.clone(), site, &[("if-none-match", &tags)], "").await?;
        lines += &told(&format!("{method} {site} If-None-Match: {tags}"), response).await?;
    }
    for (path, name, value) in WITH_HEADER {
        let response = ask(&client, reader, Method::GET, path, &[(name, value)], "").await?;
        lines += &told(&format!("GET {path} {name}: {value}"), response).await?;
    }
    for path in HEADS {
        let response = ask(&client, reader, Method::GET, path, &[], "").await?;
        lines += &format!("{}…\n\n", head(&format!("GET {path}"), &response)?);
    }
    Ok(lines)
}

async fn ask(
    client: &Client,
    reader: &Service,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Result<Response> {
    let mut request = client.request(method, format!("{}{path}", reader.url())).header("x-request-id", REQUEST_ID);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).send().await.with_context(|| path.to_owned())
}

async fn told(request: &str, response: Response) -> Result<String> {
    Ok(format!("{}{}\n\n", head(request, &response)?, response.text().await?))
}

/// A request as the golden file has it, and all of its answer but the body.
fn head(request: &str, response: &Response) -> Result<String> {
    let mut text = format!("{request}\n{}\n", response.status());
    for name in PROMISED {
        if let Some(value) = response.headers().get(name) {
            text += &format!("{name}: {}\n", value.to_str()?);
        }
    }
    for name in PRESENT.into_iter().filter(|name| response.headers().contains_key(*name)) {
        text += &format!("{name}: …\n");
    }
    Ok(text)
}
