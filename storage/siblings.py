"""Sibling sets: what a leaderless key holds, and the bytes it is stored and sent as.

A node that changes a key mints a dot, the name of that one change. A clock says which dots a
replica has seen; a version is a value (or a tombstone) under the dot that wrote it; a sibling set
is the versions that nobody has replaced yet, together with the clock. The rules of minting and
merging are not here (kv/leaderless/dvv.py): this file knows data, invariants and bytes.

Invariants
- a clock is in normal form: per actor every n of 1..base is seen, `beyond` holds the seen n past
  the first gap in rising order, so its smallest is at least base + 2;
- the versions stand in the order of their dots, each dot once, and the clock covers every one;
- equal sets have equal bytes and equal bytes are equal sets: `decode` refuses every input that
  `encode` would not have written (order, number width, trailing bytes), so two replicas compare
  their sets by comparing bytes, or a hash of them.

The digest form leaves out the value of versions that expire (its dot names the value), so that
the moment at which a replica sheds an expired value never makes it look different from another.

Every byte stands in FORMAT-versions.md. This file is pure.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from storage.errors import StorageError

NODE_ID_MAX_BYTES: Final = 64
SET_FORMAT: Final = 1
U64_MAX: Final = (1 << 64) - 1

_TOMBSTONE: Final = 1
_EXPIRES: Final = 2
_WITHOUT_VALUE: Final = 4
_PART: Final = 8
_KNOWN_FLAGS: Final = _TOMBSTONE | _EXPIRES | _PART
_U64: Final = struct.Struct(">Q")
_WHOLE: Final = re.compile(rb"-?\d{1,40}\Z")


class MalformedSetError(StorageError):
    """Bytes that are not a sibling set or a clock in canonical form."""

    code = "malformed_set"


class Actor(NamedTuple):
    """Who mints: one life of one key's record on one node. A named tuple and not a dataclass,
    because actors and dots are dictionary keys and a tuple hashes in C."""

    node: str
    """The node's id, 1 to 64 bytes of UTF-8."""
    incarnation: int
    """u64, new whenever the node's directory was lost or restored."""
    epoch: int
    """u64 from a persisted counter of the node, new whenever it held no record of the key."""


class Dot(NamedTuple):
    """One change: the n-th (from 1, without a gap) of its actor for its key."""

    node: str
    incarnation: int
    epoch: int
    n: int

    @property
    def actor(self) -> Actor:
        return Actor(self.node, self.incarnation, self.epoch)


class Clock(msgspec.Struct, frozen=True, gc=False):
    """The dots that a replica has seen of one key."""

    base: Mapping[Actor, int] = msgspec.field(default_factory=dict)
    """Every n from 1 to this was seen. At least 1: an actor without one has no entry."""
    beyond: Mapping[Actor, tuple[int, ...]] = msgspec.field(default_factory=dict)
    """Seen past a gap, rising, the first at least base + 2. Never an empty tuple."""

    def covers(self, dot: Dot) -> bool:
        actor = dot[:3]
        # Plain tuples equal named ones, so the slice finds the entry without building an Actor.
        if dot.n <= self.base.get(actor, 0):  # type: ignore[call-overload]
            return True
        return bool(self.beyond) and dot.n in self.beyond.get(actor, ())  # type: ignore[call-overload]

    def highest(self, actor: Actor) -> int:
        """The largest n seen of this actor; 0 if none was."""
        past = self.beyond.get(actor)
        return past[-1] if past else self.base.get(actor, 0)

    def actors(self) -> list[Actor]:
        """All actors in canonical order."""
        if not self.beyond:
            return sorted(self.base)
        return sorted(self.base.keys() | self.beyond.keys())

    def __bool__(self) -> bool:
        return bool(self.base or self.beyond)


class Version(msgspec.Struct, frozen=True, gc=False):
    dot: Dot
    value: bytes | None
    """None is a tombstone: the key was deleted, or this version expired and was shed."""
    timestamp: int
    """Hybrid logical clock, u64: milliseconds << 16 | counter."""
    expiry_ms: int = 0
    """Wall-clock milliseconds from which the version counts as deleted; 0 is never."""
    part: bool = False
    """The value is what one actor has added to a counter: readers are told the sum of all parts."""

    def dead(self, now_ms: int) -> bool:
        return self.value is None or 0 < self.expiry_ms <= now_ms


EMPTY_CLOCK: Final = Clock()


class SiblingSet(msgspec.Struct, frozen=True, gc=False):
    versions: tuple[Version, ...] = ()
    """In the order of their dots, each covered by the clock."""
    clock: Clock = EMPTY_CLOCK

    def reapable_from_ms(self) -> int | None:
        """The time from which no version lives; 0 if none does now, None while one never ends."""
        latest = 0
        for version in self.versions:
            if version.value is not None:
                if not version.expiry_ms:
                    return None
                latest = max(latest, version.expiry_ms)
        return latest


# --- numbers ---------------------------------------------------------------------------------


