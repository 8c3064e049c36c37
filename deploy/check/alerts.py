"""The unit tests of the alerts: each alert is seen to fire, to be silent a moment before, and to be silent on a system that is well.

promtool runs the tests; that none is missing it does not say.
"""

import sys

import yaml
from services import ROOT

OBSERVE = ROOT / "deploy/observe"


def main() -> tuple[list[str], int]:
    groups = yaml.safe_load((OBSERVE / "alerts.yml").read_text())["groups"]
    alerts = [rule["alert"] for group in groups for rule in group["rules"]]
    *cases, well = yaml.safe_load((OBSERVE / "alerts_test.yml").read_text())["tests"]
    asked = [(case["alertname"], bool(case["exp_alerts"])) for test in cases for case in test["alert_rule_test"]]
    silent = [case["alertname"] for case in well["alert_rule_test"] if not case["exp_alerts"]]
    errors = [f"{alert} never fires in a test" for alert in alerts if (alert, True) not in asked]
    errors += [f"{alert} is never silent in a test" for alert in alerts if (alert, False) not in asked]
    errors += [f"{alert} is not asked of the system that is well" for alert in alerts if alert not in silent]
    return errors, len(alerts)


if __name__ == "__main__":
    found, count = main()
    print("\n".join(found) or f"alerts: {count}, each with its tests")
    sys.exit(bool(found))
