"""A page of a listing: merged of several nodes, and never beyond what all of them have told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kv.cluster.ring import Member, Ring
from kv.leaderless.quorum import Level
from kv.leaderless.scan_core import ScanCore, level_of
from raftgroups.transport import NodeId
from storage.siblings import Actor, Clock, Dot, SiblingSet, Version


def _set(node: str) -> SiblingSet:
    return SiblingSet((Version(Dot(node, 1, 1, 1), b"v", 1),), Clock({Actor(node, 1, 1): 1}))


@given(
    held=st.lists(st.sets(st.binary(min_size=1, max_size=2)), min_size=1, max_size=4),
    limit=st.integers(1, 5),
    size=st.integers(1, 4),
)
def test_every_key_comes_once_and_merged(held: list[set[bytes]], limit: int, size: int) -> None:
    start, seen = b"", []
    while True:
        core = ScanCore(limit)
        for number, keys in enumerate(held):
            rest = sorted(key for key in keys if key >= start)
            page = [(key, _set(f"n{number}")) for key in rest[:size]]
            core.add(page, page[-1][0] if page else None, len(rest) > size)
        found = core.page()
        assert len(found.items) <= limit
        seen += found.items
        if found.resume is None:
            break
        assert found.resume > start
        start = found.resume
    assert [key for key, _ in seen] == sorted(set().union(*held))
    for key, siblings in seen:
        assert len(siblings.versions) == sum(key in keys for keys in held)


def test_every_range_needs_an_owner_that_answered() -> None:
    nodes = [NodeId(f"n{number}") for number in range(5)]
    ring = Ring(Member(node, 64) for node in nodes)
    assert level_of(ring, 3, nodes) is Level.ALL
    assert level_of(ring, 3, nodes[1:]) is Level.QUORUM
    assert level_of(ring, 3, nodes[2:]) is Level.ONE
    assert level_of(ring, 3, nodes[3:]) is None
    assert level_of(ring, 3, []) is None
