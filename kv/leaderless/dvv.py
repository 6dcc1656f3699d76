"""The rules of dotted version vectors: who may name a change, and what is known of it where.

A dot names one change of one key: (node, incarnation, key epoch, n). A set's clock has exactly the
dots that its replica has seen or was told were replaced, so a version that a clock covers and its
set lacks was replaced, and one that it does not cover is news. Everything else follows:

    merge   a version stays if both sets have it, or if one has it and the other's clock does not
            cover it; the clocks join. Commutative, associative, idempotent.
    write   the versions that the context covers go, the new one comes under a new dot, and the
            clock joins the context. Without a context nothing goes: a sibling.

Minting. A dot that named two changes would make replicas throw one of them away, silently. So:

1. Only a node that stores the key's record mints, from that record, and syncs the result before
   anybody else sees it: n is one more than all that this actor did, without a gap.
2. A node that holds no record of the key, or none that this incarnation minted for, takes a new
   epoch from a persisted counter. Records are forgotten (reaped tombstones, delivered hints); their
   dots live on in other nodes' clocks and in clients' contexts, and must not come again.
3. A directory that was lost or restored has forgotten what it did: it is a new incarnation. If
   somebody knows more of our own dots than we do (`regressed`), that was not observed: minting is
   refused until the node has a new incarnation.
4. A clock is never rounded up: dots beyond a gap stay explicit (`join`), else the change inside the
   gap would look replaced when it arrives.

Each rule has a canary, a switch that breaks it, and a test that sees the loss.

Expiry. An expired version is shed by each replica on its own: the value goes, dot, timestamp and
expiry stay. In a merge the shed form wins. So it can never come back, and an older version that it
outranked by timestamp does not come back either. This file is pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import ClassVar, Final

import msgspec
from msgspec.structs import replace

from raftgroups.transport import NodeId
from storage.errors import InvalidRequestError, JanusError
from storage.objects import Record
from storage.siblings import EMPTY_CLOCK, Actor, Clock, Dot, SiblingSet, Version


class Canary(StrEnum):
    """Known bugs that a test switches on, to see that it would be caught."""

    MINT_AT_NON_HOLDER = "mint_at_non_holder"
    """n is taken from the client's context, by a node that stores nothing."""
    FOLD_OVER_GAP = "fold_over_gap"
    """A clock claims everything up to the highest dot."""
    REUSE_AFTER_RESTART = "reuse_after_restart"
    """A lost directory keeps its old identity."""
    REUSE_AFTER_REAP = "reuse_after_reap"
    """A forgotten record begins again in the epoch that it had."""


Canaries = frozenset[Canary]
NO_CANARIES: Final[Canaries] = frozenset()


class SiblingLimitError(InvalidRequestError):
    """The write would leave too many concurrent versions. Nothing was done."""

    code = "too_many_siblings"


class StaleIncarnationError(JanusError):
    """This node's directory is older than dots that it minted before: it must not mint."""

    code = "stale_incarnation"
    retryable: ClassVar[bool] = True


class Context(msgspec.Struct, frozen=True, gc=False):
    """What a reader saw: the clock of his answer and its highest timestamp."""

    clock: Clock = EMPTY_CLOCK
    timestamp: int = 0


# --- clocks ----------------------------------------------------------------------------------


def join(a: Clock, b: Clock, canaries: Canaries = NO_CANARIES) -> Clock:
    """Everything that either has seen, and nothing else. May be one of the two itself."""
    if not b.beyond and all(n <= a.base.get(actor, 0) for actor, n in b.base.items()):
        return a  # what a context most often is; it saves 30% of apply_write
    base = _larger(a, b)
    beyond: dict[Actor, tuple[int, ...]] = {}
    for actor in a.beyond.keys() | b.beyond.keys():
        past = {*a.beyond.get(actor, ()), *b.beyond.get(actor, ())}
        reached = base.get(actor, 0)
        while reached + 1 in past:
            reached += 1
        if Canary.FOLD_OVER_GAP in canaries:
            reached = max(reached, *past)
        if reached:
            base[actor] = reached
        left = tuple(sorted(n for n in past if n > reached))
        if left:
            beyond[actor] = left
    return Clock(base, beyond)


def _larger(a: Clock, b: Clock) -> dict[Actor, int]:
    base = dict(a.base)
    for actor, n in b.base.items():
        if n > base.get(actor, 0):
            base[actor] = n
    return base


def with_dot(clock: Clock, dot: Dot, canaries: Canaries = NO_CANARIES) -> Clock:
    actor = dot.actor
    if dot.n == clock.base.get(actor, 0) + 1 and actor not in clock.beyond:
        return Clock({**clock.base, actor: dot.n}, clock.beyond)
    if clock.covers(dot):
        return clock
    return join(clock, Clock({}, {dot.actor: (dot.n,)}), canaries)


def covers_clock(clock: Clock, other: Clock) -> bool:
    """Whether every dot of `other` is in `clock`."""
    return join(clock, other) == clock


# --- sets ------------------------------------------------------------------------------------


