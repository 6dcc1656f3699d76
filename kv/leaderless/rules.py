"""What a write makes of a record, and what a reader is told, by the keyspace's merge rule.

    rule      a write replaces                    a reader gets
    siblings  what its context covers             every live version; parts of a counter as one
              incr: its minter's own last part    (their sum)
    lww       all that the minter holds           the version of the highest timestamp
    max       all that the minter holds           the largest number
    union     all that the minter holds           the union of the lists
    counter   incr: its minter's own last part    the sum of all parts
              put:  what its context covers,
                    or all that the minter holds

Replicas merge sets by dvv.merge whatever the rule is, so all convergence rests on one function: a
rule only decides what a new version replaces and how several are read as one. For max and union the
new version's value already includes what it replaces, so nothing is lost by replacing it; lww
loses the older of two concurrent writes on purpose. Under these rules a set holds at most one
version an actor, so it needs no cap.

A counter is a PN-counter whose parts are versions: each actor has one, the signed sum of what was
added at it, and its next replaces its last. A part's order is its dot's, so there is no need for
separate sums of plus and minus. A delete with a context removes the parts that its reader saw;
an increment concurrent with it brings its own actor's part back, whole.

Where siblings are kept, a key becomes a counter with its first increment: its parts are marked, and
plain values and parts of one key are siblings of each other. So a put beside an increment loses
neither; the next increment is refused until somebody has decided. In a `counter` keyspace every
value is a part, and nothing is marked.

A delete is a version without a value. It is dead, as an expired one is, and readers are not told of
it. The next write of the key replaces it whatever its context; else it stays until the whole key is
reaped (reap.py). This file is pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final

import msgspec

from kv.leaderless.dvv import (
    Context,
    Minter,
    SiblingLimitError,
    join,
    shed_expired,
    with_dot,
)
from kv.leaderless.hlc import HybridClock
from storage.errors import InvalidRequestError
from storage.objects import Record
from storage.siblings import EMPTY_CLOCK, Clock, SiblingSet, Version

_NUMBER: Final = re.compile(rb"-?\d{1,40}(\.\d{1,40})?\Z")
_WHOLE: Final = re.compile(rb"-?\d{1,40}\Z")


class Rule(StrEnum):
    SIBLINGS = "siblings"
    LWW = "lww"
    MAX = "max"
    UNION = "union"
    COUNTER = "counter"


class NoCounterError(InvalidRequestError):
    """An increment of a key that holds something else."""

    code = "not_a_counter"


class ValueRuleError(InvalidRequestError):
    """The value is not of the kind that the keyspace's merge rule works on."""

    code = "value_not_for_rule"


@dataclass(frozen=True, slots=True)
class SetLimits:
    """Of the live versions that one write may leave. Merging never refuses: it must converge."""

    siblings: int = 50
    size_bytes: int = 8 * 1024 * 1024


class Write(msgspec.Struct, frozen=True, gc=False):
    """A put, or a delete if the value is None."""

    value: bytes | None
    context: Context | None = None
    expiry_ms: int = 0


class Increment(msgspec.Struct, frozen=True, gc=False):
    delta: int
    expiry_ms: int = 0


class Live(msgspec.Struct, frozen=True, gc=False):
    """One value as a reader sees it."""

    value: bytes
    timestamp: int
    expiry_ms: int


# --- writing ---------------------------------------------------------------------------------


def apply_write(
    rule: Rule,
    record: Record | None,
    change: Write | Increment,
    *,
    minter: Minter,
    clock: HybridClock,
    now_ms: int,
    limits: SetLimits | None = None,
) -> Record:
    """The record after a write at a node that stores it. What is refused mints nothing."""
    siblings = shed_expired(record.siblings, now_ms) if record is not None else SiblingSet()
    value: bytes | None
    if isinstance(change, Increment):
        kept, value = _increment(rule, siblings, change.delta, minter, record)
        context = Context()
    else:
        context = change.context or Context()
        check_value_for_rule(rule, change.value)
        kept = _kept(rule, siblings, change)
        value = _folded(rule, siblings, change.value)
    _check_limits(kept, value, limits or SetLimits())
    part = rule is Rule.SIBLINGS and isinstance(change, Increment)
    dot, epoch = minter.mint(record, context.clock)
    seen = max((version.timestamp for version in siblings.versions), default=0)
    timestamp = clock.next(now_ms, above=max(seen, context.timestamp))
    versions = sorted([*kept, Version(dot, value, timestamp, change.expiry_ms, part)], key=_dot)
    known = siblings.clock
    if context.clock:
        known = join(known, context.clock, minter.canaries)
    return Record(SiblingSet(tuple(versions), with_dot(known, dot, minter.canaries)), epoch)


def check_value_for_rule(rule: Rule, value: bytes | None) -> None:
    """Refuse a value that the rule cannot work on. Deletes and opaque rules take anything."""
    if value is None or rule in (Rule.SIBLINGS, Rule.LWW):
        return
    if rule is Rule.UNION:
        if _elements(value) is None:
            raise ValueRuleError(
                "this keyspace merges by union: the value must be a JSON list of strings"
            )
    elif not (_WHOLE if rule is Rule.COUNTER else _NUMBER).match(value):
        kind = "a whole number" if rule is Rule.COUNTER else "a decimal number"
        raise ValueRuleError(
            f"this keyspace merges by {rule}: the value must be {kind} of at most 40 digits"
        )


