"""Known bugs of what goes over several shards or governs them, put back one at a time; each is
noticed.

A canary changes names of modules for as long as one run lasts; nothing in the shipped code knows of
it. What those of transactions break is a sentence of raftgroups/twophase.py or intents.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from chaos.sim import lister
from kv.api import listing
from kv.api.listing import Page, Part
from kv.placement import mover, observed
from kv.reading import ShardReader
from kv.strong.lease_ends import LeaseEnds
from kv.watch import merged
from kv.watch.index import KeyRange
from kv.watch.watcher import WatchRequest
from raftgroups import handlers, twophase
from raftgroups.commands import Decide, Prepare, Push
from raftgroups.footprint import Span, spans_of_part
from raftgroups.intents import Intents
from raftgroups.lease import Leases
from raftgroups.meta.commands import MetaCommand
from raftgroups.results import DecideResult, PushResult, TxnStatus
from storage.errors import WrongShardError

Patch = tuple[Any, Any, Any]
"""(a class, module or dict, a name in it, what stands there meanwhile)"""


def _no_locks() -> list[Patch]:
    def conflicts(intents: Intents, spans: Iterable[Span], own: object = None) -> list[Any]:
        return []

    return [(Intents, "conflicts", conflicts)]


def _phantoms() -> list[Patch]:
    """Ranges that are read are not locked, so that what appears in them is not noticed."""

    def spans(prepare: Prepare) -> list[Span]:
        found = spans_of_part(prepare)
        return [each for each in found if each[2] or each[1] == each[0] + b"\x00"] or found[:1]

    return [(twophase, "spans_of_part", spans)]


def _dropped_at_split() -> list[Patch]:
    """The right half of a split is born without locks."""
    true = Intents.divide

    def divide(intents: Intents, key: bytes, right: int) -> list[tuple[bytes, bytes]]:
        true(intents, key, right)
        return []

    return [(Intents, "divide", divide)]


def _record_left_behind() -> list[Patch]:
    """The record of a transaction stays in the left half, wherever its anchor goes."""
    true = Intents.divide

    def divide(intents: Intents, key: bytes, right: int) -> list[tuple[bytes, bytes]]:
        records = intents.records
        intents.records = {}
        rows = true(intents, key, right)
        intents.records = records
        return rows

    return [(Intents, "divide", divide)]


def _dropped_at_merge() -> list[Patch]:
    """What the right neighbour had locked is free once it is absorbed."""

    def unite(intents: Intents, other: Intents, shift_ms: int) -> None:
        """Nothing is taken over."""

    return [(Intents, "unite", unite)]


def _not_read_back() -> list[Patch]:
    """Locks are lost with a restart, and do not come with a snapshot."""

    def load(intents: Intents, reader: object) -> None:
        """Nothing is read."""

    return [(Intents, "load", load)]


def _decided_without_record() -> list[Patch]:
    """Whoever was pushed away commits all the same."""
    true = twophase.decide

    def decide(shard: Any, command: Decide) -> DecideResult:
        found = true(shard, command)
        if found.committed:
            return found
        here = twophase._resolve_here(shard, command.txn, True, command.taken)
        return DecideResult(here.revision, True, command.taken, here)

    return [(handlers.HANDLERS, Decide, decide)]


def _committed_pushed_away() -> list[Patch]:
    """A committed transaction can be pushed away: its parts are dropped where others meet them."""

    def push(shard: Any, command: Push) -> PushResult:
        shard.view.check_owned(command.txn.anchor)
        shard.intents.forget(command.txn.id)
        shard.intents.remove(command.txn.id)
        return PushResult(shard.shard.state.revision, TxnStatus.GONE)

    return [(handlers.HANDLERS, Push, push)]


def _listed_elsewhere() -> list[Patch]:
    """A part of a listing whose keys are another shard's now counts as empty."""
    true = listing.part_of

    def part_of(reader: ShardReader, page: Page) -> Part:
        try:
            return true(reader, page)
        except WrongShardError:
            edge = reader.view.segments.own.end
            if edge is None or page.reverse:
                raise
            rest = page._replace(start=edge, revision=0)
            return Part([], rest, False, reader.shard, reader.revision, reader.revision)

    return [(lister, "part_of", part_of)]


def _ends_not_driven() -> list[Patch]:
    """The end of a lease is known at its home alone."""

    def drive(ends: LeaseEnds, home: object) -> None:
        """Nobody is told."""

    return [(LeaseEnds, "drive", drive)]


def _not_renewed() -> list[Patch]:
    """A lease ends when its first time is over, though it was kept alive."""

    def keep_alive(leases: Leases, lease: int, clock_ms: int) -> int:
        found = leases.get(lease)
        return 0 if found is None or found.deadline_ms <= clock_ms else found.ttl_s

    return [(Leases, "keep_alive", keep_alive)]


def _watch_from_now() -> list[Patch]:
    """A merged watch that comes to another hub goes on from now, not from where it was."""

    def request(keys: KeyRange, start: int = 0, **options: bool) -> WatchRequest:
        return WatchRequest(keys, 0, **options)

    return [(merged, "WatchRequest", request)]


def _not_declared() -> list[Patch]:
    """Nobody is declared dead, however long he is silent."""

    def corrections(*args: Any, dead_after_s: float, **more: Any) -> list[MetaCommand]:
        return observed.corrections(*args, dead_after_s=0.0, **more)

    return [(mover, "corrections", corrections)]


def _declared_at_once() -> list[Patch]:
    """Who does not answer at once is declared dead."""

    def corrections(*args: Any, dead_after_s: float, **more: Any) -> list[MetaCommand]:
        return observed.corrections(*args, dead_after_s=dead_after_s / 100, **more)

    return [(mover, "corrections", corrections)]


GOVERNED: Final[dict[str, Callable[[], list[Patch]]]] = {
    "dead-not-declared": _not_declared,
    "declared-dead-at-once": _declared_at_once,
}
"""For clusters that govern themselves (governed.py)."""
SERVED: Final[dict[str, Callable[[], list[Patch]]]] = {
    "lease-ends-not-driven": _ends_not_driven,
    "leases-not-renewed": _not_renewed,
    "watch-goes-on-from-now": _watch_from_now,
}
"""For nodes that serve (served.py)."""
PATCHED: Final[dict[str, Callable[[], list[Patch]]]] = {
    **SERVED,
    **GOVERNED,
    "listed-elsewhere": _listed_elsewhere,
    "no-txn-locks": _no_locks,
    "phantoms-not-locked": _phantoms,
    "locks-dropped-at-split": _dropped_at_split,
    "record-not-with-its-anchor": _record_left_behind,
    "locks-dropped-at-merge": _dropped_at_merge,
    "locks-not-read-back": _not_read_back,
    "decided-without-record": _decided_without_record,
    "committed-pushed-away": _committed_pushed_away,
}


@contextmanager
def sabotaged(canaries: Collection[str]) -> Iterator[None]:
    done: list[Patch] = []
    try:
        for name in sorted(canaries & PATCHED.keys()):
            for place, key, value in PATCHED[name]():
                done.append((place, key, _set(place, key, value)))
        yield
    finally:
        for place, key, before in reversed(done):
            _set(place, key, before)


def _set(place: Any, key: Any, value: Any) -> Any:
    """Returns what stood there."""
    if isinstance(place, dict):
        before, place[key] = place[key], value
        return before
    before = getattr(place, key)
    setattr(place, key, value)
    return before
