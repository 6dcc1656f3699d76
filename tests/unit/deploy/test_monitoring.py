"""Alerts and dashboard speak only of what a node really says: names, labels, and kinds.

`check_expression` knows as much of PromQL as these files use. It is itself held to finding what it
is for (`test_a_wrong_expression_is_found`).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kv.metrics import Metrics
from kv.metrics.instruments import Kind
from raftgroups.status import Role

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"

DEFINITIONS = {each.name: each for each in Metrics().definitions()}
OF_TARGETS = {"instance", "job"}
FUNCTIONS = {
    "count", "deriv", "histogram_quantile", "increase", "max", "min", "predict_linear", "rate",
    "sum", "vector",
}  # fmt: skip
KNOWN_VALUES = {
    "role": {role.value for role in Role},
    "outcome": {"applied", "refused", "unknown", "done"},
    "state": {"synced", "catching_up", "victim", "future", "ended"},
    "level": {"linearizable", "session", "eventual"},
    "reason": {"full", "not_connected", "too_large", "connection_lost", "no_handler"},
}
GROUPING = re.compile(r"\b(by|on)\s*\(([^)]*)\)")
SELECTOR = re.compile(
    r"(?P<name>[a-zA-Z_:][\w:]*)\s*(?P<matchers>\{[^}]*\})?\s*(?P<range>\[[^\]]+\])?(?P<call>\s*\()?"
)
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')


class WrongExpressionError(Exception):
    """No node could answer that."""


def enclosing_call(expression: str, position: int) -> str:
    """The function whose brackets are the innermost around this position."""
    depth = 0
    for at in range(position - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(expression[at], 0)
        if depth < 0:
            name = re.search(r"(\w*)\s*$", expression[:at])
            return name.group(1) if name else ""
    return ""


def check_expression(expression: str) -> set[str]:
    """Raises WrongExpressionError, or gives the labels that its result has."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    if any(bare.count(a) != bare.count(b) for a, b in ("()", "{}", "[]")):
        raise WrongExpressionError("brackets do not match")
    if not all(grouping.group(2).strip() for grouping in GROUPING.finditer(expression)):
        raise WrongExpressionError("empty grouping")
    groupings = [
        (found.group(1), {label.strip() for label in found.group(2).split(",")})
        for found in GROUPING.finditer(expression)
    ]
    labels: set[str] = set()
    calls: list[str] = []
    ungrouped = GROUPING.sub("", expression)
    for found in SELECTOR.finditer(ungrouped):
        name = found["name"]
        if found["call"]:
            if name not in FUNCTIONS:
                raise WrongExpressionError(f"unknown function {name}")
            calls.append(name)
        elif name not in ("and", "or"):
            labels |= check_selector(found, enclosing_call(ungrouped, found.start()))
    for kind, wanted in groupings:
        if not wanted <= labels:
            raise WrongExpressionError(
                f"{kind} ({', '.join(sorted(wanted - labels))}): no such label"
            )
    if "histogram_quantile" in calls and not any("le" in wanted for _, wanted in groupings):
        raise WrongExpressionError("histogram_quantile without le")
    kept = [wanted for kind, wanted in groupings if kind == "by"]
    aggregated = re.match(r"\s*(sum|max|min|count|histogram_quantile)\b", expression)
    return (set().union(*kept) if aggregated else labels) - {"le"}


def check_selector(found: re.Match[str], call: str) -> set[str]:
    name, matchers, over_time = found["name"], found["matchers"] or "", found["range"]
    if name == "up":
        labels, kind = set(OF_TARGETS), Kind.GAUGE
    else:
        stem = re.sub(r"_(bucket|sum|count)$", "", name)
        definition = DEFINITIONS.get(name) or DEFINITIONS.get(stem)
        if definition is None or (definition.kind is Kind.HISTOGRAM) != (definition.name != name):
            raise WrongExpressionError(f"no node says {name}")
        kind = definition.kind
        labels = OF_TARGETS | set(definition.labels)
        if name.endswith("_bucket"):
            labels.add("le")
    for label, operator, value in MATCHER.findall(matchers):
        if label not in labels:
            raise WrongExpressionError(f"{name} has no label {label}")
        if operator == "=" and value not in KNOWN_VALUES.get(label, {value}):
            raise WrongExpressionError(f"{label} is never {value!r}")
    grows = kind is not Kind.GAUGE
    if bool(over_time) != (call in ("rate", "increase", "deriv", "predict_linear")):
        raise WrongExpressionError(f"{name}: a range belongs into rate and the like")
    if grows != (call in ("rate", "increase")):
        raise WrongExpressionError(f"{name} is a {kind} and used as another kind")
    return labels


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    return json.loads((GRAFANA / "dashboards" / "januskv.json").read_text())


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


