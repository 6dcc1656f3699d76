"""Plays the recordings of the real etcd to another gateway and says where it answers differently.

    problems(name, port)      a line for each step that is not as recorded; the server must be fresh

Files named defect-* are etcd's own defects. `DIFFERENT` lists, step by step, where JanusKV differs
on purpose, with what it answers instead; a step of it that is no longer different is a problem too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.golden.etcd_conversations.steps import Conversation
from tests.golden.gateway_client import Player
from tests.golden.record_etcd import GOLDEN, server_ids

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
    path = Path(GOLDEN, f"{name}.json")
    recording: dict[str, Any] = json.loads(path.read_text())
    return recording


def requests() -> int:
    """How many are compared."""
    return sum("request" in step for name in NAMES for step in recorded(name)["steps"])


def problems(name: str, port: int) -> list[str]:
    recording = recorded(name)
    steps = [
        {part: it for part, it in step.items() if part not in ANSWERS}
        for step in recording["steps"]
    ]
    conversation = Conversation(name, recording["about"], tuple(steps))
    played = Player(port, server_ids(port)).play(conversation)
    left = {said for of, said in DIFFERENT if of == name}
    found: list[str] = []
    for expected, step in zip(recording["steps"], played["steps"], strict=True):
        request = step.get("request", {"method": "", "path": "", "body": ""})
        said = f"{request['method']} {request['path']} {request['body']}"
        left.discard(said)
        status, part = DIFFERENT.get((name, said), (0, ""))
        if not status and step != expected:
            found.append(f"{said or step}: {_shown(step)} instead of {_shown(expected)}")
        elif status and step == expected:
            found.append(f"{said}: no longer different")
        elif status and (step["status"] != status or part not in step["body"]):
            found.append(f"{said}: {_shown(step)} instead of {status} and {part!r}")
    return found + [f"{said}: was not asked" for said in left]


def _shown(step: dict[str, Any]) -> str:
    return " ".join(str(step[part]) for part in ANSWERS if part in step)
