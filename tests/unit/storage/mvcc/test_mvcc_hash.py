"""Replicas that hold the same agree, and any difference shows."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from storage.errors import CompactedError
from storage.mvcc_hash import ShardDigest, ShardHash

from .conftest import Bench

MakeBench = Callable[..., Bench]


def digest(bench: Bench, *, max_keys: int = 3) -> ShardDigest:
    walk = ShardHash(bench.shard.view)
    while (found := walk.step(bench.shard.view, max_keys=max_keys)) is None:
        pass
    return found


def fill(bench: Bench) -> None:
    for nth in range(20):
        bench.put(b"%d" % (nth % 8), b"%d" % nth, lease=nth % 3)
    bench.delete(b"3")
    bench.shard.mark_applied(21)


def put_at(bench: Bench, wall_ms: int) -> int:
    bench.wall_ms = wall_ms
    return bench.put(b"1", b"17")


def test_storage_makes_no_difference(make_bench: MakeBench) -> None:
    pending, stored, compacted = make_bench(), make_bench(), make_bench()
    for bench in (pending, stored, compacted):
        fill(bench)
    stored.commit()
    compacted.commit()
    compacted.shard.compact(20)
    compacted.sweep()
    assert digest(pending) == digest(stored) == digest(compacted)
    assert digest(pending, max_keys=1) == digest(stored, max_keys=1_000)
    assert digest(stored)[:3] == (21, 22, 7)


@pytest.mark.parametrize(
    "differ",
    [
        lambda bench: bench.put(b"1", b"another value"),
        lambda bench: bench.put(b"1", b"17", lease=5),
        lambda bench: bench.put(b"11", b"17"),
        lambda bench: bench.delete(b"1"),
        lambda bench: put_at(bench, 1),
    ],
    ids=["value", "lease", "key", "absent", "time"],
)
def test_a_difference_shows(make_bench: MakeBench, differ: Callable[[Bench], int]) -> None:
    one, two = make_bench(), make_bench()
    for bench in (one, two):
        fill(bench)
    one.put(b"1", b"17")
    differ(two)
    assert one.shard.state.revision == two.shard.state.revision
    assert digest(one).digest != digest(two).digest


def test_an_empty_shard_has_a_digest(bench: Bench) -> None:
    assert digest(bench)[:3] == (0, 1, 0)


def test_the_walk_stays_at_its_revision(bench: Bench) -> None:
    fill(bench)
    expected = digest(bench)
    walk = ShardHash(bench.shard.view)
    assert walk.step(bench.shard.view, max_keys=2) is None
    for nth in range(8):
        bench.put(b"%d" % nth, b"later")
    bench.commit()
    while (found := walk.step(bench.shard.view, max_keys=2)) is None:
        pass
    assert found == expected


def test_compaction_ends_a_walk_that_it_overtakes(bench: Bench) -> None:
    fill(bench)
    walk = ShardHash(bench.shard.view)
    assert walk.step(bench.shard.view, max_keys=2) is None
    bench.put(b"1")
    bench.shard.compact(23)
    with pytest.raises(CompactedError):
        walk.step(bench.shard.view)
