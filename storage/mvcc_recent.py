"""The newest records of keys that were written or read lately, so that they are not read again.

A put needs the record that it replaces, and a get the newest one. Both ask the layers of what is
not on the disk yet (mvcc_overlay.py), then this, then the engine, which costs a look through its
tables, two checksums and a copy. Measured over 10,000 keys on a busy machine, in turn: finding a
record took half as long (1.6 us instead of 3.2).

Two generations: what is learned goes into the young one; once that is full it becomes the old one,
and what was old is forgotten. So a look-up is at most two, forgetting costs nothing an entry, and
the memory is bounded. How much it is worth depends on how many of the keys in use fit: over 10,000
keys of 100 bytes, put at random, two of 2 MiB knew half of them, of 5 MiB nine of ten, which
saved a tenth of a put's processor time. Whoever has many shards divides the memory among them.

Invariant: a body here is what the engine holds of that key once the layers above are on the disk.
Whoever writes keys past the layers, or changes which keys the shard has, calls `forget`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

GENERATION_BYTES: Final = 2 * 1024 * 1024
"""Of a shard that nobody gave a share."""
ENTRY_BYTES: Final = 160
"""What an entry costs in memory besides its bytes."""
BODY_MAX_BYTES: Final = 8 * 1024
"""Of the average of what is learned together. Larger ones are read again: copying them is what they
cost."""


class Recent:
    __slots__ = ("_size_bytes", "generation_bytes", "old", "young")

    def __init__(self) -> None:
        self.young: dict[bytes, bytes] = {}
        """Looked at first. (Read by View.newest, which is too hot for a call.)"""
        self.old: dict[bytes, bytes] = {}
        self.generation_bytes = GENERATION_BYTES
        self._size_bytes = 0

    def limit(self, generation_bytes: int) -> None:
        """So much may stay from now on; less than before: nothing of what is here does."""
        if generation_bytes < self.generation_bytes:
            self.forget()
        self.generation_bytes = generation_bytes

    def learn(self, key: bytes, body: bytes) -> None:
        """It was read from the engine."""
        size = len(body)
        if size <= BODY_MAX_BYTES:
            self.young[key] = body
            self._grow(ENTRY_BYTES + len(key) + size)

    def written(self, bodies: Mapping[bytes, bytes]) -> None:
        """What a layer held is on the disk; it replaces all that was known of these keys."""
        size = sum(map(len, bodies)) + sum(map(len, bodies.values()))
        if size <= self.generation_bytes and size <= BODY_MAX_BYTES * len(bodies):
            self.young.update(bodies)
            self._grow(ENTRY_BYTES * len(bodies) + size)
            return
        for key, body in bodies.items():
            self.young.pop(key, None)
            self.old.pop(key, None)
            self.learn(key, body)

    def _grow(self, size_bytes: int) -> None:
        self._size_bytes += size_bytes
        if self._size_bytes > self.generation_bytes:
            self.old, self.young, self._size_bytes = self.young, {}, 0

    def forget(self) -> None:
        self.old, self.young, self._size_bytes = {}, {}, 0
