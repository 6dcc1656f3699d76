"""The name of a transaction over several shards, as commands, rows and refusals carry it. Pure."""

from __future__ import annotations

import msgspec

TxnId = tuple[bytes, int]


class TxnRef(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """client and number: who coordinates it, and its number there. Both are also an idempotency
    token that nothing else uses (twophase.py says what is remembered under it).
    stamp_ms: since when it wants what it wants, by that node's wall clock; kept by its later
    attempts. The older one goes first; clocks that disagree cost fairness, nothing else.
    anchor: the key under which it is decided."""

    client: bytes
    number: int
    stamp_ms: int
    anchor: bytes

    @property
    def id(self) -> TxnId:
        return self.client, self.number

    @property
    def age(self) -> tuple[int, bytes, int]:
        """The smaller one is older, and wounds the others."""
        return self.stamp_ms, self.client, self.number
