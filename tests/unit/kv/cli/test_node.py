"""`januskv node` and `januskv shard move|transfer`: what is asked, what is printed."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import pytest

from kv.cli.node import NodeCommand
from kv.cli.shard import ShardCommand


class Asked:
    """A client that answers from a list and notes what it was asked."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[str, str, Any]] = []

    async def admin(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        self.calls.append((method, path, body))
        return self.answers.pop(0)


def _node(state: str, *replicas: int) -> dict[str, Any]:
    return {"node_id": "id-a", "name": "a", "address": "http://h:1", "peer_address": "h:2",
            "state": state, "rack": "r", "dc": "", "weight": 1.0, "replicas": list(replicas),
            "leading": 0, "reachable": True, "ring": None}  # fmt: skip


MOVES = {"moves": [], "waiting": 1}


def _parsed(command: Any, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


def _run(command: NodeCommand, client: Asked, *words: str) -> int:
    args = _parsed(command, *words)
    return int(asyncio.run(args.work(args, client)))


def test_a_drain_waits_until_nothing_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    client = Asked(_node("draining", 1, 2), _node("draining"), MOVES)
    assert _run(NodeCommand(), client, "drain", "a") == 0
    assert client.calls[0] == ("POST", "/api/v1/admin/cluster/drain", {"node_address": "a"})
    assert capsys.readouterr().out == "a (id-a) is draining\n"


def test_a_dead_node_is_removed_once_its_replicas_are_elsewhere() -> None:
    client = Asked(_node("dead", 1), _node("removed"), MOVES)
    assert _run(NodeCommand(), client, "remove", "--dead", "a") == 0
    body = {"node_address": "a", "dead": True, "force": False}
    assert [call for call in client.calls if call[0] == "DELETE"] == 2 * [
        ("DELETE", "/api/v1/admin/cluster/nodes", body)
    ]


def _on_ring(state: str, standing: str, *replicas: int, lacking: float = 0.0) -> dict[str, Any]:
    ring = {"standing": standing, "lacking": lacking, "hints": 3, "foreign": 4}
    return {**_node(state, *replicas), "ring": ring}


def test_a_drain_waits_until_the_node_has_left_the_ring(capsys: pytest.CaptureFixture[str]) -> None:
    others = {"nodes": [_on_ring("active", "normal", lacking=0.25), _node("active")]}
    client = Asked(
        _on_ring("draining", "normal", 1),
        _on_ring("draining", "leaving", 1),
        MOVES,
        others,
        _on_ring("draining", "leaving"),
        others,
        _on_ring("draining", "left"),
        others,
    )
    assert _run(NodeCommand(), client, "drain", "a") == 0
    assert not client.answers
    late = [x for _ in range(9) for x in (_on_ring("draining", "leaving"), others)]
    client = Asked(_on_ring("draining", "leaving"), *late)
    assert _run(NodeCommand(), client, "drain", "--timeout", "0.01", "a") == 1
    assert "leaving; 3 hints and 4 copies to hand over" in capsys.readouterr().err


def test_a_dead_node_is_removed_once_the_ring_has_heard_of_it() -> None:
    client = Asked(_on_ring("dead", "away"), _node("removed"))
    assert _run(NodeCommand(), client, "remove", "--dead", "a") == 0
    assert not client.answers


def test_waiting_ends_with_the_time_that_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    answers = [_node("draining", 1), *(x for _ in range(9) for x in (_node("draining", 1), MOVES))]
    client = Asked(*answers)
    assert _run(NodeCommand(), client, "drain", "--timeout", "0.01", "a") == 1
    assert "still has 1 replicas" in capsys.readouterr().err
    assert _run(NodeCommand(), Asked(_node("draining", 1)), "drain", "--no-wait", "a") == 0


def test_the_list_tells_states_and_places(capsys: pytest.CaptureFixture[str]) -> None:
    away = {**_node("active", 1, 2), "reachable": False}
    assert _run(NodeCommand(), Asked({"nodes": [away]}), "list") == 0
    shown = capsys.readouterr().out
    assert "active, away" in shown
    assert shown.splitlines()[0].split()[-2:] == ["LEADS", "RING"]


@pytest.mark.parametrize("words", [[], ["drain"], ["move", "a"], ["remove"]])
def test_a_call_without_what_it_needs_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        _parsed(NodeCommand(), *words)


@pytest.mark.parametrize("words", [["move", "x", "a", "b"], ["move", "1", "a"], ["transfer", "1"]])
def test_a_shard_is_a_number_and_nodes_are_named(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        _parsed(ShardCommand(), *words)