def _kept(rule: Rule, siblings: SiblingSet, change: Write) -> list[Version]:
    """The versions that stay beside the new one. Dead ones do not: the clock remembers what they
    replaced, and what is left of them is only that they are there."""
    by_context = rule is Rule.SIBLINGS or (rule is Rule.COUNTER and change.context is not None)
    if not by_context:
        return []
    clock: Clock = change.context.clock if change.context is not None else EMPTY_CLOCK
    return [
        version
        for version in siblings.versions
        if version.value is not None and not clock.covers(version.dot)
    ]


def _folded(rule: Rule, siblings: SiblingSet, value: bytes | None) -> bytes | None:
    """The new version's value: with what it replaces, where the rule says so."""
    if value is None or rule not in (Rule.MAX, Rule.UNION):
        return value
    present = [v.value for v in siblings.versions if v.value is not None]
    return _largest([*present, value]) if rule is Rule.MAX else _union([*present, value])


def _increment(
    rule: Rule, siblings: SiblingSet, delta: int, minter: Minter, record: Record | None
) -> tuple[list[Version], bytes]:
    if rule not in (Rule.COUNTER, Rule.SIBLINGS):
        raise ValueRuleError(
            f"this keyspace merges by {rule}: only one that merges by counter or siblings can "
            "increment without losing concurrent increments; read, add and put with the context"
        )
    living = [version for version in siblings.versions if version.value is not None]
    if rule is Rule.SIBLINGS and not all(version.part for version in living):
        raise NoCounterError(
            "the key holds a value that no increment made, and it cannot be added to; delete it, "
            "with the context of a read, or count under another key"
        )
    own = (minter.node, minter.incarnation, record.epoch if record is not None else 0)
    total, kept = delta, []
    for version in siblings.versions:
        if version.dot[:3] == own:
            total += int(version.value or b"0")
        elif version.value is not None:
            kept.append(version)
    return kept, b"%d" % total


def _check_limits(kept: list[Version], value: bytes | None, limits: SetLimits) -> None:
    count = sum(not version.part for version in kept) + 1
    size_bytes = sum(len(version.value or b"") for version in kept) + len(value or b"")
    if kept and (count > limits.siblings or size_bytes > limits.size_bytes):
        raise SiblingLimitError(
            f"this write would leave {count} concurrent versions of {size_bytes} bytes, and the "
            f"limits are {limits.siblings} and {limits.size_bytes}; read the key, merge what you "
            "get, and write with the context of that answer"
        )


# --- reading ---------------------------------------------------------------------------------


def resolve(rule: Rule, siblings: SiblingSet, now_ms: int) -> tuple[Live, ...]:
    """What a reader is told: nothing if the key does not live, one value, or all siblings."""
    if rule is Rule.LWW:
        latest = max(siblings.versions, key=lambda v: (v.timestamp, v.dot), default=None)
        return _lives([latest] if latest is not None else [], now_ms)
    if rule is Rule.SIBLINGS:
        return _siblings(siblings.versions, now_ms)
    lives = _lives(siblings.versions, now_ms)
    if not lives:
        return lives
    values = [live.value for live in lives]
    if rule is Rule.MAX:
        value = _largest(values)
    elif rule is Rule.UNION:
        value = _union(values)
    else:
        value = _sum(values)
    return (_as_one(lives, value),)


def _siblings(versions: tuple[Version, ...], now_ms: int) -> tuple[Live, ...]:
    """Plain values as they are, parts of a counter as their sum, behind them."""
    if not any(version.part for version in versions):  # nearly always
        return _lives(versions, now_ms)
    plain = _lives((version for version in versions if not version.part), now_ms)
    parts = _lives((version for version in versions if version.part), now_ms)
    if not parts:
        return plain
    return (*plain, _as_one(parts, _sum([part.value for part in parts])))


def _sum(values: list[bytes]) -> bytes:
    return b"%d" % sum(int(part) for part in values)


def _as_one(lives: tuple[Live, ...], value: bytes) -> Live:
    """It lives as long as one of them does."""
    lasting = any(not live.expiry_ms for live in lives)
    return Live(
        value,
        max(live.timestamp for live in lives),
        0 if lasting else max(live.expiry_ms for live in lives),
    )


def counted(rule: Rule, siblings: SiblingSet, now_ms: int) -> int:
    """The sum of the parts of a counter that live, whatever else the key holds."""
    return sum(
        int(version.value)
        for version in siblings.versions
        if (version.part or rule is Rule.COUNTER)
        and version.value is not None
        and not version.dead(now_ms)
    )


def _lives(versions: Iterable[Version], now_ms: int) -> tuple[Live, ...]:
    return tuple(
        Live(version.value, version.timestamp, version.expiry_ms)
        for version in versions
        if version.value is not None and not version.dead(now_ms)
    )


# --- values ----------------------------------------------------------------------------------


def _dot(version: Version) -> tuple[object, ...]:
    return version.dot


def _largest(values: list[bytes]) -> bytes:
    # Equal numbers may be written in different ways; the bytes decide, the same on every node.
    return max(values, key=lambda value: (Decimal(value.decode()), value))


def _elements(value: bytes) -> list[str] | None:
    try:
        found = json.loads(value)
        if isinstance(found, list) and all(isinstance(element, str) for element in found):
            "".join(found).encode()  # JSON can spell half a character, which UTF-8 cannot hold
            return found
    except (ValueError, RecursionError):
        pass
    return None


def _union(values: list[bytes]) -> bytes:
    elements = {element for value in values for element in _elements(value) or ()}
    return json.dumps(sorted(elements), ensure_ascii=False, separators=(",", ":")).encode()
