//! The whole API on one page.
//!
//! Paths are matched as they came, percent-encoded: an id's `%2F` must be refused as an id and not split a path, and an
//! id that is no UTF-8 is an `invalid-id` and not a missing route. That is why no framework's path extractor is used.

use http::Method;

use crate::answer::Answer;
use crate::error::Error;
use crate::request::Call;
use crate::routes::{apps, batch_get, changes, documents, instances, problems, sites};

/// A route; its order here is the order of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Site,
    SiteApp,
    AppSites,
    App,
    Instance,
    BatchGet,
    Changes,
    Problem,
    OpenApi,
    Docs,
    DocsFile,
    /// No route of the API.
    Unknown,
}

/// The segments of the path that stand for variables of the route, still encoded.
pub(crate) type Variables<'a> = [&'a str; 2];

impl Route {
    pub(crate) const ALL: [Route; 12] = [
        Route::Site,
        Route::SiteApp,
        Route::AppSites,
        Route::App,
        Route::Instance,
        Route::BatchGet,
        Route::Changes,
        Route::Problem,
        Route::OpenApi,
        Route::Docs,
        Route::DocsFile,
        Route::Unknown,
    ];

    /// Finds the route of a path; the query is not part of it.
    pub(crate) fn of(path: &str) -> (Route, Variables<'_>) {
        /// More segments than any route has.
        const SEGMENTS_MAX: usize = 6;
        let mut segments = [""; SEGMENTS_MAX];
        let mut count = 0;
        for segment in path.strip_prefix('/').unwrap_or(path).split('/').take(SEGMENTS_MAX) {
            segments[count] = segment;
            count += 1;
        }
        match segments[..count] {
            ["v1", "sites", site, "installed-apps"] if !site.is_empty() => (Route::Site, [site, ""]),
            ["v1", "sites", site, "installed-apps", app] if !site.is_empty() => (Route::SiteApp, [site, app]),
            ["v1", "apps", app] if !app.is_empty() => (Route::App, [app, ""]),
            ["v1", "apps", app, "sites"] if !app.is_empty() => (Route::AppSites, [app, ""]),
            ["v1", "instances", instance] if !instance.is_empty() => (Route::Instance, [instance, ""]),
            ["v1", "installed-apps", "batch-get"] => (Route::BatchGet, ["", ""]),
            ["v1", "changes"] => (Route::Changes, ["", ""]),
            ["problems", name] => (Route::Problem, [name, ""]),
            ["openapi.json"] => (Route::OpenApi, ["", ""]),
            ["docs"] => (Route::Docs, ["", ""]),
            ["docs", file] => (Route::DocsFile, [file, ""]),
            _ => (Route::Unknown, ["", ""]),
        }
    }

    /// The path with its variables in braces: the label of metrics.
    pub(crate) const fn template(self) -> &'static str {
        match self {
            Route::Site => "/v1/sites/{site_id}/installed-apps",
            Route::SiteApp => "/v1/sites/{site_id}/installed-apps/{app_id}",
            Route::AppSites => "/v1/apps/{app_id}/sites",
            Route::App => "/v1/apps/{app_id}",
            Route::Instance => "/v1/instances/{instance_id}",
            Route::BatchGet => "/v1/installed-apps/batch-get",
            Route::Changes => "/v1/changes",
            Route::Problem => "/problems/{name}",
            Route::OpenApi => "/openapi.json",
            Route::Docs => "/docs",
            Route::DocsFile => "/docs/{file}",
            Route::Unknown => "unknown",
        }
    }

    /// The methods that the route takes, as `Allow` lists them. HEAD is answered as GET; hyper leaves the body out.
    pub(crate) const fn allow(self) -> &'static str {
        match self {
            Route::BatchGet => "POST",
            _ => "GET, HEAD",
        }
    }

    /// Whether the route takes the method; an unknown route takes any, to be answered as unknown.
    pub(crate) fn takes(self, method: &Method) -> bool {
        match self {
            Route::Unknown => true,
            Route::BatchGet => method == Method::POST,
            _ => method == Method::GET || method == Method::HEAD,
        }
    }

    /// Whether the route reads a body, which is JSON.
    pub(crate) const fn takes_body(self) -> bool {
        matches!(self, Route::BatchGet)
    }

    /// Whether the view is read for it: the answer then says how fresh it is.
    pub(crate) const fn is_read(self) -> bool {
        !matches!(self, Route::Problem | Route::OpenApi | Route::Docs | Route::DocsFile | Route::Unknown)
    }

    /// Whether its results have a tag.
    pub(crate) const fn is_tagged(self) -> bool {
        self.is_read() && !matches!(self, Route::BatchGet | Route::Changes)
    }

    /// Calls the route's handler. Those that are large are on the heap: a connection has room for the largest of the others.
    pub(crate) async fn answer(self, call: &Call<'_>) -> Result<Answer, Error> {
        match self {
            Route::Site => sites::document(call).await,
            Route::SiteApp => sites::app(call).await,
            Route::AppSites => Box::pin(apps::sites(call)).await,
            Route::App => Box::pin(apps::count(call)).await,
            Route::Instance => Box::pin(instances::instance(call)).await,
            Route::BatchGet => Box::pin(batch_get::batch_get(call)).await,
            Route::Changes => Box::pin(changes::changes(call)).await,
            Route::Problem => problems::page(call),
            Route::OpenApi => Ok(documents::openapi()),
            Route::Docs => Ok(documents::docs()),
            Route::DocsFile => documents::docs_file(call),
            Route::Unknown => Err(Error::RouteNotFound),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_their_route_and_keep_their_encoding() {
        for (path, route, variables) in [
            ("/v1/sites/a%2Fb/installed-apps", Route::Site, ["a%2Fb", ""]),
            ("/v1/sites/a/installed-apps/b", Route::SiteApp, ["a", "b"]),
            ("/v1/sites/a/installed-apps/", Route::SiteApp, ["a", ""]),
            ("/v1/apps/a/sites", Route::AppSites, ["a", ""]),
            ("/v1/apps/a", Route::App, ["a", ""]),
            ("/v1/instances/i", Route::Instance, ["i", ""]),
            ("/v1/installed-apps/batch-get", Route::BatchGet, ["", ""]),
            ("/v1/changes", Route::Changes, ["", ""]),
            ("/openapi.json", Route::OpenApi, ["", ""]),
            ("/docs", Route::Docs, ["", ""]),
            ("/docs/swagger-ui.css", Route::DocsFile, ["swagger-ui.css", ""]),
            ("/problems/invalid-id", Route::Problem, ["invalid-id", ""]),
        ] {
            assert_eq!(Route::of(path), (route, variables), "{path}");
        }
        for path in [
            "/",
            "",
            "*",
            "/v1",
            "/v1/",
            "/v1/nothing",
            "/v2/sites/x/installed-apps",
            "/v1/sites/x",
            "/v1/sites//installed-apps",
            "/v1/sites/x/installed-apps/y/z",
            "/v1/sites/x/installed-apps/y/z/a/b",
            "/v1/apps/",
        ] {
            assert_eq!(Route::of(path).0, Route::Unknown, "{path}");
        }
    }

    #[test]
    fn every_route_but_one_is_read_by_get_and_head() {
        for route in Route::ALL {
            let reads = route.takes(&Method::GET) && route.takes(&Method::HEAD);
            assert_eq!(reads, route != Route::BatchGet, "{route:?}");
            assert_eq!(route.takes(&Method::DELETE), route == Route::Unknown, "{route:?}");
        }
    }
}
