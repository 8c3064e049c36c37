//! The API as an OpenAPI 3.1 document, made from the handlers' own descriptions.
//!
//! A handler says what is its own: parameters, results. What all have in common, or follows from the route, is added here:
//! headers, errors with an example of each, limits of ids. A test holds the paths and methods against the router's, the
//! document against a golden file.

pub(crate) mod schema;

use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use shared::problem::{Kind, Problem};
use utoipa::OpenApi;

use crate::router::Route;
use crate::routes::{apps, batch_get, changes, documents, instances, problems, sites};

/// The text of `/openapi.json`.
pub(crate) static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let text = serde_json::to_vec_pretty(&document()).expect("a JSON value is JSON");
    text.into()
});

/// Ids are opaque; tools that make examples of them know the format by its name.
const ID_DESCRIPTION: &str = "Opaque: 1 to 128 bytes of printable UTF-8 without `/`, percent-encoded in paths.";

const DESCRIPTION: &str = "\
Which apps are installed on which sites: site → apps, app → sites, instance → site, and the changes as they come.

**Errors** are `application/problem+json` (RFC 9457); decide on `type`, of which each is a page of this service.

**Freshness.** Every answer that is read from the view names the position of the source's topic that it contains at least
(`Projection-Position`), and the moment up to which it is complete (`Projection-As-Of`). A request can demand a position or a
version, and wait for it (`Prefer: wait=SECONDS`).

**HEAD** is answered as GET, without a body, everywhere.";

#[derive(OpenApi)]
#[openapi(
    info(title = "Siteview reader", description = DESCRIPTION, license(name = "Apache-2.0", identifier = "Apache-2.0")),
    paths(
        sites::document, sites::app, apps::sites, apps::count, instances::instance, batch_get::batch_get,
        changes::changes, problems::page, documents::openapi, documents::docs, documents::docs_file
    ),
    components(schemas(schema::Problem)),
    tags(
        (name = "look-ups", description = "What is, read from a replica"),
        (name = "feed", description = "What changes"),
        (name = "documents", description = "About the API itself")
    )
)]
struct Described;

fn document() -> Value {
    let mut document = serde_json::to_value(Described::openapi()).expect("the description is JSON");
    for route in Route::ALL {
        let operations = document["paths"].get_mut(route.template()).and_then(Value::as_object_mut);
        operations.into_iter().flat_map(Map::values_mut).for_each(|operation| complete(operation, route));
    }
    document["components"]["schemas"]["BatchGet"]["properties"]["site_ids"]["items"] = id_schema();
    document["components"]["headers"] = headers();
    document["components"]["parameters"] = parameters();
    document
}

/// Adds what an operation need not say for itself.
fn complete(operation: &mut Value, route: Route) {
    limit_ids(operation);
    let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
    let common = request_headers(route).map(|name| json!({"$ref": format!("#/components/parameters/{name}")}));
    operation["parameters"] = parameters.into_iter().chain(common).collect();
    for (status, response) in operation["responses"].as_object_mut().into_iter().flatten() {
        let link = (route == Route::AppSites && status == "200").then_some("Link");
        response["headers"] = references(success_headers(route).chain(link));
    }
    if route.is_tagged() {
        let description = "What the client has (`If-None-Match`) is what there is.";
        let headers = references(["ETag", "Vary", "Cache-Control"].into_iter().chain(FRESHNESS).chain(ALWAYS));
        operation["responses"]["304"] = json!({"description": description, "headers": headers});
    }
    let mut kinds: Vec<Kind> = errors(route).collect();
    kinds.sort_unstable_by_key(|kind| kind.status());
    for kinds in kinds.chunk_by(|a, b| a.status() == b.status()) {
        operation["responses"][kinds[0].status().as_str()] = problem(kinds);
    }
}

/// The parameters that are ids, by their names, get the limits of ids.
fn limit_ids(operation: &mut Value) {
    for parameter in operation["parameters"].as_array_mut().into_iter().flatten() {
        if parameter["name"].as_str().is_some_and(|name| name.ends_with("_id")) {
            parameter["schema"] = id_schema();
            parameter["description"] = ID_DESCRIPTION.into();
        }
    }
}

fn id_schema() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": 128, "format": "siteview-id"})
}

