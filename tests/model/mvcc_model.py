"""The model that MVCC is held to, and the strategies of its test.

For every revision the whole map as a plain dict, and the events that led to it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hypothesis import strategies as st

from storage.mvcc import Shard
from storage.mvcc_records import Event, KeyValue
from storage.mvcc_scope import WriteScope


class Place(NamedTuple):
    shard: int
    keyspace: int
    start: bytes
    end: bytes | None
    keys: list[bytes]


PLACES = [
    Place(1, 7, b"", b"m", [b"\x00", b"a", b"a\x00", b"a\x00\x01", b"a\xff", b"b" * 432, b"c"]),
    Place(2, 7, b"m", None, [b"m", b"m\x00", b"n", b"\xff", b"\xff\xff", b"z" * 432]),
    Place(3, 8, b"", None, [b"a", b"b", b"c", b"d", b"m", b"\xff" * 432]),
]
VALUES = [b"", b"one", b"two", b"\x00\xff", b"x" * 300]
LEASES = [0, 0, 1, 2, 2**63 - 1]


def wall_ms(revision: int) -> int:
    """Of the scope that makes this revision: known or not, and not monotone."""
    return 0 if revision % 4 == 0 else 2**41 - revision


@dataclass
class Model:
    """`at[r]` is the whole map at revision r; `events[r]` what happened in it."""

    at: dict[int, dict[bytes, KeyValue]] = field(default_factory=lambda: {1: {}})
    events: dict[int, list[Event]] = field(default_factory=dict)
    compacted: int = -1

    @property
    def revision(self) -> int:
        return len(self.at)

    @property
    def now(self) -> dict[bytes, KeyValue]:
        return self.at[self.revision]

    def happened(self, first: int) -> list[Event]:
        revisions = range(first, self.revision + 1)
        return [event for at in revisions for event in self.events.get(at, [])]


class Transaction:
    """Operations of one revision on the model."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.revision = model.revision + 1
        self.map = dict(model.now)
        self.events: list[Event] = []

    def put(self, key: bytes, value: bytes, lease: int) -> KeyValue | None:
        old = self.map.get(key)
        create, version = (old.create_revision, old.version + 1) if old else (self.revision, 1)
        wall = wall_ms(self.revision)
        new = KeyValue(key, create, self.revision, version, lease, value, wall)
        self.map[key] = new
        self.events.append(Event(False, new, old))
        return old

    def delete(self, key: bytes) -> KeyValue | None:
        old = self.map.pop(key, None)
        if old:
            gone = KeyValue(key, 0, self.revision, 0, 0, b"", wall_ms(self.revision))
            self.events.append(Event(True, gone, old))
        return old

    def delete_range(self, start: bytes, end: bytes | None) -> list[KeyValue]:
        found = list(inside(self.map, start, end))
        for old in found:
            self.delete(old.key)
        return found

    def commit(self) -> None:
        if self.events:
            self.model.at[self.revision] = self.map
            self.model.events[self.revision] = self.events


def inside(records: dict[bytes, KeyValue], start: bytes, end: bytes | None) -> list[KeyValue]:
    return [records[k] for k in sorted(records) if k >= start and (end is None or k < end)]


Operation = tuple[Any, ...]
"""("put", key, value, lease) | ("delete", key) | ("delete_range", start, end)"""
Entry = tuple[str, Any]
"""("write", operations) | ("abort", operations) | ("compact", revision)"""


def run(target: WriteScope | Transaction, operation: Operation) -> Any:
    if operation[0] == "put":
        _, key, value, lease = operation
        if isinstance(target, Transaction):
            return target.put(key, value, lease)
        return target.put(key, value, lease, want_previous=True)
    if operation[0] == "delete":
        return target.delete(operation[1])
    return target.delete_range(*operation[1:])


def apply(shard: Shard, index: int, entry: Entry) -> list[Any]:
    """What a state machine does with an entry of its log."""
    kind, payload = entry
    results = []
    if kind == "compact":
        shard.compact(payload)
    else:
        scope = shard.begin(wall_ms(shard.state.revision + 1))
        results = [run(scope, operation) for operation in payload]
        if kind == "write":
            scope.commit()
        else:
            scope.abort()
    shard.mark_applied(index)
    return results


def bounds_of(place: Place) -> st.SearchStrategy[tuple[bytes, bytes | None]]:
    points = sorted({place.start, *place.keys, *(key[:2] + b"\x01" for key in place.keys)})
    starts = [p for p in points if p >= place.start and (place.end is None or p < place.end)]
    return st.tuples(st.sampled_from(starts), st.sampled_from([place.end, *starts]))


def operation_of(place: Place) -> st.SearchStrategy[Operation]:
    keys = st.sampled_from(place.keys)
    put = st.tuples(st.just("put"), keys, st.sampled_from(VALUES), st.sampled_from(LEASES))
    ranged = bounds_of(place).map(lambda bounds: ("delete_range", *bounds))
    return st.one_of(put, put, put, st.tuples(st.just("delete"), keys), ranged)


Change = tuple[str, Any]
"""The name of a method of the machine and its argument."""


def change_of(place: Place) -> st.SearchStrategy[Change]:
    operations = st.lists(operation_of(place), min_size=1, max_size=4)
    kinds = st.sampled_from(["write", "write", "write", "abort", "write_and_look"])
    return st.one_of(
        st.tuples(kinds, operations),
        st.tuples(kinds, operations),
        st.tuples(st.just("overwrite"), st.integers(1, 40)),
        st.tuples(st.just("compact"), st.integers(-1, 8)),
    )


# Built once: a flatmap, which builds anew at each draw, took most of the test's time.
BOUNDS = [bounds_of(place) for place in PLACES]
ONE_CHANGE = [change_of(place) for place in PLACES]
NTH = st.integers(0, len(PLACES) - 1)


@st.composite
def place_and_bounds(draw: st.DrawFn) -> tuple[Place, tuple[bytes, bytes | None]]:
    nth = draw(NTH)
    return PLACES[nth], draw(BOUNDS[nth])


@st.composite
def place_and_change(draw: st.DrawFn) -> tuple[Place, Change]:
    nth = draw(NTH)
    return PLACES[nth], draw(ONE_CHANGE[nth])


Changes = list[tuple[Place, Change]]
CHANGES = st.lists(place_and_change(), max_size=8)
SMALL = st.sampled_from([1, 2, 3, 100])
BACK = st.one_of(st.integers(-1, 6), st.integers(0, 60))
"""How many revisions before the newest to read at."""
