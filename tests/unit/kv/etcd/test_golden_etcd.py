"""The gateway against what the real etcd 3.5.1 answered: status, heads, bodies, chunks.

Every recorded conversation (tests/golden/README.md) is played to a gateway of its own over HTTP.
Files named defect-* are etcd's own defects. `DIFFERENT` lists, step by step, where we differ on
purpose, with what we answer instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.golden.etcd_conversations.steps import Conversation
from tests.golden.gateway_client import Player
from tests.golden.record_etcd import server_ids

GOLDEN = Path(__file__).parents[3] / "golden" / "etcd"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.json") if not path.stem.startswith("defect-"))

ANSWERS = ("status", "headers", "body", "then")

# (conversation, what is asked) -> (status, what is in the body)
DIFFERENT: dict[tuple[str, str], tuple[int, str]] = {
    # Later etcds have these, and the recorded one not yet.
    ("side-endpoints", "GET /livez "): (200, "ok\n"),
    ("side-endpoints", "GET /readyz "): (200, "ok\n"),
    ("maintenance", "POST /v3/maintenance/hashkv {}"): (200, '"hash":"<number hash>"'),
    ("maintenance", 'POST /v3/maintenance/hashkv {"revision":2}'): (200, '"compact_revision":"2"'),
    ("maintenance", 'POST /v3/maintenance/hashkv {"revision":1}'): (400, "has been compacted"),
    ("maintenance", 'POST /v3/maintenance/hashkv {"revision":99}'): (400, "is a future revision"),
    # Lease ids are positive here.
    ("lease-grant", 'POST /v3/lease/grant {"TTL":600,"ID":-3}'): (400, "a lease id is 1 to"),
}


def recorded(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def asked(step: dict[str, Any]) -> dict[str, Any]:
    return {name: it for name, it in step.items() if name not in ANSWERS}


def test_enough_cases_are_played() -> None:
    steps = [step for name in NAMES for step in recorded(name)["steps"] if "request" in step]
    assert len(steps) >= 600
    assert set(NAMES) >= {name for name, _ in DIFFERENT}


@pytest.mark.parametrize("name", NAMES)
def test_a_conversation_goes_as_with_etcd(serve: Callable[..., Any], name: str) -> None:
    recording = recorded(name)
    conversation = Conversation(
        name, recording["about"], tuple(asked(step) for step in recording["steps"])
    )
    with serve() as (port, _):
        played = Player(port, server_ids(port)).play(conversation)
    different = 0
    for expected, step in zip(recording["steps"], played["steps"], strict=True):
        request = step.get("request", {"method": "", "path": "", "body": ""})
        said = f"{request['method']} {request['path']} {request['body']}"
        other = DIFFERENT.get((name, said))
        if other is not None:
            different += 1
            assert step != expected, f"{said}: no longer different"
            assert step["status"] == other[0], said
            assert other[1] in step["body"], said
            continue
        assert step == expected, said
    assert different == sum(1 for of, _ in DIFFERENT if of == name)
