//! The JSON of requests and answers, as the document describes it.
//!
//! Nothing is built from these types: answers are stored or assembled text. A test on the running system holds answers
//! against their schemas.
#![expect(dead_code, reason = "the derives read them")]

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// A site and the apps that are installed on it.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "site_id": "4c351513-9f9b-5325-b8cd-0a1f449bbe7c", "version": 7,
    "apps": [{"app_id": "stores", "instance_id": "4b9133bc", "version": "2.4.0", "status": "INSTALLED", "installed_at": "2024-03-01T10:00:00Z"}]
}))]
pub(crate) struct SiteDocument {
    site_id: String,
    /// The MetaSite version at which the site's apps last changed; left out where the source has none.
    #[schema(required = false, nullable = false)]
    version: Option<i64>,
    /// By `app_id`, then `instance_id`.
    apps: Vec<InstalledApp>,
}

/// One installation of an app. Members that the source does not have are left out; further ones may be mapped.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "app_id": "stores", "instance_id": "4b9133bc", "version": "2.4.0", "status": "INSTALLED", "installed_at": "2024-03-01T10:00:00Z"
}))]
pub(crate) struct InstalledApp {
    app_id: String,
    #[schema(required = false, nullable = false)]
    instance_id: Option<String>,
    #[schema(required = false, nullable = false)]
    version: Option<String>,
    #[schema(required = false, nullable = false)]
    status: Option<String>,
    /// As the source has it.
    #[schema(required = false, nullable = false)]
    installed_at: Option<String>,
    #[serde(flatten)]
    extra: BTreeMap<String, Value>,
}

/// The installation, or all of them where the app is installed more than once.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum OneOrMore {
    One(InstalledApp),
    More(Vec<InstalledApp>),
}

/// One page of the sites that have an app.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "app_id": "stores", "sites": [{"site_id": "4c351513-9f9b-5325-b8cd-0a1f449bbe7c", "instance_id": "4b9133bc"}], "next": null
}))]
pub(crate) struct SitesOfApp {
    app_id: String,
    /// By `site_id`, then `instance_id`.
    sites: Vec<SiteOfApp>,
    /// The `after` of the next page; null on the last.
    next: Option<String>,
}

/// A site that has the app; with `include=app`, the installation's other members too.
#[derive(Serialize, ToSchema)]
pub(crate) struct SiteOfApp {
    site_id: String,
    #[schema(required = false, nullable = false)]
    instance_id: Option<String>,
    #[serde(flatten)]
    app: BTreeMap<String, Value>,
}

/// How many sites have an app.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"app_id": "stores", "site_count": 1523}))]
pub(crate) struct AppCount {
    app_id: String,
    site_count: i64,
}

/// Where one installation is, and its other members.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "instance_id": "4b9133bc", "app_id": "stores", "site_id": "4c351513-9f9b-5325-b8cd-0a1f449bbe7c", "version": "2.4.0"
}))]
pub(crate) struct Instance {
    instance_id: String,
    app_id: String,
    site_id: String,
    #[serde(flatten)]
    app: BTreeMap<String, Value>,
}

/// The sites that are asked for.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"site_ids": ["4c351513-9f9b-5325-b8cd-0a1f449bbe7c", "never-seen"]}))]
#[serde(deny_unknown_fields)]
pub(crate) struct BatchGet {
    #[schema(max_items = 1000)]
    site_ids: Vec<String>,
}

/// The sites in the order asked, each as often as asked.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"results": [
    {"site_id": "4c351513-9f9b-5325-b8cd-0a1f449bbe7c", "status": 200, "document": {"site_id": "4c351513-9f9b-5325-b8cd-0a1f449bbe7c", "apps": []}},
    {"site_id": "never-seen", "status": 404}
]}))]
pub(crate) struct BatchResults {
    results: Vec<BatchResult>,
}

/// One of the sites that were asked for.
#[derive(Serialize, ToSchema)]
pub(crate) struct BatchResult {
    site_id: String,
    /// 200, or 404 for a site that was never seen or was deleted.
    status: u16,
    /// With 200 only.
    #[schema(required = false, nullable = false)]
    document: Option<SiteDocument>,
}

/// What a long poll found.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"changes": [{
    "site_id": "4c351513-9f9b-5325-b8cd-0a1f449bbe7c", "version": 8, "added": [{"app_id": "blog", "instance_id": "9ac1"}], "removed": [], "updated": []
}], "next": "AWvGVFkBAIcJAAGrAgA"}))]
pub(crate) struct Changes {
    changes: Vec<Change>,
    /// The `after` of the next poll.
    next: String,
    /// There where something is missing before `changes`; read the state anew.
    #[schema(required = false, nullable = false)]
    gap: Option<Gap>,
}

/// What became of one site's apps: the difference to what they were.
#[derive(Serialize, ToSchema)]
pub(crate) struct Change {
    site_id: String,
    #[schema(required = false, nullable = false)]
    version: Option<i64>,
    added: Vec<InstalledApp>,
    removed: Vec<InstalledApp>,
    /// As they are now.
    updated: Vec<InstalledApp>,
    /// True when the site was deleted, else left out.
    #[schema(required = false, nullable = false)]
    deleted: Option<bool>,
}

/// Why something is missing.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Gap {
    /// Changes are no longer kept that were not told.
    FeedPositionExpired,
    /// Another build of the view is served.
    GenerationChanged,
    /// An operator has set a position back; changes may come again.
    PositionSetBack,
}

/// An error (RFC 9457).
#[derive(Serialize, ToSchema)]
pub(crate) struct Problem {
    /// `/problems/<name>`, which is a page about it; what a client may decide on.
    r#type: String,
    /// The same for all problems of the type.
    title: String,
    status: u16,
    /// What is wrong with this request, for people.
    detail: String,
    /// Finds the request in logs and traces.
    request_id: String,
}
