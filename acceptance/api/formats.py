"""What the document says in words: ids are at most 128 bytes of printable text without a slash."""

import json
import os
import re
import urllib.request

import schemathesis
from hypothesis import strategies as st


def is_id(text: str) -> bool:
    return len(text.encode()) <= 128 and text.isprintable() and text not in (".", "..")


def known() -> list[str]:
    """Ids of sites, apps and instances that the service has, so that not every look-up ends in 404."""
    request = urllib.request.Request(os.environ["READER_URL"] + "/v1/changes?after=earliest")
    request.add_header("accept", "application/json")
    changes = json.load(urllib.request.urlopen(request))["changes"]
    change = next(change for change in reversed(changes) if change["added"])
    app = change["added"][0]
    return [change["site_id"], app["app_id"], app["instance_id"]]


ids = st.one_of(
    st.sampled_from(known()),
    st.sampled_from(["never-seen", "żółw 🐢 +%?#&=", "x" * 128]),
    st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="/"), min_size=1, max_size=128),
)
schemathesis.openapi.format("siteview-id", ids.filter(is_id))
POSITION = re.compile(r"[1-9][0-9]{0,8}/[0-9]{1,9}:[0-9]{1,18}")
position = st.from_regex(POSITION, fullmatch=True)
schemathesis.openapi.format("siteview-position", st.one_of(st.just("1/0:1"), position))


@schemathesis.hook
def before_call(context, case, kwargs):
    """A stream never ends, so the feed is asked by poll, and answers at once. Tokens are opaque: the service alone can make one."""
    query = case.query or {}
    if case.operation.path == "/v1/changes":
        case.headers = {**(case.headers or {}), "Accept": "application/json"}
        case.headers.pop("Prefer", None)
        case.headers.pop("Last-Event-ID", None)
        if "after" in query:
            query["after"] = "earliest"
    else:
        query.pop("after", None)
    # Headers are generated with others that nobody knows; formats do not count there.
    demanded = (case.headers or {}).get("Projection-Min-Position")
    if demanded is not None and case.meta.generation.mode.is_positive and not POSITION.fullmatch(demanded):
        del case.headers["Projection-Min-Position"]


@schemathesis.check
def unavailable_where_more_was_demanded_than_there_is(ctx, response, case):
    """503 is an answer to who demands a position or a version, and to nobody else."""
    if response.status_code == 503:
        demanded = {name.lower() for name in case.headers or {}} & {"projection-min-position", "projection-min-version"}
        kind = response.json()["type"]
        assert demanded and kind == "/problems/position-not-reached", f"{kind}, demanded: {demanded}"
