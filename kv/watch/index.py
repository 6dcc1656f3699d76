"""Which watched ranges hold a key: asked for every event of a commit, so it has to be quick.

Three structures, by the shape of the range, because most watches are of the first two:

    one key            a dict by the key                               one lookup
    a prefix           a dict by the prefix, and the lengths in use    one lookup a distinct length
    any other range    interval_tree.py                                O(log n) a range found

Every range is in it once; what many watchers of one range share hangs on the value.
"""

from __future__ import annotations

from typing import Final, Generic, NamedTuple, TypeVar

from kv.watch.interval_tree import IntervalTree
from storage.codec import KEY_MAX_BYTES, prefix_end

V = TypeVar("V")

ABOVE_ALL_KEYS: Final = b"\xff" * (KEY_MAX_BYTES + 1)
FIRST_KEY: Final = b"\x00"


class KeyRange(NamedTuple):
    """start <= key < end; `end=None` is unbounded. Make them with the functions below, so that
    equal sets of keys are equal ranges."""

    start: bytes
    end: bytes | None

    def holds(self, key: bytes) -> bool:
        return self.start <= key and (self.end is None or key < self.end)

    def covers(self, other: KeyRange) -> bool:
        """Whether every key of the other is in this one."""
        if other.is_empty:
            return True
        ends = self.end is None or (other.end is not None and other.end <= self.end)
        return self.start <= other.start and ends

    @property
    def is_empty(self) -> bool:
        return self.end is not None and self.end <= self.start

    @property
    def is_single(self) -> bool:
        return self.end == self.start + b"\x00"

    @property
    def is_prefix(self) -> bool:
        return self.end == prefix_end(self.start)


def one_key(key: bytes) -> KeyRange:
    return KeyRange(key, key + b"\x00")


def with_prefix(prefix: bytes) -> KeyRange:
    return KeyRange(prefix, prefix_end(prefix))


def key_range(start: bytes, end: bytes | None) -> KeyRange:
    if start == FIRST_KEY and (end is None or end > start):
        start = b""  # no key is empty, so both begin before the first key
    if end is not None and end >= ABOVE_ALL_KEYS:
        end = None
    return KeyRange(start, end)


EVERYTHING: Final = KeyRange(b"", None)


class RangeIndex(Generic[V]):
    __slots__ = ("_keys", "_lengths", "_others", "_prefixes", "_used_lengths")

    def __init__(self) -> None:
        self._keys: dict[bytes, V] = {}
        self._prefixes: dict[bytes, V] = {}
        self._used_lengths: dict[int, int] = {}
        """How many prefixes have each length."""
        self._lengths: tuple[int, ...] = ()
        """The lengths in use, rising."""
        self._others: IntervalTree[V] = IntervalTree()

    def __len__(self) -> int:
        return len(self._keys) + len(self._prefixes) + len(self._others)

    def add(self, watched: KeyRange, value: V) -> None:
        """A range that is neither empty nor already there."""
        assert not watched.is_empty
        start, end = watched
        if watched.is_single:
            assert start not in self._keys
            self._keys[start] = value
        elif watched.is_prefix:
            assert start not in self._prefixes
            self._prefixes[start] = value
            self._count_length(len(start), 1)
        else:
            self._others.add(start, ABOVE_ALL_KEYS if end is None else end, value)

    def remove(self, watched: KeyRange) -> None:
        """It must be there."""
        start, end = watched
        if watched.is_single:
            del self._keys[start]
        elif watched.is_prefix:
            del self._prefixes[start]
            self._count_length(len(start), -1)
        else:
            self._others.remove(start, ABOVE_ALL_KEYS if end is None else end)

    def _count_length(self, length: int, change: int) -> None:
        count = self._used_lengths.get(length, 0) + change
        if count:
            self._used_lengths[length] = count
        else:
            del self._used_lengths[length]
        if count == 0 or count == change:
            self._lengths = tuple(sorted(self._used_lengths))

    def find(self, key: bytes) -> list[V]:
        """The values of all ranges that hold the key."""
        found: list[V] = []
        value = self._keys.get(key)
        if value is not None:
            found.append(value)
        size = len(key)
        for length in self._lengths:
            if length > size:
                break
            value = self._prefixes.get(key[:length])
            if value is not None:
                found.append(value)
        if self._others:
            self._others.collect(key, found)
        return found
