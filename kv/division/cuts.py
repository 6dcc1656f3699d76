"""Where a shard is cut if nobody names a key, and where not if somebody does. Pure.

A lock works only while the places of its queue (kv/lock_keys.py) lie in one shard. So a cut that
would fall among such keys goes before the first of them that may be; if the shard begins with them
there is nothing else to cut: they are taken for plain keys. Who names such a key is told so, and
may cut before them first, and then where they like.

Whoever has the record at hand knows it for certain (`before_known`): a node does, for the keys that
it shows. Elsewhere, and for keys that are gone, it is guessed from how they look (`before_queue`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kv.lock_keys import place_at

SHARE_MIN: Final = 0.2
"""A cut by load leaves each half at least so much of it; else one key, or two, carry it all."""
CHOSEN_MIN: Final = 16**11
"""Lease numbers that a node chose are no smaller, nearly all of them."""


def before_known(key: bytes, lease: int, start: bytes) -> bytes:
    """Where to cut instead of at a key that hangs on this lease, in a shard that begins there:
    before the queue, if it is a place in one."""
    place = place_at(key)
    if place is None or place.lease != lease or place.queue <= start:
        return key
    return place.queue


def before_queue(cut: bytes, start: bytes) -> bytes:
    """The cut, moved out of what looks like the queue of a lock in a shard that begins there."""
    place = place_at(cut)
    if place is None or place.lease < CHOSEN_MIN or place.queue <= start:
        return cut
    return place.queue


def refusal_of(cut: bytes, start: bytes) -> str:
    """Why a shard that begins there should not be cut at a key that somebody named, and what to do
    instead; empty if it may."""
    before = before_queue(cut, start)
    if before == cut:
        return ""
    return (
        f"{cut!r} looks like a place in the queue of the lock {before[:-1]!r}, and a lock works "
        f"only while its queue lies in one shard: split at {before!r}; if these are plain keys, "
        "split there first and then among them"
    )


def middle_of(
    marks: Iterable[tuple[bytes, float]], start: bytes = b"", end: bytes | None = None
) -> bytes:
    """Where a cut halves the load, as evenly as can be; empty if none leaves both halves enough."""
    weights: dict[bytes, float] = {}
    for key, weight in marks:
        if key >= start and (end is None or key < end):
            weights[key] = weights.get(key, 0.0) + weight
    total, before, best, found = sum(weights.values()), 0.0, 0.0, b""
    for key in sorted(weights):
        least = min(before, total - before)
        if key > start and least > best:
            best, found = least, key
        before += weights[key]
    return before_queue(found, start) if best >= SHARE_MIN * total > 0 else b""
