"""deploy/README.md names files, alerts and commands that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import yaml

from kv.cli.main import build_parser, built_in

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "deploy" / "README.md").read_text()


def test_files_and_folders_are_there() -> None:
    for path in re.findall(r"(?:deploy|tests)/[\w./-]*\w", TEXT):
        assert (ROOT / path).exists(), path
    listed = set(re.findall(r"`([a-z]+)/`", TEXT))
    assert listed == {each.name for each in (ROOT / "deploy").iterdir() if each.is_dir()}


def test_alerts_are_there() -> None:
    groups = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    named = set(re.findall(r"JanusKV[A-Z]\w+", TEXT))
    assert len(named) > 5
    assert named <= alerts


def test_commands_can_be_typed() -> None:
    commands = re.findall(r"`januskv ([a-z][^`]*)`|\bjanuskv (backup [^|&\n]*--verify)", TEXT)
    parser = build_parser(built_in())
    assert len(commands) >= 5
    for words in (shlex.split(first or second) for first, second in commands):
        parser.parse_args(words)
