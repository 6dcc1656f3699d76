"""Every call about keyspaces and shards, with what it may be asked and what not."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from kv.division.words import GATHER, JOIN, MERGE, PROPOSE, SPLIT
from raftgroups.meta.commands import AlterKeyspace, SetReplicas

from .conftest import MakeRest, Rest
from .division_double import DivisionDouble, Fate

KEYSPACES = "/api/v1/admin/keyspaces"
DEFAULT = f"{KEYSPACES}/default"
SHARDS = "/api/v1/admin/shards"
LEADERLESS = {"name": "carts", "regime": "leaderless"}


@pytest.fixture
def double() -> DivisionDouble:
    return DivisionDouble()


@pytest.fixture
async def cluster(make_rest: MakeRest, double: DivisionDouble) -> Rest:
    return await make_rest(keyspaces=double.admin)


async def ranges(cluster: Rest) -> list[tuple[int, str, str | None]]:
    answer = await cluster.get(SHARDS)
    assert answer.status == 200
    return [(each["shard"], each["start"], each["end"]) for each in answer.body["shards"]]


# --- keyspaces -----------------------------------------------------------------------------------


async def test_a_keyspace_is_made_shown_changed_and_dropped(
    cluster: Rest, double: DivisionDouble
) -> None:
    options = {"shards_max": 8, "quotas": {"keys": 100}}
    made = await cluster.post(KEYSPACES, {"name": "carts", "shards": 2, "options": options})
    assert (made.status, made.body["name"], made.body["shards"]) == (200, "carts", 2)
    assert (made.body["regime"], made.body["state"]) == ("strong", "active")
    assert made.body["options"]["shards_max"] == 8
    assert made.body["options"]["replication"] == 3, "what is not given is the default"
    listed = (await cluster.get(KEYSPACES)).body["keyspaces"]
    assert [each["name"] for each in listed] == ["default", "carts"]
    one = f"{KEYSPACES}/carts"
    changed = await cluster.ask("PATCH", one, {"quotas": {"watchers": 5}, "merge_bytes": 10})
    assert changed.body["options"]["quotas"] == {
        "bytes": 0,
        "keys": 100,
        "operations_a_second": 0,
        "watchers": 5,
    }
    assert changed.body["options"]["shards_max"] == 8, "what is not given stays"
    assert (await cluster.get(one)).body == changed.body
    dropped = await cluster.ask("DELETE", one)
    assert (dropped.status, dropped.body) == (200, {"name": "carts", "dropped": True})
    found = double.view.keyspace_named("carts")
    assert found is None or found.state == "dropping"


async def test_a_leaderless_keyspace_is_on_the_ring_and_has_majorities(cluster: Rest) -> None:
    made = await cluster.post(KEYSPACES, {**LEADERLESS, "options": {"write_quorum": 3}})
    assert (made.status, made.body["regime"], made.body["shards"]) == (200, "leaderless", 0)
    options = made.body["options"]
    assert (options["replication"], options["read_quorum"], options["write_quorum"]) == (3, 2, 3)
    altered = await cluster.ask("PATCH", f"{KEYSPACES}/carts", {"rule": "lww", "strict": True})
    assert (altered.body["options"]["rule"], altered.body["options"]["strict"]) == ("lww", True)


async def test_one_that_too_few_nodes_serve_yet_is_made_all_the_same_and_that_is_said(
    cluster: Rest, double: DivisionDouble
) -> None:
    double.serving = 1
    answer = await cluster.post(KEYSPACES, LEADERLESS)
    assert (answer.status, answer.body["outcome"]) == (504, "unknown")
    assert "only 1 of the 2 nodes" in answer.body["message"]
    assert (await cluster.get(f"{KEYSPACES}/carts")).status == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("GET", f"{KEYSPACES}/none", None, 404, "keyspace_not_found"),
        ("GET", f"{KEYSPACES}?of=default", None, 400, "invalid_query"),
        ("POST", KEYSPACES, None, 400, "invalid_body"),
        ("POST", KEYSPACES, {}, 400, "invalid_body"),
        ("POST", KEYSPACES, b"{", 400, "invalid_body"),
        ("POST", KEYSPACES, {"name": "default"}, 409, "keyspace_exists"),
        ("POST", KEYSPACES, {"name": "Carts"}, 400, "invalid_body"),
        ("POST", KEYSPACES, {"name": "x" * 64}, 400, "invalid_body"),
        ("POST", KEYSPACES, {"name": "x", "shards": 0}, 400, "invalid_body"),
        ("POST", KEYSPACES, {"name": "x", "shards": 10**6}, 400, "invalid_body"),
        ("POST", KEYSPACES, {"name": "x", "regime": "both"}, 400, "invalid_body"),
        ("POST", KEYSPACES, {"name": "x", "options": {"size": 1}}, 400, "invalid_body"),
        ("POST", KEYSPACES, {"name": "x", "options": {"strict": True}}, 400, "invalid_keyspace"),
        ("POST", KEYSPACES, {**LEADERLESS, "shards": 2}, 400, "invalid_keyspace"),
        ("POST", KEYSPACES, {**LEADERLESS, "options": {"shards_max": 2}}, 400, "invalid_keyspace"),
        ("POST", KEYSPACES, {**LEADERLESS, "options": {"read_quorum": 4}}, 400, "invalid_keyspace"),
        ("PATCH", f"{KEYSPACES}/none", {"shards_max": 2}, 404, "keyspace_not_found"),
        ("PATCH", DEFAULT, {"shards_max": -1}, 400, "invalid_body"),
        ("PATCH", DEFAULT, {"rule": "newest"}, 400, "invalid_body"),
        ("PATCH", DEFAULT, {"rule": "lww"}, 400, "invalid_keyspace"),
        ("PATCH", DEFAULT, {"quotas": {"bytes": 9}}, 400, "invalid_keyspace"),
        ("PATCH", DEFAULT, {"split_bytes": 9, "merge_bytes": 5}, 400, "invalid_keyspace"),
        ("PATCH", DEFAULT, None, 400, "invalid_body"),
        ("DELETE", f"{KEYSPACES}/none", None, 404, "keyspace_not_found"),
        ("DELETE", DEFAULT, None, 400, "invalid_keyspace"),
        ("GET", f"{SHARDS}?of=none", None, 404, "keyspace_not_found"),
        ("GET", f"{SHARDS}?keyspace=default", None, 400, "invalid_query"),
        ("POST", f"{SHARDS}/x/split", {"key": "b"}, 400, "invalid_path"),
        ("POST", f"{SHARDS}/-1/split", {"key": "b"}, 400, "invalid_path"),
        ("POST", f"{SHARDS}/{'9' * 19}/split", {"key": "b"}, 400, "invalid_path"),
        ("POST", f"{SHARDS}/99/split", {"key": "b"}, 404, "no_such_shard"),
        ("POST", f"{SHARDS}/0/split", {"key": "b"}, 404, "no_such_shard"),
        ("POST", f"{SHARDS}/1/split", None, 400, "invalid_body"),
        ("POST", f"{SHARDS}/1/split", {"key": 5}, 400, "invalid_body"),
        ("POST", f"{SHARDS}/1/split", {"key": "?", "key_encoding": "base64"}, 400, "invalid_body"),
        ("POST", f"{SHARDS}/1/split", {"key": "b", "key_encoding": "hex"}, 400, "invalid_body"),
        ("POST", f"{SHARDS}/1/split", {"key": "~"}, 400, "invalid_shards"),
        ("POST", f"{SHARDS}/1/split", {"key": "!/6d5a91c24f0017ab"}, 400, "invalid_shards"),
        ("POST", f"{SHARDS}/x/merge", None, 400, "invalid_path"),
        ("POST", f"{SHARDS}/99/merge", None, 404, "no_such_shard"),
        ("POST", f"{SHARDS}/3/merge", None, 400, "invalid_shards"),
        ("POST", f"{SHARDS}/1/merge", {"right": 3}, 400, "invalid_shards"),
        ("POST", f"{SHARDS}/1/merge", {"right": 99}, 404, "no_such_shard"),
        ("POST", f"{SHARDS}/1/merge", {"right": "2"}, 400, "invalid_body"),
        ("POST", f"{SHARDS}/1/merge", {"with": 2}, 400, "invalid_body"),
        ("DELETE", f"{SHARDS}/x/merge", None, 400, "invalid_path"),
        ("DELETE", f"{SHARDS}/99/merge", None, 404, "no_such_shard"),
        ("DELETE", f"{SHARDS}/0/merge", None, 404, "no_such_shard"),
        ("DELETE", f"{SHARDS}/1/merge", None, 400, "invalid_shards"),
    ],
)
async def test_bad_input_is_told_what_to_do_and_changes_nothing(
    cluster: Rest,
    double: DivisionDouble,
    method: str,
    path: str,
    body: Any,
    status: int,
    error: str,
) -> None:
    before = double.view
    answer = await cluster.ask(method, path, body)
    assert (answer.status, answer.body["error"]) == (status, error), answer.body
    assert answer.body["outcome"] == "none"
    assert len(answer.body["message"]) > 20
    assert double.view is before


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"replication": 2}, "chosen when it is made"), ({"rule": "counter"}, "means something else")],
)
async def test_what_a_leaderless_keyspace_holds_cannot_change_its_meaning(
    cluster: Rest, change: dict[str, Any], reason: str
) -> None:
    assert (await cluster.post(KEYSPACES, LEADERLESS)).status == 200
    answer = await cluster.ask("PATCH", f"{KEYSPACES}/carts", change)
    assert (answer.status, answer.body["error"]) == (400, "invalid_keyspace")
    assert reason in answer.body["message"]


async def test_a_keyspace_whose_shards_are_in_the_middle_of_something_is_not_dropped(
    cluster: Rest, double: DivisionDouble
) -> None:
    assert (await cluster.post(KEYSPACES, {"name": "carts"})).status == 200
    carts = double.view.keyspace_named("carts")
    assert carts is not None
    (shard,) = double.view.shards_of(carts.keyspace)
    double.begin("move", "moving", shard.shard)
    answer = await cluster.ask("DELETE", f"{KEYSPACES}/carts")
    assert (answer.status, answer.body["error"]) == (409, "shard_busy")


async def test_of_two_operators_at_once_one_is_told_to_look_again(
    cluster: Rest, double: DivisionDouble
) -> None:
    known = double.view.keyspaces[1].options
    double.first = [AlterKeyspace("default", known, replace(known, shards_max=5))]
    answer = await cluster.ask("PATCH", DEFAULT, {"merge_bytes": 5})
    assert (answer.status, answer.body["error"]) == (409, "stale_epoch")
    assert "look again" in answer.body["message"]
    assert double.view.keyspaces[1].options == replace(known, shards_max=5)
    shard = double.view.shards[1]
    double.first = [SetReplicas(1, shard.epoch, shard.replicas[:2])]
    answer = await cluster.post(f"{SHARDS}/1/split", {"key": "!b"})
    assert (answer.status, answer.body["error"]) == (409, "stale_epoch")
    assert not double.view.operations


# --- shards --------------------------------------------------------------------------------------


async def test_shards_are_listed_with_leaders_and_what_holds_them(
    cluster: Rest, double: DivisionDouble
) -> None:
    assert (await cluster.post(KEYSPACES, {"name": "carts"})).status == 200
    double.begin(MERGE, GATHER, 1, 2)
    shards = (await cluster.get(SHARDS)).body["shards"]
    assert [each["keyspace"] for each in shards] == ["default"] * 3 + ["carts"]
    first, second, third, _ = shards
    assert (first["leader"], second["leader"]) == ("id-a", None)
    assert first["replicas"] == ["id-a", "id-b", "id-c"]
    assert first["operation"] == second["operation"]
    shown = {name: first["operation"][name] for name in ("kind", "step", "shards", "note")}
    assert shown == {"kind": "merge", "step": "gather", "shards": [1, 2], "note": "asked for"}
    assert "operation" not in third
    of_one = (await cluster.get(f"{SHARDS}?of=carts")).body["shards"]
    assert of_one == shards[3:]


async def test_a_shard_is_split_at_a_key_of_any_bytes(cluster: Rest) -> None:
    (_, _, end), *others = await ranges(cluster)
    split = await cluster.post(f"{SHARDS}/1/split", {"key": "!b"})
    assert split.status == 200
    left, right = split.body["left"], split.body["right"]
    assert (left["shard"], left["start"], left["end"]) == (1, "", "!b")
    assert (right["start"], right["end"]) == ("!b", end)
    assert await ranges(cluster) == [(1, "", "!b"), (right["shard"], "!b", end), *others]
    again = await cluster.post(f"{SHARDS}/1/split", {"key": "!b"})
    assert (again.status, again.body["error"]) == (400, "invalid_shards"), "it begins the other"
    odd = await cluster.post(f"{SHARDS}/3/split", {"key": "/w==", "key_encoding": "base64"})
    assert (odd.body["right"]["start"], odd.body["right"]["key_encoding"]) == ("/w==", "base64")
    assert odd.body["left"]["key_encoding"] == "base64", "one form for both edges"


@pytest.mark.parametrize("body", [None, {}, {"right": 2}, {"right": None}])
async def test_neighbours_are_merged_with_the_right_one_named_or_not(
    cluster: Rest, body: dict[str, int] | None
) -> None:
    before = await ranges(cluster)
    merged = await cluster.post(f"{SHARDS}/1/merge", body)
    assert merged.status == 200
    shown = merged.body["merged"]
    assert (shown["shard"], shown["start"], shown["end"]) == (1, "", before[1][2])
    assert await ranges(cluster) == [(1, "", before[1][2]), before[2]]


@pytest.mark.parametrize(
    ("call", "body"), [("split", {"key": "!b"}), ("merge", None), ("merge", {"right": 2})]
)
async def test_what_is_given_up_was_not_done_and_says_why(
    cluster: Rest, double: DivisionDouble, call: str, body: Any
) -> None:
    double.fate = Fate.GIVEN_UP
    before = await ranges(cluster)
    answer = await cluster.post(f"{SHARDS}/1/{call}", body)
    assert (answer.status, answer.body["error"]) == (503, "unavailable")
    assert (answer.body["outcome"], answer.body["retryable"]) == ("none", True)
    assert "a node with a replica is away" in answer.body["message"]
    assert await ranges(cluster) == before


@pytest.mark.parametrize(("call", "body"), [("split", {"key": "!b"}), ("merge", None)])
async def test_what_takes_longer_than_a_call_goes_on_and_is_named(
    cluster: Rest, double: DivisionDouble, call: str, body: Any
) -> None:
    double.fate = Fate.GOES_ON
    answer = await cluster.post(f"{SHARDS}/1/{call}", body)
    assert (answer.status, answer.body["outcome"]) == (504, "unknown")
    (number,) = double.view.operations
    assert f"has begun (operation {number}) and goes on" in answer.body["message"]
    for other in ("split", "merge"):
        busy = await cluster.post(f"{SHARDS}/1/{other}", {"key": "!c"} if other == "split" else {})
        assert (busy.status, busy.body["error"]) == (409, "shard_busy")
        assert f"operation {number}" in busy.body["message"]


@pytest.mark.parametrize("shard", [1, 2])
async def test_a_merge_that_gathers_is_ended_by_either_of_its_shards(
    cluster: Rest, double: DivisionDouble, shard: int
) -> None:
    before = await ranges(cluster)
    double.begin(MERGE, GATHER, 1, 2)
    ended = await cluster.ask("DELETE", f"{SHARDS}/{shard}/merge")
    assert ended.status == 200
    assert (ended.body["ended"]["kind"], ended.body["ended"]["shards"]) == ("merge", [1, 2])
    assert not double.view.operations
    assert await ranges(cluster) == before
    again = await cluster.ask("DELETE", f"{SHARDS}/{shard}/merge")
    assert (again.status, again.body["error"]) == (400, "invalid_shards")
    assert (await cluster.post(f"{SHARDS}/1/split", {"key": "!b"})).status == 200, "it is free"


@pytest.mark.parametrize(
    ("kind", "step", "shards", "status", "error"),
    [
        (MERGE, JOIN, (1, 2), 409, "shard_busy"),
        (SPLIT, PROPOSE, (1,), 400, "invalid_shards"),
        ("move", "moving", (1,), 400, "invalid_shards"),
    ],
)
async def test_nothing_else_is_ended_by_that_call(
    cluster: Rest,
    double: DivisionDouble,
    kind: str,
    step: str,
    shards: tuple[int, ...],
    status: int,
    error: str,
) -> None:
    double.begin(kind, step, *shards)
    before = double.view
    answer = await cluster.ask("DELETE", f"{SHARDS}/1/merge")
    assert (answer.status, answer.body["error"]) == (status, error)
    assert double.view is before


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", KEYSPACES, None),
        ("POST", KEYSPACES, {"name": "x"}),
        ("GET", DEFAULT, None),
        ("PATCH", DEFAULT, {"shards_max": 2}),
        ("DELETE", f"{KEYSPACES}/x", None),
        ("GET", SHARDS, None),
        ("POST", f"{SHARDS}/1/split", {"key": "b"}),
        ("POST", f"{SHARDS}/1/merge", None),
        ("DELETE", f"{SHARDS}/1/merge", None),
    ],
)
async def test_a_node_without_a_map_sends_to_another_one(
    rest: Rest, method: str, path: str, body: Any
) -> None:
    assert await rest.refused(method, path, body) == (503, "unavailable")