# --- the checker -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("sum(rate(januskv_no_such_total[5m]))", "no node says"),
        ("januskv_requests_total_bucket", "no node says"),
        ("rate(januskv_sync_duration_seconds[5m])", "no node says"),
        ('januskv_raft_term{nod="1"} > 1', "no label nod"),
        ('januskv_raft_role{role="boss"} == 1', "never 'boss'"),
        ("sum by (peer) (januskv_raft_term)", "no such label"),
        ("januskv_raft_turns_total > 3", "used as another kind"),
        ("rate(januskv_raft_term[5m])", "used as another kind"),
        ("rate(januskv_raft_turns_total)", "range"),
        ("sum(januskv_raft_term[5m])", "range"),
        ("sum(januskv_raft_term", "brackets"),
        ("smu(januskv_raft_term)", "unknown function"),
        (
            "histogram_quantile(0.9, rate(januskv_sync_duration_seconds_bucket[5m]))",
            "without le",
        ),
    ],
)
def test_a_wrong_expression_is_found(expression: str, why: str) -> None:
    with pytest.raises(WrongExpressionError, match=re.escape(why)):
        check_expression(expression)


def test_a_right_expression_has_the_labels_of_its_result() -> None:
    assert check_expression("januskv_raft_term > 1") == {"group", "instance", "job"}
    assert check_expression("sum(januskv_raft_term)") == set()
    assert check_expression("sum by (group) (januskv_raft_term)") == {"group"}


# --- prometheus ------------------------------------------------------------------------------


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_can_fire_and_says_what_to_do(alert: dict[str, Any]) -> None:
    labels = check_expression(alert["expr"])
    assert set(alert) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"\d+[smh]", alert.get("for", "1m"))
    assert alert["labels"]["severity"] in ("critical", "warning")
    annotations = alert["annotations"]
    assert set(annotations) == {"summary", "description"}
    for text in annotations.values():
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= labels, text
        for name in re.findall(r"\bjanuskv_\w+", text):
            assert name in DEFINITIONS, text
    assert alert["alert"].startswith("JanusKV")


def test_alerts_have_names_of_their_own() -> None:
    names = [alert["alert"] for alert in alerts()]
    assert len(names) == len(set(names)) > 10


def test_prometheus_reads_the_alerts_and_scrapes_the_local_cluster() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert all((PROMETHEUS / name).exists() for name in config["rule_files"])
    (job,) = config["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    assert job["static_configs"][0]["targets"] == [f"127.0.0.1:{7400 + 10 * i}" for i in range(3)]
    assert {alert["expr"] for alert in alerts() if 'job="' in alert["expr"]}
    for alert in alerts():
        for name in re.findall(r'job="([^"]*)"', alert["expr"]):
            assert name == job["job_name"]


# --- grafana ---------------------------------------------------------------------------------


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_shows_what_there_is(panel: dict[str, Any]) -> None:
    assert panel["type"] in ("stat", "timeseries")
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["datasource"]["uid"] == "${datasource}"
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"] in {"short", "s", "bytes", "Bps", "ops", "reqps", "percentunit"}
    assert defaults["thresholds"]["steps"][0]["value"] is None
    references = [target["refId"] for target in panel["targets"]]
    assert references
    assert len(references) == len(set(references))
    for target in panel["targets"]:
        expression = target["expr"]
        assert "@" not in expression
        assert set(re.findall(r"\$(\w+)", expression)) <= {"job", "instance", "__rate_interval"}
        labels = check_expression(expression)
        shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert shown <= labels, f"{expression} has no {shown - labels}"
        if panel["type"] == "timeseries":
            assert target["legendFormat"]
        for name in re.findall(r"(\w+)\{", expression):
            assert f'{name}{{job="$job",instance=~"$instance"' in expression


def test_panels_are_told_apart_and_do_not_overlap() -> None:
    found = dashboard()["panels"]
    numbers = [panel["id"] for panel in found]
    assert len(numbers) == len(set(numbers))
    titles = [panel["title"] for panel in panels()]
    assert len(titles) == len(set(titles))
    taken: set[tuple[int, int]] = set()
    for panel in found:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_dashboard_can_be_loaded() -> None:
    found = dashboard()
    assert found["uid"] == found["title"].lower() == "januskv"
    assert found["schemaVersion"] >= 36
    names = [variable["name"] for variable in found["templating"]["list"]]
    assert names == ["datasource", "job", "instance"]
    for variable in found["templating"]["list"][1:]:
        name = re.match(r"label_values\((\w+)", variable["query"])
        assert name is not None
        assert name.group(1) in DEFINITIONS


def test_the_dashboard_is_what_its_script_makes() -> None:
    script = GRAFANA / "make_dashboard.py"
    result = subprocess.run(
        [sys.executable, "-B", script, "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_grafana_is_provisioned_with_a_source_and_a_folder() -> None:
    sources = yaml.safe_load(
        (GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text()
    )
    assert sources["apiVersion"] == 1
    assert [source["type"] for source in sources["datasources"]] == ["prometheus"]
    providers = yaml.safe_load(
        (GRAFANA / "provisioning" / "dashboards" / "januskv.yml").read_text()
    )
    assert providers["apiVersion"] == 1
    assert [provider["type"] for provider in providers["providers"]] == ["file"]
