#!/usr/bin/env python3
"""Writes dashboards/januskv.json, so that a panel is a line here and not forty there.

    python3 deploy/grafana/make_dashboard.py            write it
    python3 deploy/grafana/make_dashboard.py --check    exit 1 if it is not what panels.py says

Needs the standard library only. The grid is laid out from the widths of the panels, in order.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from panels import ROWS, Panel

TARGET = Path(__file__).parent / "dashboards" / "januskv.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
NODES = 'job="$job",instance=~"$instance"'
COLUMNS = 24


def dashboard() -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS:
        place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
        panels.append(
            {"type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        )
        top, left, tallest = top + 1, 0, 0
        for panel in row:
            if left + panel.width > COLUMNS:
                top, left, tallest = top + tallest, 0, 0
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            panels.append(render(panel, place))
            left, tallest = left + panel.width, max(tallest, panel.height)
        top += tallest
    for number, panel in enumerate(panels, start=1):
        panel["id"] = number
    return {
        "uid": "januskv",
        "title": "JanusKV",
        "description": "A cluster of JanusKV: requests, consensus, storage, watches, links.",
        "tags": ["januskv"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": variables()},
        "annotations": {"list": []},
        "panels": panels,
    }


def variables() -> list[dict[str, Any]]:
    return [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        {
            "name": "job",
            "label": "Job",
            "type": "query",
            "datasource": SOURCE,
            "query": "label_values(januskv_build_info, job)",
            "refresh": 1,
        },
        {
            "name": "instance",
            "label": "Node",
            "type": "query",
            "datasource": SOURCE,
            "query": 'label_values(januskv_build_info{job="$job"}, instance)',
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "current": {"text": ["All"], "value": ["$__all"]},
        },
    ]


def render(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red_from is not None:
        steps.append({"color": "red", "value": panel.red_from})
    defaults = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.kind == "timeseries":
        defaults["min"] = 0
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.help,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": SOURCE,
                "expr": expression.replace("@", NODES),
                "legendFormat": legend,
            }
            for number, (expression, legend) in enumerate(panel.queries)
        ],
    }


def entry(arguments: list[str]) -> int:
    made = json.dumps(dashboard(), indent=2) + "\n"
    if arguments == ["--check"]:
        if TARGET.read_text(encoding="utf-8") == made:
            return 0
        sys.stderr.write(f"{TARGET.name} is not what panels.py says; run make_dashboard.py\n")
        return 1
    TARGET.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(entry(sys.argv[1:]))
