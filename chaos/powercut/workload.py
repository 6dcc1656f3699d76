"""Numbered batches and the state after each of them. Pure.

Batch i is a function of (seed, i) alone, so writer and verifier need to exchange nothing. It holds:

- `head` = i: tells which prefix of the batches a database shows;
- new keys with values of many sizes, some over a page (LMDB's overflow pages, several WAL blocks);
- overwritten slots, a deleted key, a deleted range of an old batch's keys.

A database is right exactly if all it holds is `states[head]`: then each batch up to head is whole,
none after it is visible, and every value is right. Some batches are written with sync=False: they
are promised only by the next synced one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from storage.engine import Batch, Op

HEAD_KEY: Final = b"head"
SLOTS: Final = 16
HISTORY_BATCHES: Final = 12
"""Older batches' keys are deleted, so that pages and files are used again."""


@dataclass(frozen=True, slots=True)
class Workload:
    seed: int
    batches: int
    value_max_bytes: int = 900
    large_every: int = 7
    large_max_bytes: int = 24_000

    def is_synced(self, number: int) -> bool:
        """Four of five are, or, in every other run of 20 batches, one of five."""
        return (number % 5 == 0) == (number // 20 % 2 == 1)

    def batch(self, number: int) -> Batch:
        assert 1 <= number <= self.batches
        dice = _Bytes(f"{self.seed}:{number}".encode())
        batch = Batch()
        old = number - HISTORY_BATCHES
        if old > 0:
            batch.delete_range(b"log/%08d/" % old, b"log/%08d0" % old)
        batch.delete(b"slot/%02d" % dice.below(SLOTS))
        for index in range(1 + dice.below(10)):
            value = dice.value(number, 1 + dice.below(self.value_max_bytes))
            batch.put(b"log/%08d/%02d" % (number, index), value)
        for _ in range(3):
            batch.put(b"slot/%02d" % dice.below(SLOTS), dice.value(number, 8 + dice.below(200)))
        if self.large_every and number % self.large_every == 0:
            size = 1 + dice.below(self.large_max_bytes)
            batch.put(b"log/%08d/large" % number, dice.value(number, size))
        batch.put(HEAD_KEY, b"%d" % number)
        return batch


class States:
    """The state after 0, 1, 2, ... batches, worked out as far as it was asked for."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._known: list[dict[bytes, bytes]] = [{}]

    def __getitem__(self, number: int) -> dict[bytes, bytes]:
        while len(self._known) <= number:
            state = dict(self._known[-1])
            apply(state, self._workload.batch(len(self._known)))
            self._known.append(state)
        return self._known[number]

    def difference(self, found: Mapping[bytes, bytes]) -> str | None:
        """Why this is not the state after a prefix of the batches; None if it is one."""
        head = head_of(found)
        if not 0 <= head <= self._workload.batches:
            return f"head is {head}, which was never written"
        wanted = self[head]
        if found == wanted:
            return None
        key = min(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
        if key not in found:
            return f"head is {head}, but {key!r} of a batch up to it is missing"
        if key not in wanted:
            return f"head is {head}, but {key!r} is there, which no such prefix holds"
        return f"head is {head}, but {key!r} has a value that it does not have then"


def apply(state: dict[bytes, bytes], batch: Batch) -> None:
    """What a batch does, said once more and without an engine."""
    for op, key, value in batch.operations:
        if op is Op.PUT:
            assert value is not None
            state[key] = value
        elif op is Op.DELETE:
            state.pop(key, None)
        else:
            for gone in [k for k in state if k >= key and (value is None or k < value)]:
                del state[gone]


def head_of(found: Mapping[bytes, bytes]) -> int:
    text = found.get(HEAD_KEY, b"0")
    return int(text) if text.isdigit() else -1


class _Bytes:
    """Deterministic numbers and values out of a hash."""

    def __init__(self, seed: bytes) -> None:
        self._stream = hashlib.shake_128(seed).digest(512)
        self._at = 0

    def below(self, stop: int) -> int:
        part = self._stream[self._at : self._at + 4]
        assert len(part) == 4, "a batch takes fewer than 128 numbers"
        self._at += 4
        return int.from_bytes(part, "big") % stop

    def value(self, number: int, size: int) -> bytes:
        """Bytes that neither compress to nothing nor repeat in another batch."""
        return hashlib.shake_128(b"%d:%d:" % (number, self._at) + self._stream[:16]).digest(size)
