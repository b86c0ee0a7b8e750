"""`python -m tools.metrics`: every metric that the alerts and the dashboard ask for exists, and every alert has its page.

Asked of the programs' own registries, so that a metric that was renamed shows here and not at night. Where `promtool` is on the PATH,
the alerts are also tried on series for which they fire, and on those for which they do not.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from billing_service.flows.request_budget import Budget, Spender
from billing_service.metrics import Metrics as ServiceMetrics
from billing_service.storage.tally import Tally
from billing_service.workers.numbers import LABEL
from webhook_gateway.metrics import Metrics as GatewayMetrics

ROOT = Path(__file__).parents[1]
ALERTS = ROOT / "deploy/prometheus/alerts.yml"
TRIALS = ROOT / "tests/alerts.yml"
TRIAL_LIMIT_S = 60
DASHBOARD = ROOT / "deploy/grafana/dashboards/billing.json"
PAGES = ROOT / "docs/alerts"
_NAME = re.compile(r"\b((?:billing|gateway|process)_[a-z_]+)(?:\{([^}]*)\})?")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_GROUPING = re.compile(r"\b(?:by|on) \(([^)]*)\)")
# Of every series that is scraped; the last where there are several workers (billing_service/workers/numbers.py).
_OF_PROMETHEUS = frozenset({"job", "instance", "le", LABEL})


def known() -> dict[str, frozenset[str]]:
    """Give the labels of each series that the two programs show, by name as it is scraped: each is made to count once."""
    service, gateway = ServiceMetrics(), GatewayMetrics()
    service.call("method", "OK", 0.1)
    service.event("invoice.paid", "applied", 0.1)
    service.request("operation", "denied", 0.1)
    service.tallied(Tally({"malformed": 1}, {"drift": 1}, 1, 1.0, 1, 1, 1.0), 1)
    service.show_files(lambda: 0.0, {"own": lambda: 0.0})
    gateway.show_files(lambda: 0.0, {"own": lambda: 0.0})
    service.visible(0.1)
    service.spent(Spender.PEOPLE)
    service.show(lambda: 1.0, {"most": lambda: 1.0}, {"live": lambda: 1.0}, lambda: 1.0, Budget())
    service.replica_read("answered")
    gateway.webhook("invoice.paid", "main", "applied", 200, 0.1)
    gateway.show({"live": lambda: 1.0}, lambda: 0.0)
    return {
        sample.name: frozenset(sample.labels)
        for one in (service, gateway)
        for metric in one.registry.collect()
        for sample in metric.samples
    }


def problems_of(expression: str, series: dict[str, frozenset[str]]) -> list[str]:
    """Say what an expression asks for that there is not."""
    found: list[str] = []
    labels = set(_OF_PROMETHEUS)
    for name, selector in _NAME.findall(expression):
        if name not in series:
            found.append(f"there is no metric {name}")
            continue
        labels |= series[name]
        found += [
            f"{name} has no label {one}" for one in _LABEL.findall(selector) if one not in series[name] | _OF_PROMETHEUS
        ]
    for group in _GROUPING.findall(expression):
        found += [f"no metric here has a label {one.strip()}" for one in group.split(",") if one.strip() not in labels]
    return found


def problems(series: dict[str, frozenset[str]]) -> Iterator[str]:
    """Say everything that does not fit."""
    rules: list[dict[str, Any]] = [
        rule for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]
    ]
    for rule in rules:
        yield from (f"{rule['alert']}: {one}" for one in problems_of(rule["expr"], series))
        page = ROOT / rule["annotations"]["runbook"]
        if not page.is_file() or rule["expr"] not in page.read_text(encoding="utf-8"):
            yield f"{rule['alert']}: {page.relative_to(ROOT)} is missing or shows another expression"
    for name in sorted({page.stem for page in PAGES.glob("*.md")} - {rule["alert"] for rule in rules}):
        yield f"docs/alerts/{name}.md is the page of no alert"
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", ()):
            yield from (f"dashboard, {panel['title']}: {one}" for one in problems_of(target["expr"], series))


def trial_problems(promtool: str) -> Iterator[str]:
    """Say what promtool has against the alerts, and which of them do not fire or fire on the trials."""
    for words in (["check", "rules", str(ALERTS)], ["test", "rules", str(TRIALS)]):
        done = subprocess.run(  # noqa: S603 - our own files
            [promtool, *words], capture_output=True, text=True, check=False, timeout=TRIAL_LIMIT_S
        )
        if done.returncode:
            yield f"promtool {' '.join(words[:2])}: {(done.stdout + done.stderr).strip()}"


def main() -> int:
    """Print what does not fit."""
    series = known()
    found = list(problems(series))
    promtool = shutil.which("promtool")
    found += trial_problems(promtool) if promtool else ()
    sys.stdout.write("".join(f"{one}\n" for one in found))
    how = "tried by promtool" if promtool else "not tried: no promtool here"
    sys.stdout.write(
        f"{len(series)} series, {len(found)} problems in the alerts ({how}), their pages and the dashboard\n"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
