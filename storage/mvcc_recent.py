"""The newest records of keys that were written or read lately, found in one look.

A put needs the record that it replaces, and a get the newest one. Both ask here first, then the
layers of what is not on the disk yet (mvcc_overlay.py), then the engine, which costs a look through
its tables, two checksums and a copy.

Two generations: what is learned goes into the young one; once that is full it becomes the old one,
and what was old is forgotten. So a look is at most two, forgetting costs nothing an entry, and the
memory is bounded. A key that is written again takes no more room, so keys that fit into one
generation stay, however often they are written. Whoever has many shards divides the memory among
them.

Invariant: a body here is the newest record of its key among everything applied, on the disk or not,
so whoever changes a record tells it, and who takes a change back drops the key; the young
generation has it if both have one. Whoever writes keys past the layers, or changes which keys the
shard has, calls `forget`. Pure.
"""

from __future__ import annotations

from typing import Final

GENERATION_BYTES: Final = 2 * 1024 * 1024
"""Of a shard that nobody gave a share."""
ENTRY_BYTES: Final = 160
"""What an entry costs in memory besides its bytes."""
BODY_MAX_BYTES: Final = 8 * 1024
"""Larger ones are read again: copying them is what they cost."""


class Recent:
    __slots__ = ("_size_bytes", "generation_bytes", "old", "young")

    def __init__(self) -> None:
        self.young: dict[bytes, bytes] = {}
        """Looked at first. Read by View.newest and written by Shard.put_each, too hot for a call:
        they do what `know` does."""
        self.old: dict[bytes, bytes] = {}
        self.generation_bytes = GENERATION_BYTES
        self._size_bytes = 0
        """Of the young ones."""

    def limit(self, generation_bytes: int) -> None:
        """So much may stay from now on; less than before: nothing of what is here does."""
        if generation_bytes < self.generation_bytes:
            self.forget()
        self.generation_bytes = generation_bytes

    def know(self, key: bytes, body: bytes) -> None:
        """It is the newest record of this key: just made, or read where nothing newer is."""
        size = len(body)
        if size > BODY_MAX_BYTES:
            self.drop(key)
            return
        known = self.young.get(key)
        self.young[key] = body
        self.grow(ENTRY_BYTES + len(key) + size if known is None else size - len(known))

    def drop(self, key: bytes) -> None:
        """What is known of this key is not the newest."""
        known = self.young.pop(key, None)
        if known is not None:
            self._size_bytes -= ENTRY_BYTES + len(key) + len(known)
        self.old.pop(key, None)

    def grow(self, size_bytes: int) -> None:
        """The young ones have so many bytes more, each entry with its ENTRY_BYTES."""
        self._size_bytes += size_bytes
        if self._size_bytes > self.generation_bytes:
            self.old, self.young, self._size_bytes = self.young, {}, 0

    def forget(self) -> None:
        self.old, self.young, self._size_bytes = {}, {}, 0