/// The response of one status, with an example of each problem that has it.
fn problem(kinds: &[Kind]) -> Value {
    let example = |kind: &Kind| {
        let problem = Problem::new(*kind, "what is wrong with this request")
            .with_request_id("0197c2a1-7d3b-7e0c-9d2f-3f6f3b9a4c11");
        let value: Value = serde_json::from_str(&problem.to_json()).expect("a problem is JSON");
        (kind.name().to_owned(), json!({"summary": kind.title(), "description": kind.page(), "value": value}))
    };
    let names: Vec<String> = kinds.iter().map(|kind| format!("`{}`", kind.name())).collect();
    let status = kinds[0].status().as_u16();
    let own: &[&str] = match status {
        404 if kinds[0] != Kind::RouteNotFound => &FRESHNESS,
        405 => &["Allow"],
        503 => &["Retry-After"],
        _ => &[],
    };
    json!({
        "description": names.join(", "),
        "headers": references(own.iter().copied().chain(["Cache-Control"]).chain(ALWAYS)),
        "content": {"application/problem+json": {
            "schema": {"$ref": "#/components/schemas/Problem"},
            "examples": kinds.iter().map(example).collect::<Map<_, _>>(),
        }},
    })
}

/// The problems that a route can answer with.
fn errors(route: Route) -> impl Iterator<Item = Kind> {
    let own: &[Kind] = match route {
        Route::Site => &[Kind::InvalidId, Kind::SiteNotFound],
        Route::SiteApp => &[Kind::InvalidId, Kind::SiteNotFound, Kind::AppNotInstalled],
        Route::AppSites | Route::App => &[Kind::InvalidId],
        Route::Instance => &[Kind::InvalidId, Kind::InstanceNotFound],
        Route::BatchGet => &[Kind::InvalidId, Kind::InvalidBody, Kind::BodyTooLarge, Kind::UnsupportedMediaType],
        Route::Changes => &[Kind::InvalidId, Kind::FeedPositionExpired],
        Route::Problem | Route::OpenApi | Route::Docs | Route::DocsFile | Route::Unknown => &[Kind::RouteNotFound],
    };
    let of_reads = [Kind::PositionNotReached, Kind::NoReplica];
    let of_all = [
        Kind::InvalidParameter,
        Kind::InvalidPosition,
        Kind::MethodNotAllowed,
        Kind::HeadersTooLarge,
        Kind::Internal,
        Kind::Overloaded,
        Kind::DeadlineExceeded,
    ];
    own.iter().copied().chain(of_reads.into_iter().filter(move |_| route.is_read())).chain(of_all)
}

const FRESHNESS: [&str; 3] = ["Projection-Position", "Projection-As-Of", "Projection-Staleness"];
const ALWAYS: [&str; 2] = ["X-Request-Id", "Server-Timing"];

fn success_headers(route: Route) -> impl Iterator<Item = &'static str> {
    let freshness = FRESHNESS.into_iter().filter(move |_| route.is_read());
    let tag = Some("ETag").filter(|_| route.is_tagged());
    freshness.chain(tag).chain(["Cache-Control", "Vary"]).chain(ALWAYS)
}

fn request_headers(route: Route) -> impl Iterator<Item = &'static str> {
    let own: &[&str] = match route {
        Route::Site | Route::SiteApp => {
            &["Projection-Min-Position", "Projection-Min-Version", "Prefer", "If-None-Match"]
        }
        Route::AppSites | Route::App | Route::Instance => &["Projection-Min-Position", "Prefer", "If-None-Match"],
        Route::BatchGet | Route::Changes => &["Projection-Min-Position", "Prefer"],
        Route::Problem | Route::OpenApi | Route::Docs | Route::DocsFile | Route::Unknown => &[],
    };
    own.iter().copied().chain(["X-Request-Id", "traceparent"])
}

fn references<'a>(names: impl Iterator<Item = &'a str>) -> Value {
    names
        .map(|name| (name.to_owned(), json!({"$ref": format!("#/components/headers/{name}")})))
        .collect::<Map<_, _>>()
        .into()
}

