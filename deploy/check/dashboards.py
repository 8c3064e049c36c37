"""Grafana's dashboards: made of nothing but what Grafana's own types of that version have.

A file is read into those types and written again; a member that does not come back is one that Grafana does not know. What the
panels ask is read by Prometheus' own parser, as rules.
"""

import json
import shutil
import subprocess
import sys
import tempfile

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from services import ROOT

DASHBOARDS = sorted((ROOT / "deploy/observe/grafana/dashboards").glob("*.json"))


def lost(before, after, path="$"):
    """The members of `before` that `after` lacks or has otherwise."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            yield from lost(value, after[key], f"{path}.{key}") if key in after else [f"{path}.{key}"]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, value in enumerate(before):
            yield from lost(value, after[index], f"{path}[{index}]")
    elif before != after:
        yield path


def unreadable(dashboards: list[dict]) -> list[str]:
    """What promtool says against the expressions of the panels; run.sh says that it is skipped where there is no promtool."""
    if not shutil.which("promtool"):
        return []
    asked = [target["expr"] for dashboard in dashboards for panel in dashboard["panels"] for target in panel.get("targets", [])]
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(asked)]
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        # JSON is YAML.
        json.dump({"groups": [{"name": "panels", "rules": rules}]}, file)
        file.flush()
        done = subprocess.run(["promtool", "check", "rules", file.name], capture_output=True, text=True)
    return [] if done.returncode == 0 else [f"promtool: {done.stdout}{done.stderr}".strip()]


def main() -> list[str]:
    register_default_plugins()
    errors = []
    for path in DASHBOARDS:
        given = json.loads(path.read_text())
        read = Dashboard.from_json(given)
        known = json.loads(JSONEncoder(sort_keys=True).encode(read))
        errors += [f"{path.name}: {member} is unknown to Grafana" for member in lost(given, known)]
        if given["schemaVersion"] != Dashboard().schema_version:
            errors.append(f"{path.name}: schema version {given['schemaVersion']}; the types have {Dashboard().schema_version}")
        ids = [panel["id"] for panel in given["panels"]]
        if len(ids) != len(set(ids)):
            errors.append(f"{path.name}: panels share an id")
    errors += unreadable([json.loads(path.read_text()) for path in DASHBOARDS])
    return errors if DASHBOARDS else ["no dashboards"]


if __name__ == "__main__":
    found = main()
    asked = ", and Prometheus reads what they ask" if shutil.which("promtool") else ""
    print("\n".join(found) or f"dashboards: {len(DASHBOARDS)} fit Grafana's types{asked}")
    sys.exit(bool(found))