def merge(a: SiblingSet, b: SiblingSet, canaries: Canaries = NO_CANARIES) -> SiblingSet:
    """What a replica that has seen both knows."""
    if a == b:
        return a
    ours = {version.dot: version for version in a.versions}
    theirs = {version.dot: version for version in b.versions}
    kept: list[Version] = []
    for dot in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(dot), theirs.get(dot)
        if mine is not None and other is not None:
            kept.append(mine if mine == other else _of_one_dot(mine, other))
        elif mine is not None:
            if not b.clock.covers(dot):
                kept.append(mine)
        elif other is not None and not a.clock.covers(dot):
            kept.append(other)
    return SiblingSet(tuple(kept), join(a.clock, b.clock, canaries))


def merge_all(sets: Iterable[SiblingSet]) -> SiblingSet:
    merged = SiblingSet()
    for siblings in sets:
        merged = merge(merged, siblings)
    return merged


def _of_one_dot(a: Version, b: Version) -> Version:
    """Two forms of one version: the shed one. If a dot was reused after all, every replica at least
    takes the same of the two (`reused_dots` tells that it happened)."""
    return max(a, b, key=lambda v: (v.value is None, v.timestamp, v.expiry_ms, v.value or b""))


def reused_dots(a: SiblingSet, b: SiblingSet) -> list[Dot]:
    """Dots that name different changes in the two sets. Must be empty: a metric and an alarm."""
    ours = {version.dot: version for version in a.versions}
    reused = []
    for other in b.versions:
        mine = ours.get(other.dot, other)
        stripped = replace(mine, value=other.value)
        shed = mine.expiry_ms > 0 and None in (mine.value, other.value)
        if stripped != other or (mine.value != other.value and not shed):
            reused.append(other.dot)
    return reused


def shed_expired(siblings: SiblingSet, now_ms: int) -> SiblingSet:
    """The set without the values that have expired; the same object if there are none."""
    if not any(v.value is not None and v.dead(now_ms) for v in siblings.versions):
        return siblings
    versions = tuple(
        replace(v, value=None) if v.value is not None and v.dead(now_ms) else v
        for v in siblings.versions
    )
    return SiblingSet(versions, siblings.clock)


def context_of(siblings: SiblingSet) -> Context:
    """What to give to a reader of this set, no more: its clock."""
    return Context(siblings.clock, max((v.timestamp for v in siblings.versions), default=0))


# --- minting ---------------------------------------------------------------------------------


class Minter(msgspec.Struct, frozen=True, gc=False):
    """The node that mints."""

    node: NodeId
    incarnation: int
    next_epoch: Callable[[], int]
    """A new epoch, persisted together with the record that uses it (storage/versions.py)."""
    canaries: Canaries = NO_CANARIES

    def mint(self, record: Record | None, context: Clock = EMPTY_CLOCK) -> tuple[Dot, int]:
        """A dot for a change to this record, and the epoch to store with the result.

        `record` is what this node itself stores of the key, None if nothing. The caller stores the
        result and syncs it before it shows the dot to anyone.
        """
        clock = record.siblings.clock if record is not None else EMPTY_CLOCK
        if self.canaries:
            broken = self._mint_wrongly(clock, context)
            if broken is not None:
                return broken, broken.epoch
        epoch = record.epoch if record is not None else 0
        actor = Actor(self.node, self.incarnation, epoch)
        done = clock.base.get(actor, 0)
        if not epoch or not done:
            epoch, done = self.next_epoch(), 0
            actor = Actor(self.node, self.incarnation, epoch)
        if max(clock.highest(actor), context.highest(actor)) > done:
            raise StaleIncarnationError(
                f"node {self.node} has minted {done} dots in epoch {epoch} as far as it knows, and "
                "others know of more: its directory is older than its past; nothing was written; "
                "it goes on as a new incarnation"
            )
        return Dot(*actor, done + 1), epoch

    def _mint_wrongly(self, clock: Clock, context: Clock) -> Dot | None:
        incarnation, epoch = self.incarnation, 1
        known = clock
        if Canary.MINT_AT_NON_HOLDER in self.canaries:
            known = context
        elif Canary.REUSE_AFTER_RESTART in self.canaries:
            incarnation = 0
        elif Canary.REUSE_AFTER_REAP not in self.canaries:
            return None
        actor = Actor(self.node, incarnation, epoch)
        return Dot(*actor, known.base.get(actor, 0) + 1)


class Received(msgspec.Struct, frozen=True, gc=False):
    record: Record
    changed: bool
    """The record is not what it was: store it."""
    regressed: bool
    """Others know more of this node's own dots than it does: take a new incarnation."""
    reused: tuple[Dot, ...]


def receive(
    record: Record | None,
    incoming: SiblingSet,
    *,
    node: NodeId,
    incarnation: int,
    last_epoch: int,
) -> Received:
    """What a node holds after a set came from another one. Never refused: it only adds.

    `last_epoch` is the last one that this incarnation gave out.
    """
    held = record or Record(SiblingSet())
    merged = merge(held.siblings, incoming)
    regressed = False
    for actor in incoming.clock.actors():
        if actor.node == node and actor.incarnation == incarnation:
            done = held.siblings.clock.base.get(actor, 0)
            ours = actor.epoch == held.epoch and done > 0
            regressed |= actor.epoch > last_epoch
            regressed |= ours and incoming.clock.highest(actor) > done
    return Received(
        Record(merged, held.epoch),
        changed=record is None or merged != held.siblings,
        regressed=regressed,
        reused=tuple(reused_dots(held.siblings, incoming)),
    )
