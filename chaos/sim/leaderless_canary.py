"""Known bugs of the leaderless regime, put back one at a time: the storms must notice each.

A canary changes a name of a module for as long as one run lasts, and nothing in the shipped code
knows of it, but for the switches of the pure rules (dvv.Canary, reap.Canary, StorageCanary).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from kv.leaderless import dvv, rules
from kv.leaderless import replica as replica_module
from kv.leaderless.dvv import Canary, Minter
from kv.leaderless.frames import Reply, Status
from kv.leaderless.handoff import Handoff
from kv.leaderless.housekeeping import Housekeeping
from kv.leaderless.put_core import PutCore
from kv.leaderless.reap import Canary as ReapCanary
from kv.leaderless.replica import Replica
from raftgroups.transport import NodeId
from storage.engine import Batch
from storage.hints import Hint, key_has_hints
from storage.siblings import Clock
from storage.versions import StorageCanary, Turn

Patch = tuple[object, str, Any]


def _hint_dropped() -> list[Patch]:
    """A hint counts as delivered without having been sent; its stand-in gives up its copy."""

    def drop(handoff: Handoff, target: NodeId, run: Any, hint: Hint) -> None:
        run.under_way += 1
        stored = Reply(0, Status.STORED, b"")
        handoff._parts.scheduler.call_soon(handoff._told, target, hint, stored)

    return [(Handoff, "_send", drop)]


def _answered_before_sync() -> list[Patch]:
    prepare = Replica.prepare

    def hasty(replica: Replica, batch: Batch) -> None:
        prepare(replica, batch)
        answers, replica._answers = replica._answers, []
        for change, answer in answers:
            change.finish(answer)

    return [(Replica, "prepare", hasty)]


def _waiting_copy_not_sent() -> list[Patch]:
    """A stand-in leaves its copy alone while a hint of the key waits, and nobody replays it."""

    def waits(house: Housekeeping, keyspace: int, key: bytes, digest: int) -> bool:
        return key_has_hints(house._parts.replica.reader(), keyspace, key)

    return [(Housekeeping, "_waits", waits)]


def _stand_ins_count() -> list[Patch]:
    """A strict write counts stand-ins as owners, so the quorum of a strict read may miss it."""
    return [(PutCore, "_counted", lambda core: list(core._stored))]


def _storage(canary: StorageCanary) -> list[Patch]:
    return [(replica_module, "Turn", partial(Turn, canaries=frozenset({canary})))]


def _minting(canary: Canary) -> list[Patch]:
    return [(replica_module, "Minter", partial(Minter, canaries=frozenset({canary})))]


def _fold_over_gap() -> list[Patch]:
    join = dvv.join

    def folding(a: Clock, b: Clock, canaries: object = None) -> Clock:
        return join(a, b, frozenset({Canary.FOLD_OVER_GAP}))

    return [(dvv, "join", folding), (rules, "join", folding)]


CANARIES: Final[dict[str, Callable[[], list[Patch]]]] = {
    "hint-dropped": _hint_dropped,
    "answered-before-sync": _answered_before_sync,
    "merkle-leaf-not-updated": lambda: _storage(StorageCanary.LEAF_NOT_UPDATED),
    "dot-reused-after-restart": lambda: _storage(StorageCanary.EPOCH_NOT_KEPT),
    "minting-at-non-holder": lambda: _minting(Canary.MINT_AT_NON_HOLDER),
    "dot-reused-after-reap": lambda: _minting(Canary.REUSE_AFTER_REAP),
    "fold-over-gap": _fold_over_gap,
    "waiting-copy-not-sent": _waiting_copy_not_sent,
    "tombstone-reaped-early": list,
    "stand-ins-count-as-owners": _stand_ins_count,
}
STRICT: Final = frozenset({"stand-ins-count-as-owners"})
"""Only storms in which keyspaces come and go have strict clients."""
REAPING: Final = {"tombstone-reaped-early": frozenset({ReapCanary.NO_WAVES})}
"""Canaries that are a switch of the reaper."""


@contextmanager
def put_back(canary: str | None) -> Iterator[frozenset[ReapCanary]]:
    """For the time of one run; gives the switches for the reaper."""
    patches = CANARIES[canary]() if canary else []
    before = [(place, name, getattr(place, name)) for place, name, _ in patches]
    try:
        for place, name, value in patches:
            setattr(place, name, value)
        yield REAPING.get(canary or "", frozenset())
    finally:
        for place, name, value in before:
            setattr(place, name, value)
