"""Every call about nodes and replicas, with what it may be asked and what not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from kv.leaderless.stand import Standing
from kv.placement import service
from raftgroups.meta.commands import CreateLeaderless, PutNode, SetNodeState
from raftgroups.meta.records import KeyspaceOptions, NodeState, RingSeat

from .conftest import MakeRest, Rest
from .placement_double import PlacementDouble, record

NODES = "/api/v1/admin/cluster/nodes"


def peer_of(name: str) -> str:
    host, port = record(name).peer
    return f"{host}:{port}"


@pytest.fixture
def double() -> PlacementDouble:
    return PlacementDouble()


@pytest.fixture
async def cluster(make_rest: MakeRest, double: PlacementDouble) -> Rest:
    return await make_rest(placement=double.service)


async def test_nodes_are_listed_with_their_replicas(cluster: Rest) -> None:
    answer = await cluster.get(NODES)
    assert answer.status == 200
    nodes = {node["name"]: node for node in answer.body["nodes"]}
    assert list(nodes) == ["a", "b", "c", "d"]
    assert nodes["a"]["replicas"] == [0, 1]
    assert nodes["d"]["replicas"] == []
    assert nodes["d"]["state"] == "active"
    assert nodes["d"]["reachable"] is True
    assert nodes["a"]["peer_address"] == peer_of("a")


async def test_a_node_is_drained_taken_back_and_removed(
    cluster: Rest, double: PlacementDouble
) -> None:
    busy = await cluster.ask("DELETE", NODES, {"node_address": "a"})
    assert (busy.status, busy.body["error"]) == (409, "node_in_use")
    assert "drain it first" in busy.body["message"]
    drained = await cluster.ask("POST", "/api/v1/admin/cluster/drain", {"node_address": "id-a"})
    assert (drained.status, drained.body["state"]) == (200, "draining")
    again = await cluster.ask("POST", "/api/v1/admin/cluster/drain", {"node_address": "a"})
    assert again.body["state"] == "draining"
    few = await cluster.ask("POST", "/api/v1/admin/cluster/drain", {"node_address": "b"})
    assert (few.status, few.body["error"]) == (409, "too_few_nodes")
    assert "add a node first" in few.body["message"]
    back = await cluster.ask("POST", "/api/v1/admin/cluster/undrain", {"node_address": "a"})
    assert back.body["state"] == "active"
    client = record("d").client
    gone = await cluster.ask("DELETE", NODES, {"node_address": client})
    assert (gone.status, gone.body["state"]) == (200, "removed")
    assert "id-d" not in double.view.nodes


async def test_a_lost_node_is_declared_dead_only_if_it_is_away(
    cluster: Rest, double: PlacementDouble
) -> None:
    alive = await cluster.ask("DELETE", NODES, {"node_address": "a", "dead": True})
    assert (alive.status, alive.body["error"]) == (409, "node_in_use")
    double.away.add("id-a")
    dead = await cluster.ask("DELETE", NODES, {"node_address": "a", "dead": True})
    assert (dead.status, dead.body["state"]) == (200, "dead")
    assert dead.body["replicas"] == [0, 1]
    back = await cluster.ask("POST", "/api/v1/admin/cluster/undrain", {"node_address": "a"})
    assert (back.status, back.body["error"]) == (409, "node_in_use")


async def test_a_node_whose_loss_would_lose_shards_is_declared_dead_by_force_only(
    cluster: Rest, double: PlacementDouble
) -> None:
    double.away |= {"id-a", "id-b"}
    before = double.view
    refused = await cluster.ask("DELETE", NODES, {"node_address": "a", "dead": True})
    assert (refused.status, refused.body["error"]) == (409, "majority_lost")
    assert "shards 0, 1 have no majority" in refused.body["message"]
    assert "while a, b are away" in refused.body["message"]
    assert double.view is before
    forced = {"node_address": "a", "dead": True, "force": True}
    dead = await cluster.ask("DELETE", NODES, forced)
    assert (dead.status, dead.body["state"]) == (200, "dead")
    again = await cluster.ask("DELETE", NODES, {"node_address": "a", "dead": True})
    assert again.status == 200, "it is dead already: the call asks how far its removal is"


async def test_adding_waits_for_a_node_that_asks_by_itself(
    cluster: Rest, double: PlacementDouble
) -> None:
    peer = peer_of("d")
    known = await cluster.ask("POST", NODES, {"node_address": peer})
    assert (known.status, known.body["name"]) == (200, "d")
    stranger = await cluster.ask("POST", NODES, {"node_address": "10.9.9.9:7401"})
    assert stranger.status == 503
    assert "[cluster] join" in stranger.body["message"]


async def test_moves_are_shown_and_balance_is_asked_for(
    cluster: Rest, double: PlacementDouble
) -> None:
    moves = await cluster.get("/api/v1/admin/cluster/moves")
    assert (moves.status, moves.body["settled"], moves.body["moves"]) == (200, True, [])
    assert (await cluster.ask("POST", "/api/v1/admin/cluster/rebalance")).status == 200
    assert [wish.kind for wish in double.wishes] == ["rebalance"]


async def test_a_replica_is_moved_and_a_leadership_handed_over(
    cluster: Rest, double: PlacementDouble
) -> None:
    path = "/api/v1/admin/shards/1"
    moved = await cluster.ask("POST", f"{path}/move", {"source": "a", "target": "d"})
    assert moved.status == 200
    assert (moved.body["source"], moved.body["target"]) == ("id-a", "id-d")
    assert double.view.operations[moved.body["operation"]].kind == "move"
    busy = await cluster.ask("POST", f"{path}/move", {"source": "b", "target": "d"})
    assert (busy.status, busy.body["error"]) == (409, "shard_busy")
    led = await cluster.ask("POST", f"{path}/transfer", {"target": "b"})
    assert (led.status, led.body["leader"]) == (200, "id-b")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("POST", NODES, {"node_address": "nobody"}, 400, "invalid_body"),
        ("POST", NODES, {"node_address": "h:99999"}, 400, "invalid_body"),
        ("POST", NODES, {}, 400, "invalid_body"),
        ("DELETE", NODES, {"node_address": ""}, 400, "invalid_body"),
        ("DELETE", NODES, {"node_address": "nobody"}, 404, "no_such_node"),
        ("DELETE", NODES, {"node_address": "a", "dead": 1}, 400, "invalid_body"),
        ("POST", "/api/v1/admin/cluster/drain", {"node_address": "x"}, 404, "no_such_node"),
        ("POST", "/api/v1/admin/cluster/undrain", {"name": "x"}, 400, "invalid_body"),
        ("GET", NODES + "?of=a", None, 400, "invalid_query"),
        ("POST", "/api/v1/admin/cluster/drain", {"node_address": 5}, 400, "invalid_body"),
        ("POST", "/api/v1/admin/shards/x/move", {"source": "a", "target": "d"}, 400, None),
        ("POST", "/api/v1/admin/shards/9/move", {"source": "a", "target": "d"}, 404, None),
        ("POST", "/api/v1/admin/shards/1/move", {"source": "d", "target": "a"}, 409, None),
        ("POST", "/api/v1/admin/shards/1/move", {"source": "a", "target": "b"}, 409, None),
        ("POST", "/api/v1/admin/shards/1/move", {"source": "a"}, 400, "invalid_body"),
        ("POST", "/api/v1/admin/shards/1/move", b"[", 400, "invalid_body"),
        ("POST", "/api/v1/admin/shards/x/transfer", {"target": "a"}, 400, "invalid_path"),
        ("POST", "/api/v1/admin/shards/1/transfer", {}, 400, "invalid_body"),
        ("POST", "/api/v1/admin/shards/1/transfer", {"target": "d"}, 409, "shard_not_there"),
        ("POST", "/api/v1/admin/shards/1/transfer", {"target": "x"}, 404, "no_such_node"),
        ("POST", "/api/v1/admin/shards/9/transfer", {"target": "a"}, 404, "no_such_shard"),
    ],
)
async def test_bad_input_is_told_what_to_do_and_changes_nothing(
    cluster: Rest,
    double: PlacementDouble,
    method: str,
    path: str,
    body: dict[str, Any],
    status: int,
    error: str | None,
) -> None:
    before = double.view
    answer = await cluster.ask(method, path, body)
    assert answer.status == status, answer.body
    assert error is None or answer.body["error"] == error
    assert answer.body["outcome"] == "none"
    assert double.view is before


async def test_while_nobody_plans_the_map_is_shown_and_nothing_is_moved(
    cluster: Rest, double: PlacementDouble
) -> None:
    double.plans = False
    nodes = (await cluster.get(NODES)).body["nodes"]
    assert [node["name"] for node in nodes] == list("abcd")
    assert {(node["leading"], node["reachable"]) for node in nodes} == {(None, None)}
    before = double.view
    for method, path, body in (
        ("GET", "/api/v1/admin/cluster/moves", None),
        ("POST", "/api/v1/admin/cluster/rebalance", None),
        ("DELETE", NODES, {"node_address": "a", "dead": True}),
    ):
        answer = await cluster.ask(method, path, body)
        assert (answer.status, answer.body["error"]) == (503, "unavailable"), path
        assert "ask again" in answer.body["message"]
    assert double.view is before


async def test_what_the_planner_does_not_do_now_is_said_with_its_reason(
    cluster: Rest, double: PlacementDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    double.refusal = "replicas are being moved"
    balanced = await cluster.ask("POST", "/api/v1/admin/cluster/rebalance")
    assert (balanced.status, balanced.body["outcome"]) == (503, "none")
    assert "nothing was done: replicas are being moved" in balanced.body["message"]
    monkeypatch.setattr(service, "TRANSFER_S", 2 * service.POLL_S)
    late = await cluster.ask("POST", "/api/v1/admin/shards/1/transfer", {"target": "b"})
    assert (late.status, late.body["error"]) == (503, "unavailable")
    assert "b does not lead shard 1 yet" in late.body["message"]
    assert "replicas are being moved" in late.body["message"]


async def test_replicas_are_moved_to_active_nodes_only_and_the_dead_are_not_drained(
    cluster: Rest, double: PlacementDouble
) -> None:
    double.execute(SetNodeState("id-d", NodeState.DRAINING))
    move = {"source": "a", "target": "d"}
    answer = await cluster.ask("POST", "/api/v1/admin/shards/1/move", move)
    assert (answer.status, answer.body["error"]) == (409, "node_in_use")
    assert "to an active node only" in answer.body["message"]
    taken_back = await cluster.ask("POST", NODES, {"node_address": peer_of("d")})
    assert (taken_back.status, taken_back.body["state"]) == (200, "active")
    double.execute(SetNodeState("id-d", NodeState.DEAD))
    answer = await cluster.ask("POST", "/api/v1/admin/cluster/drain", {"node_address": "d"})
    assert (answer.status, answer.body["error"]) == (409, "node_in_use")
    assert "declared dead" in answer.body["message"]


async def test_a_name_of_two_nodes_names_neither(cluster: Rest, double: PlacementDouble) -> None:
    double.execute(PutNode(replace(record("e"), name="a")))
    answer = await cluster.ask("POST", "/api/v1/admin/cluster/drain", {"node_address": "a"})
    assert (answer.status, answer.body["error"]) == (404, "no_such_node")
    assert "id-a, id-e" in answer.body["message"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", NODES, None),
        ("POST", NODES, {"node_address": "10.9.9.9:7401"}),
        ("DELETE", NODES, {"node_address": "a"}),
        ("POST", "/api/v1/admin/cluster/drain", {"node_address": "a"}),
        ("POST", "/api/v1/admin/cluster/undrain", {"node_address": "a"}),
        ("POST", "/api/v1/admin/cluster/rebalance", None),
        ("GET", "/api/v1/admin/cluster/moves", None),
        ("POST", "/api/v1/admin/shards/1/move", {"source": "a", "target": "d"}),
        ("POST", "/api/v1/admin/shards/1/transfer", {"target": "b"}),
    ],
)
async def test_a_node_of_no_cluster_says_so(rest: Rest, method: str, path: str, body: Any) -> None:
    assert await rest.refused(method, path, body) == (503, "unavailable")


# --- where there is a ring -----------------------------------------------------------------------


async def test_nodes_tell_how_they_stand_on_the_ring(
    cluster: Rest, double: PlacementDouble
) -> None:
    double.ring.members = {"id-a": Standing("normal", 0.0, 3, 0), "id-d": None}
    nodes = {node["name"]: node for node in (await cluster.get(NODES)).body["nodes"]}
    assert nodes["a"]["ring"] == {"standing": "normal", "lacking": 0.0, "hints": 3, "foreign": 0}
    assert nodes["d"]["ring"]["standing"] == "away"
    assert nodes["b"]["ring"] is None


async def test_a_node_leaves_the_ring_before_it_is_removed_and_then_cannot_stay(
    cluster: Rest, double: PlacementDouble
) -> None:
    double.ring.members = {"id-d": Standing("normal", 0.0, 0, 0)}
    member = await cluster.ask("DELETE", NODES, {"node_address": "d"})
    assert (member.status, member.body["error"]) == (409, "node_in_use")
    assert "on the ring" in member.body["message"]
    double.ring.members["id-d"] = Standing("leaving", 0.0, 7, 2)
    drained = await cluster.ask("POST", "/api/v1/admin/cluster/drain", {"node_address": "d"})
    assert drained.body["ring"] == {"standing": "leaving", "lacking": 0.0, "hints": 7, "foreign": 2}
    back = await cluster.ask("POST", "/api/v1/admin/cluster/undrain", {"node_address": "d"})
    assert (back.status, back.body["state"]) == (200, "active")
    await cluster.ask("POST", "/api/v1/admin/cluster/drain", {"node_address": "d"})
    double.ring.members.clear()
    double.ring.left.add("id-d")
    late = await cluster.ask("POST", "/api/v1/admin/cluster/undrain", {"node_address": "d"})
    assert (late.status, late.body["error"]) == (409, "node_in_use")
    assert "empty its directory" in late.body["message"]
    gone = await cluster.ask("DELETE", NODES, {"node_address": "d"})
    assert gone.body["state"] == "removed"


async def test_the_word_that_a_drained_node_has_left_the_ring_may_come_late(
    cluster: Rest, double: PlacementDouble
) -> None:
    double.ring.members = {"id-d": Standing("leaving", 0.0, 0, 0)}
    await cluster.ask("POST", "/api/v1/admin/cluster/drain", {"node_address": "d"})
    asyncio.get_running_loop().call_later(0.1, double.ring.members.clear)
    gone = await cluster.ask("DELETE", NODES, {"node_address": "d"})
    assert gone.body["state"] == "removed"


async def test_a_drained_node_that_does_not_leave_the_ring_is_not_removed(
    cluster: Rest, double: PlacementDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LEAVE_S", 0.1)
    double.ring.members = {"id-d": Standing("leaving", 0.0, 9, 0)}
    await cluster.ask("POST", "/api/v1/admin/cluster/drain", {"node_address": "d"})
    stays = await cluster.ask("DELETE", NODES, {"node_address": "d"})
    assert (stays.status, stays.body["error"]) == (409, "node_in_use")


async def test_a_dead_node_is_removed_when_the_ring_goes_on_without_it(
    cluster: Rest, double: PlacementDouble
) -> None:
    double.ring.members = {"id-d": None}
    double.away.add("id-d")
    dead = await cluster.ask("DELETE", NODES, {"node_address": "d", "dead": True})
    assert (dead.status, dead.body["state"]) == (200, "dead")
    assert dead.body["ring"]["standing"] == "away"
    double.ring.members.clear()
    gone = await cluster.ask("DELETE", NODES, {"node_address": "d", "dead": True})
    assert (gone.status, gone.body["state"]) == (200, "removed")


async def test_a_leaderless_keyspace_keeps_as_many_nodes_as_it_has_copies(
    cluster: Rest, double: PlacementDouble
) -> None:
    seats = tuple(RingSeat(f"id-{name}", 16) for name in "abcd")
    double.execute(CreateLeaderless("carts", KeyspaceOptions(replication=4), seats))
    few = await cluster.ask("POST", "/api/v1/admin/cluster/drain", {"node_address": "d"})
    assert (few.status, few.body["error"]) == (409, "too_few_nodes")
    assert "'carts' wants 4 copies of each key; add a node first" in few.body["message"]
