"""Parts of a page or count: they end at the edge of their shard, and begin nowhere but in it."""

from __future__ import annotations

from typing import Any

import pytest

from kv.api.listing import Page, count_part, part_of
from kv.strong.machine import ServedMachine
from kv.strong.reader import ReplicaReader
from raftgroups.commands import Put, encode
from raftgroups.machine_parts import ShardPlace
from storage.errors import WrongShardError
from storage.latest import Latest
from storage.memory import MemoryEngine
from storage.system_clock import SystemClock


@pytest.fixture
def middle() -> Any:
    """The shard [g, p), with the keys g, h, i."""
    machine = ServedMachine(
        Latest(MemoryEngine(), SystemClock()), ShardPlace(4, 4, 1, 4, b"g", b"p")
    )
    for index, key in enumerate((b"g", b"h", b"i"), 1):
        machine.apply(index, encode(Put(key, b"v")))
    return ReplicaReader(machine, 4, lambda: 0)


def keys_of(part: Any) -> list[str]:
    return [each.key for each in part.keys]


def test_a_part_goes_on_in_the_next_shard_at_its_own_revision(middle: Any) -> None:
    part = part_of(middle, Page(b"h", None, 10, revision=3, whole=(b"", None)))
    assert keys_of(part) == ["h"]
    assert part.rest is not None
    assert (part.rest.start, part.rest.end, part.rest.revision) == (b"p", None, 0)
    assert not part.bounded


def test_a_full_part_goes_on_behind_its_last_key(middle: Any) -> None:
    part = part_of(middle, Page(b"g", None, 2))
    assert keys_of(part) == ["g", "h"]
    assert part.rest is not None
    assert (part.rest.start, part.rest.revision, part.bounded) == (b"i", 4, True)


def test_the_last_part_has_no_rest(middle: Any) -> None:
    assert part_of(middle, Page(b"g", b"p", 10)).rest is None
    assert part_of(middle, Page(b"g", b"p", 10, reverse=True)).rest is None


def test_in_reverse_a_part_goes_on_below_its_shard(middle: Any) -> None:
    part = part_of(middle, Page(b"", b"p", 10, reverse=True))
    assert keys_of(part) == ["i", "h", "g"]
    assert part.rest is not None
    assert (part.rest.start, part.rest.end) == (b"", b"g")


@pytest.mark.parametrize(
    "page",
    [
        Page(b"p", None, 10),
        Page(b"q", None, 10),
        Page(b"a", None, 10),
        Page(b"", b"g", 10, reverse=True),
        Page(b"", None, 10, reverse=True),
    ],
)
def test_a_part_that_begins_elsewhere_is_refused(middle: Any, page: Page) -> None:
    with pytest.raises(WrongShardError):
        part_of(middle, page)


def test_a_count_goes_on_in_the_next_shard(middle: Any) -> None:
    counted = count_part(middle, b"h", None, 0)
    assert (counted.total, counted.resume, counted.revision) == (2, b"p", 0)
    assert count_part(middle, b"g", b"i", 0).resume is None
    with pytest.raises(WrongShardError):
        count_part(middle, b"p", None, 0)
