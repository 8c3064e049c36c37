"""What the document says in words: ids are at most 128 bytes of printable text without a slash."""

import schemathesis
from hypothesis import strategies as st


def is_id(text: str) -> bool:
    return len(text.encode()) <= 128 and text.isprintable() and text not in (".", "..")


ids = st.one_of(
    st.sampled_from(["never-seen", "żółw 🐢 +%?#&=", "x" * 128]),
    st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="/"), min_size=1, max_size=128),
)
schemathesis.openapi.format("siteview-id", ids.filter(is_id))


@schemathesis.hook
def before_call(context, case, kwargs):
    """A stream never ends, so the feed is asked by poll, and answers at once."""
    if case.operation.path == "/v1/changes":
        case.headers = {**(case.headers or {}), "Accept": "application/json"}
        case.headers.pop("Prefer", None)