fn headers() -> Value {
    let text = |description: &str, example: &str| json!({"description": description, "schema": {"type": "string"}, "example": example});
    json!({
        "Projection-Position": text("`<generation>/<partition>:<next_offset>[,…]`: everything before these offsets is contained.", "1/3:1207"),
        "Projection-As-Of": text("The moment up to which changes are certainly contained (RFC 3339).", "2026-01-05T08:00:01.52Z"),
        "Projection-Staleness": {"description": "Seconds by which the replica is behind, where it is more than it should be and no better one could answer.", "schema": {"type": "integer"}, "example": 7},
        "ETag": text("Equal bytes, equal tag, on every replica and generation; weak when the body is compressed.", "\"9f0c5a2b-7\""),
        "Link": text("The next page (RFC 8288); left out on the last.", "</v1/apps/stores/sites?limit=100&after=AT0…>; rel=\"next\""),
        "Cache-Control": text("A copy may be kept, and must be asked for before it is used.", "no-cache"),
        "Vary": text("The answer depends on this.", "accept-encoding"),
        "Allow": text("The methods that the route takes.", "GET, HEAD"),
        "Retry-After": {"description": "Seconds until it is worth asking again.", "schema": {"type": "integer"}, "example": 1},
        "X-Request-Id": text("The request's id: the client's, or a new one.", "0197c2a1-7d3b-7e0c-9d2f-3f6f3b9a4c11"),
        "Server-Timing": text("How long the answer took, in milliseconds.", "total;dur=0.412"),
    })
}

fn parameters() -> Value {
    let header = |name: &str, description: &str, schema: Value| json!({"name": name, "in": "header", "required": false, "description": description, "schema": schema});
    json!({
        "Projection-Min-Position": header(
            "Projection-Min-Position",
            "A value of `Projection-Position`, `<generation>/<partition>:<next_offset>[,…]`: only a replica that contains it answers.",
            json!({"type": "string", "format": "siteview-position", "examples": ["1/0:1207"]}),
        ),
        "Projection-Min-Version": header(
            "Projection-Min-Version",
            "The document must have this version or a later one.",
            json!({"type": "integer", "format": "int64", "minimum": 0}),
        ),
        "Prefer": header(
            "Prefer",
            "`wait=SECONDS` (RFC 7240), at most 10: how long to wait for what is demanded, or for changes.",
            json!({"type": "string", "examples": ["wait=1"]}),
        ),
        "If-None-Match": header(
            "If-None-Match",
            "Tags that the client has; 304 when one is what there is.",
            json!({"type": "string", "examples": ["\"9f0c5a2b-7\""]}),
        ),
        "X-Request-Id": header(
            "X-Request-Id",
            "Taken when it is 1 to 128 graphic ASCII characters.",
            json!({"type": "string"}),
        ),
        "traceparent": header(
            "traceparent",
            "The client's span (W3C Trace Context), of which the request becomes a part where traces are sent; what is not valid is ignored.",
            json!({"type": "string", "examples": ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"]}),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_the_golden_file() {
        insta::assert_snapshot!("openapi", std::str::from_utf8(&DOCUMENT).unwrap());
    }

    /// HEAD is described once, for all.
    #[test]
    fn the_document_and_the_router_have_the_same_paths_and_methods() {
        let document = document();
        let described: Vec<(String, Vec<String>)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(path, operations)| {
                (path.clone(), operations.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect())
            })
            .collect();
        let methods = |route: &Route| route.allow().split(", ").filter(|m| *m != "HEAD").map(str::to_owned).collect();
        let mut routed: Vec<(String, Vec<String>)> = Route::ALL
            .iter()
            .filter(|route| **route != Route::Unknown)
            .map(|route| (route.template().to_owned(), methods(route)))
            .collect();
        routed.sort();
        assert_eq!(described, routed);
    }

    #[test]
    fn every_path_that_is_described_is_routed_with_its_variables() {
        let document = document();
        for (path, operations) in document["paths"].as_object().unwrap() {
            let (route, variables) = Route::of(path);
            assert_eq!(route.template(), path);
            for operation in operations.as_object().unwrap().values() {
                let parameters = operation["parameters"].as_array().unwrap();
                let named = parameters
                    .iter()
                    .filter(|p| p["in"] == "path")
                    .map(|p| format!("{{{}}}", p["name"].as_str().unwrap()));
                let of_path: Vec<_> = variables.iter().filter(|v| !v.is_empty()).map(|v| (*v).to_owned()).collect();
                assert_eq!(named.collect::<Vec<_>>(), of_path, "{path}");
            }
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_kind_of_problem_is_described() {
        let text = std::str::from_utf8(&DOCUMENT).unwrap();
        let document = document();
        for reference in text.split("\"#/").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(document.pointer(&format!("/{reference}")).is_some(), "{reference}");
        }
        for kind in Kind::ALL {
            assert!(text.contains(&format!("\"/problems/{}\"", kind.name())), "{}", kind.name());
        }
    }
}