def write_varint(out: bytearray, number: int) -> None:
    """Seven bits a byte, the low ones first; the high bit says that another byte follows."""
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends. IndexError past the end of the data."""
    byte = data[at]
    at += 1
    if byte < 0x80:
        return byte, at
    number, shift = byte & 0x7F, 7
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    if byte == 0 or number > U64_MAX:
        raise MalformedSetError(f"a number that ends at byte {at} is too wide for its value")
    return number, at


# --- clocks ----------------------------------------------------------------------------------


def write_clock(out: bytearray, clock: Clock) -> list[Actor]:
    """Append the clock; gives its actors in the order in which dots may refer to them."""
    actors = clock.actors()
    write_varint(out, len(actors))
    for actor in actors:
        node = actor.node.encode()
        assert 0 < len(node) <= NODE_ID_MAX_BYTES, f"node id {actor.node!r} is not 1 to 64 bytes"
        out.append(len(node))
        out += node
        out += _U64.pack(actor.incarnation)
        write_varint(out, actor.epoch)
        base = clock.base.get(actor, 0)
        past = clock.beyond.get(actor, ())
        write_varint(out, base)
        write_varint(out, len(past))
        floor = base + 2
        for n in past:
            assert n >= floor, f"the clock of {actor} is not in normal form: {base}, {past}"
            write_varint(out, n - floor)
            floor = n + 1
        assert base > 0 or past, f"the clock names {actor} and nothing that it did"
    return actors


def read_clock(data: bytes, at: int) -> tuple[Clock, list[Actor], int]:
    base: dict[Actor, int] = {}
    beyond: dict[Actor, tuple[int, ...]] = {}
    actors: list[Actor] = []
    count, at = read_varint(data, at)
    for _ in range(count):
        size = data[at]
        at += 1
        node = data[at : at + size].decode()
        at += size
        (incarnation,) = _U64.unpack_from(data, at)
        epoch, at = read_varint(data, at + 8)
        actor = Actor(node, incarnation, epoch)
        if not 0 < size <= NODE_ID_MAX_BYTES or (actors and actors[-1] >= actor):
            raise MalformedSetError(f"actor {actor} has a bad node id or is out of order")
        actors.append(actor)
        reached, at = read_varint(data, at)
        gaps, at = read_varint(data, at)
        if not reached and not gaps:
            raise MalformedSetError(f"the clock names {actor} and nothing that it did")
        if reached:
            base[actor] = reached
        if gaps:
            beyond[actor], at = _read_beyond(data, at, reached + 2, gaps)
    return Clock(base, beyond), actors, at


def _read_beyond(data: bytes, at: int, floor: int, count: int) -> tuple[tuple[int, ...], int]:
    past = []
    for _ in range(count):
        step, at = read_varint(data, at)
        past.append(floor + step)
        floor += step + 1
    if past[-1] > U64_MAX:
        raise MalformedSetError(f"a dot of the clock is over 64 bits: {past[-1]}")
    return tuple(past), at


# --- sets ------------------------------------------------------------------------------------


def encode_set(siblings: SiblingSet, *, for_digest: bool = False) -> bytes:
    """The canonical bytes; with `for_digest` the form that is hashed and never decoded."""
    out = bytearray((SET_FORMAT,))
    actors = write_clock(out, siblings.clock)
    places = {actor: place for place, actor in enumerate(actors)}
    write_varint(out, len(siblings.versions))
    previous: Dot | None = None
    for version in siblings.versions:
        dot = version.dot
        assert siblings.clock.covers(dot), f"version {dot} is not covered by its clock"
        assert previous is None or previous < dot, f"versions out of order at {dot}"
        previous = dot
        write_varint(out, places[dot.actor])
        write_varint(out, dot.n)
        _write_version(out, version, for_digest)
    return bytes(out)


def _write_version(out: bytearray, version: Version, for_digest: bool) -> None:
    value = version.value
    flags = (_TOMBSTONE if value is None else 0) | (_EXPIRES if version.expiry_ms else 0)
    if for_digest and flags & _EXPIRES:
        flags, value = _EXPIRES | _WITHOUT_VALUE, None
    if version.part:
        flags |= _PART
    out.append(flags)
    out += _U64.pack(version.timestamp)
    if flags & _EXPIRES:
        out += _U64.pack(version.expiry_ms)
    if value is not None:
        write_varint(out, len(value))
        out += value


def decode_set(data: bytes) -> SiblingSet:
    """The set with these bytes. Refuses anything that `encode_set` does not write."""
    try:
        if data[0] != SET_FORMAT:
            raise MalformedSetError(
                f"a sibling set of format {data[0]}; this program reads {SET_FORMAT}"
            )
        clock, actors, at = read_clock(data, 1)
        count, at = read_varint(data, at)
        versions: list[Version] = []
        for _ in range(count):
            version, at = _read_version(data, at, actors)
            if versions and versions[-1].dot >= version.dot:
                raise MalformedSetError(f"versions out of order at {version.dot}")
            if not clock.covers(version.dot):
                raise MalformedSetError(f"version {version.dot} is not covered by its clock")
            versions.append(version)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise MalformedSetError(f"a sibling set of {len(data)} bytes is cut short") from error
    if at != len(data):
        raise MalformedSetError(f"{len(data) - at} bytes follow a sibling set of {at} bytes")
    return SiblingSet(tuple(versions), clock)


def _read_version(data: bytes, at: int, actors: list[Actor]) -> tuple[Version, int]:
    place, at = read_varint(data, at)
    n, at = read_varint(data, at)
    flags = data[at]
    (timestamp,) = _U64.unpack_from(data, at + 1)
    at += 9
    if flags & ~_KNOWN_FLAGS:
        raise MalformedSetError(f"a version has unknown flags {flags:#x}")
    expiry_ms = 0
    if flags & _EXPIRES:
        (expiry_ms,) = _U64.unpack_from(data, at)
        at += 8
        if not expiry_ms:
            raise MalformedSetError("a version expires at 0, which is never")
    value = None
    if not flags & _TOMBSTONE:
        size, at = read_varint(data, at)
        value = data[at : at + size]
        at += size
        if len(value) != size:
            raise IndexError
    part = bool(flags & _PART)
    if part and value is not None and not _WHOLE.match(value):
        raise MalformedSetError(f"a part of a counter is no whole number: {value[:50]!r}")
    return Version(Dot(*actors[place], n), value, timestamp, expiry_ms, part), at
