"""What clusters begin with; where replicas go."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from kv.meta.beginning import fresh, implied_view, meta_hosts, new_shards, upgraded
from kv.meta.map_file import FILE_NAME, read_map, write_map
from raftgroups.meta.records import KeyspaceOptions, NodeRecord, NodeState, ShardRecord, ShardState
from raftgroups.meta.rules import execute
from raftgroups.meta.view import MetaView


def nodes(count: int, racks: int = 0) -> list[NodeRecord]:
    return [
        NodeRecord(
            f"node{number:03}",
            number + 1,
            f"n{number}",
            ("127.0.0.1", 7000 + number),
            rack=f"r{number % racks}" if racks else "",
        )
        for number in range(count)
    ]


def test_hosts_of_the_meta_group_are_an_odd_few() -> None:
    names = [f"n{number}" for number in range(9)]
    assert [len(meta_hosts(names[:count])) for count in range(1, 9)] == [1, 2, 3, 3, 5, 5, 5, 5]
    assert meta_hosts(list(reversed(names))) == meta_hosts(names)


@pytest.mark.parametrize(("count", "shards"), [(1, 1), (3, 8), (4, 8), (5, 13), (10, 64)])
def test_no_node_has_more_than_its_share(count: int, shards: int) -> None:
    members = nodes(count)
    made = new_shards(members, shards, 3)
    assert all(len(set(each.founders)) == min(3, count) for each in made)
    load = Counter(node for each in made for node, _ in each.founders)
    assert max(load.values()) - min(load[each.node] for each in members) <= 1
    assert made == new_shards(list(reversed(members)), shards, 3)


@pytest.mark.parametrize("count", [3, 4, 5, 7])
def test_keyspaces_made_one_after_the_other_stay_even(count: int) -> None:
    members = nodes(count)
    present: list[ShardRecord] = []
    for shards in (1, 5, 3, 8, 2):
        made = new_shards(members, shards, 3, present)
        present += [
            ShardRecord(
                len(present) + place + 1,
                1,
                each.start,
                each.end,
                1,
                replicas=tuple(node for node, _ in each.founders),
            )
            for place, each in enumerate(made)
        ]
        load = Counter(node for each in present for node in each.replicas)
        assert max(load.values()) - min(load[each.node] for each in members) <= 1


def test_nodes_that_drain_get_nothing() -> None:
    draining = NodeRecord("gone", 9, "gone", ("127.0.0.1", 1), state=NodeState.DRAINING)
    made = new_shards([*nodes(4), draining], 8, 3)
    assert all("gone" not in dict(each.founders) for each in made)


def test_a_fresh_cluster_is_taken_by_the_rules() -> None:
    members = nodes(5)
    command = fresh(members, 8, KeyspaceOptions(), meta_hosts([each.node for each in members]))
    view, _ = execute(MetaView(), command, 0)
    table = view.table(1)
    assert table is not None
    assert len(table.shards) == 8
    assert {each.state for each in table.shards} == {ShardState.FORMING}
    assert len(view.meta_replicas) == 5


def test_an_old_directory_keeps_its_only_shard() -> None:
    members = nodes(3)
    view, _ = execute(MetaView(), upgraded(members, KeyspaceOptions()), 0)
    implied = implied_view([each.node for each in members])
    assert implied.version < view.version
    for each in (view, implied):
        (shard,) = each.shards_of(1)
        assert (shard.shard, shard.start, shard.end, shard.founders) == (1, b"", None, ())
        assert shard.replicas == tuple(member.node for member in members)


def test_the_map_survives_in_a_file(tmp_path: Path) -> None:
    assert read_map(tmp_path) is None
    view, _ = execute(MetaView(), upgraded(nodes(3), KeyspaceOptions()), 0)
    write_map(tmp_path, view)
    assert read_map(tmp_path) == view
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    assert read_map(tmp_path) is None
