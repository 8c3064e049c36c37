"""The same calls through the generated Python client."""

import os

from siteview import Client
from siteview.api.feed import follow_changes
from siteview.api.look_ups import batch_get_sites, get_app, get_site, list_sites_of_app
from siteview.models import BatchGet, Changes, Problem, SiteDocument

client = Client(base_url=os.environ["READER_URL"], headers={"accept": "application/json"})

page = follow_changes.sync(client=client, after="earliest")
assert isinstance(page, Changes) and page.changes, page
batch = batch_get_sites.sync(client=client, body=BatchGet(site_ids=[change.site_id for change in page.changes]))
found = next(result for result in batch.results if result.status == 200 and result.document.apps)

site = get_site.sync_detailed(found.site_id, client=client)
assert isinstance(site.parsed, SiteDocument) and site.parsed.site_id == found.site_id, site
assert site.headers["projection-position"], site.headers
app_id = found.document.apps[0].app_id
assert get_app.sync(app_id, client=client).site_count > 0
assert len(list_sites_of_app.sync(app_id, client=client, limit=1, include="app").sites) == 1
missing = get_site.sync("never-seen", client=client)
assert isinstance(missing, Problem) and missing.type_ == "/problems/site-not-found", missing
print("python: 6 calls")
