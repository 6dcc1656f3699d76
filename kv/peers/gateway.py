"""The few calls of the etcd v3 JSON gateway around a measurement: fill, count, who leads.

The same calls to both systems; what is measured is not here (kv/load).
"""

from __future__ import annotations

import http.client
import json
import random
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from kv.load.plan import PREFIX, PREFIX_END
from kv.load.requests import key, make_value
from kv.peers.cluster import ClusterFailedError, Node

TIMEOUT_S: Final = 30.0
HEALTH_TIMEOUT_S: Final = 2.0
FILL_BATCH: Final = 100
"""Puts in one transaction (etcd takes 128)."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What is there, read linearizably."""

    keys: int
    revision: int


def post(node: Node, path: str, document: dict[str, Any]) -> dict[str, Any]:
    connection = http.client.HTTPConnection(node.host, node.port, timeout=TIMEOUT_S)
    try:
        connection.request("POST", path, body=json.dumps(document))
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise ClusterFailedError(f"{node.name} did not answer {path}: {error!r}") from error
    finally:
        connection.close()
    if answer.status != 200:
        said = body[:200].decode(errors="replace")
        raise ClusterFailedError(f"{node.name} answered {path} with {answer.status}: {said}")
    read: dict[str, Any] = json.loads(body)
    return read


def all_healthy(nodes: Sequence[Node]) -> bool:
    """Each says so, and takes a linearizable read: there is a leader and all know it."""
    return all(_healthy(node) for node in nodes)


def _healthy(node: Node) -> bool:
    connection = http.client.HTTPConnection(node.host, node.port, timeout=HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        if json.loads(connection.getresponse().read()).get("health") != "true":
            return False
        contents(node)
    except (OSError, http.client.HTTPException, ValueError, ClusterFailedError):
        return False
    finally:
        connection.close()
    return True


def leader(nodes: Sequence[Node]) -> Node:
    for node in nodes:
        status = post(node, "/v3/maintenance/status", {})
        if status.get("leader") == status["header"]["member_id"]:
            return node
    raise ClusterFailedError("no node says that it leads")


def contents(node: Node) -> Contents:
    answer = post(
        node,
        "/v3/kv/range",
        {"key": _text(PREFIX), "range_end": _text(PREFIX_END), "count_only": True},
    )
    return Contents(int(answer.get("count", 0)), int(answer["header"]["revision"]))


def fill(node: Node, keys: int, value_bytes: int) -> None:
    """Put every key once, so that every get finds one and every put overwrites."""
    rng = random.Random(0)
    for start in range(0, keys, FILL_BATCH):
        puts = [
            {
                "request_put": {
                    "key": _text(key(number)),
                    "value": _text(make_value(rng, value_bytes)),
                }
            }
            for number in range(start, min(start + FILL_BATCH, keys))
        ]
        if not post(node, "/v3/kv/txn", {"success": puts}).get("succeeded"):
            raise ClusterFailedError(f"{node.name} did not apply a transaction of puts")
    found = contents(node).keys
    if found != keys:
        raise ClusterFailedError(f"{keys} keys were put into {node.name}, {found} are there")


def _text(data: bytes) -> str:
    return b64encode(data).decode()
