"""What operators do while everything else goes on: none of it may hurt. And a flood of writes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from chaos.faults.stage import BusyError, Stage
from chaos.overload import flood
from chaos.scenarios.scenario import Fault
from chaos.workloads.holding import LOCK

BACKUP_S = 30.0
SPLIT_S = 10.0
MERGE_S = 10.0
FLOOD_AHEAD = 8
FLOOD_BYTES = 256
FLOOD_PART_S = 0.5


@contextmanager
def leader_transfer(stage: Stage, fault: Fault, dice: Random) -> Iterator[str]:
    (name,) = stage.targets("leader", dice)
    stage.server(name).ask("/api/v1/admin/leader/transfer", {})
    yield f"leadership leaves {name}"


@contextmanager
def compact(stage: Stage, fault: Fault, dice: Random) -> Iterator[str]:
    (name,) = stage.targets("random", dice)
    status = stage.server(name).status()
    if status is None:
        raise BusyError(f"{name} does not answer")
    revision = status["revision"] - int(fault.options["keep"])
    if revision > max(0, status["compact_revision"]):
        stage.server(name).ask("/api/v1/admin/compact", {"revision": revision})
    yield f"compacted to {revision}"


@contextmanager
def split(stage: Stage, fault: Fault, dice: Random) -> Iterator[str]:
    """At a key drawn of all but a lock's, whose queue has to lie in one shard (kv/api/REST.md); one
    that does not come about, since nodes are down, is no harm."""
    (name,) = stage.targets("random", dice)
    server = stage.server(name)
    shards = server.ask("/api/v1/admin/shards")
    keys = server.ask("/api/v1/keys?limit=1000")
    if shards is None or keys is None or shards[0] != 200 or keys[0] != 200:
        raise BusyError(f"{name} does not answer")
    having = [each["key"] for each in keys[1]["keys"] if not each["key"].startswith(f"{LOCK}/")]
    if not having:
        raise BusyError("there are no keys yet")
    found = shards[1]["shards"]
    if len(found) >= int(fault.options["shards"]):
        raise BusyError(f"{len(found)} shards already")
    key = dice.choice(having)
    (shard,) = [
        each for each in found if each["start"] <= key and (not each["end"] or key < each["end"])
    ]
    path = f"/api/v1/admin/shards/{shard['shard']}/split"
    answer = server.ask(path, {"key": key}, timeout_s=SPLIT_S)
    yield f"split at {key}: {'no answer' if answer is None else answer[0]}"


@contextmanager
def merge(stage: Stage, fault: Fault, dice: Random) -> Iterator[str]:
    """A shard drawn of all and its right neighbour; one that does not come about is no harm."""
    (name,) = stage.targets("random", dice)
    server = stage.server(name)
    shards = server.ask("/api/v1/admin/shards")
    if shards is None or shards[0] != 200:
        raise BusyError(f"{name} does not answer")
    having = [each["shard"] for each in shards[1]["shards"] if each["end"]]
    if not having:
        raise BusyError("there is one shard")
    shard = dice.choice(having)
    answer = server.ask(f"/api/v1/admin/shards/{shard}/merge", {}, timeout_s=MERGE_S)
    yield f"merge of {shard}: {'no answer' if answer is None else answer[0]}"


@contextmanager
def backup(stage: Stage, fault: Fault, dice: Random) -> Iterator[str]:
    (name,) = stage.targets(fault.target, dice)
    size_bytes = stage.server(name).drain("/v3/maintenance/snapshot", {}, timeout_s=BACKUP_S)
    yield f"backup of {name}, {size_bytes} bytes"


@contextmanager
def flooded(stage: Stage, fault: Fault, dice: Random) -> Iterator[str]:
    """While it is in force, in parts: a part ends with its connections."""
    (name,) = stage.targets(fault.target, dice)
    connections = int(fault.options["connections"])

    with stage.background(
        lambda: asyncio.run(
            flood(
                stage.server(name), connections=connections, ahead=FLOOD_AHEAD,
                value_bytes=FLOOD_BYTES, seconds=FLOOD_PART_S,
            )
        )
    ):  # fmt: skip
        yield f"flood of {name}"
