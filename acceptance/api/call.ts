// Calls of each kind through the generated types: what does not fit them does not compile.
import createClient from "openapi-fetch";
import type { paths } from "./schema.js";

const client = createClient<paths>({ baseUrl: process.env.READER_URL });

function hold(condition: unknown, what: string): asserts condition {
  if (!condition) throw new Error(what);
}

const poll = await client.GET("/v1/changes", {
  params: { query: { after: "earliest" } },
  headers: { accept: "application/json" },
});
const page = poll.data as Exclude<typeof poll.data, string | undefined>;
hold(page.changes.length > 0, "changes");
const change = page.changes.find((change) => !change.deleted);
hold(change, "a change of a site that exists");

const batch = await client.POST("/v1/installed-apps/batch-get", {
  body: { site_ids: page.changes.map((change) => change.site_id) },
});
const found = batch.data?.results.find((result) => result.status === 200 && result.document?.apps.length);
hold(found?.document, "a site with apps");

const site = await client.GET("/v1/sites/{site_id}/installed-apps", {
  params: { path: { site_id: found.site_id } },
});
hold(site.data?.site_id === found.site_id, "a site");
hold(site.response.headers.get("projection-position"), "a position");

const app = found.document.apps[0];
hold(app, "an app");
const count = await client.GET("/v1/apps/{app_id}", { params: { path: { app_id: app.app_id } } });
hold(count.data && count.data.site_count > 0, "a count");
const sites = await client.GET("/v1/apps/{app_id}/sites", {
  params: { path: { app_id: app.app_id }, query: { limit: 1, include: "app" } },
});
hold(sites.data?.sites.length === 1, "a page");

const missing = await client.GET("/v1/sites/{site_id}/installed-apps", {
  params: { path: { site_id: "never-seen" } },
});
hold(missing.error?.type === "/problems/site-not-found", "a problem");
console.log("typescript: 6 calls");
