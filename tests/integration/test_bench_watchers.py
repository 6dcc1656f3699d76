"""`januskv bench watchers` in a process of its own: its shape and its sanity, never its speed."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

STANDIN = Path(__file__).with_name("gateway_standin.py")


def bench(directory: Path, *words: object, fault: str = "") -> subprocess.CompletedProcess[str]:
    standin = f"{sys.executable} {STANDIN} --fault={fault}"
    some = ("--seconds", 0.5, "--watchers", 40, "--events", 20, "--januskv", standin)
    return call(directory, *some, *words)


def call(directory: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from kv.cli.main import entry; entry()", "bench", "watchers"]
    places = ("--dir", directory / "disk", "--out", directory / "out" / "it.json")
    return subprocess.run(
        [*command, *map(str, words), *map(str, places)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.integration
def test_every_watcher_has_every_event(tmp_path: Path) -> None:
    done = bench(tmp_path, "--only", "januskv", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads((tmp_path / "out" / "it.json").read_text())
    (one,) = document["rounds"]
    assert one["problem"] is None
    assert one["alone_per_second"] > 0
    assert one["kept"] == pytest.approx(one["watched_per_second"] / one["alone_per_second"])
    assert 0 < one["events_per_second"] < 25
    assert one["delivered_per_second"] > one["events_per_second"]
    assert one["ceiling_per_second"] > 0
    assert 0 < one["p50_us"] <= one["p99_us"] < 30_000_000
    ET.parse(tmp_path / "out" / "it.svg")
    assert list((tmp_path / "disk").iterdir()) == [], "the bench cleans up after itself"


@pytest.mark.integration
def test_watchers_of_our_own_interface(tmp_path: Path) -> None:
    """Over real nodes: the stand-in talks no REST."""
    words = ("--seconds", 0.5, "--watchers", 30, "--events", 20, "--face", "rest", "--json")
    done = call(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(done.stdout)["rounds"]
    assert one["problem"] is None
    assert 0 < one["p50_us"] <= one["p99_us"] < 30_000_000


def test_etcd_has_no_such_interface(tmp_path: Path) -> None:
    done = call(tmp_path, "--face", "rest", "--only", "etcd")
    assert done.returncode == 2
    assert "etcd has no /api/v1/watch" in done.stderr


@pytest.mark.integration
def test_a_watcher_that_misses_one_is_no_result(tmp_path: Path) -> None:
    done = bench(tmp_path, "--only", "januskv", "--patience", 0.5, fault="deaf")
    assert done.returncode == 1, done.stderr
    assert "no result in round 1: a watcher had 229 of 230 events" in done.stdout
    assert "holds" not in done.stdout
