"""The JSON bodies of watches, leases and locks; bodies.py has the others and the rules. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from kv.api.bodies import WAIT_MAX_S, In, Lease, Marked, Out, Revision, Seconds, Version

# --- watches ---------------------------------------------------------------------------------


class Previous(Out):
    value: str
    version: Version
    timestamp: int
    encoding: Marked = UNSET


class WatchEvent(Out):
    """`value` is missing from a deletion; `prev` is there if it was asked for and there was one."""

    type: Literal["put", "delete"]
    key: str
    version: Version
    timestamp: int
    value: str | UnsetType = UNSET
    encoding: Marked = UNSET
    key_encoding: Marked = UNSET
    lease: str | UnsetType = UNSET
    prev: Previous | UnsetType = UNSET


class WatchRevision(Out):
    """All events of one revision that the watch asked for."""

    revision: Revision
    events: list[WatchEvent]


class PollReply(Out):
    """`next` or, of several shards, `cursor` is where to go on from."""

    events: list[WatchRevision]
    next: Revision | UnsetType = UNSET
    cursor: str | UnsetType = UNSET


class WatchLine(Out):
    """A line of a stream. `created` comes first; `events` has all of one revision; up to the
    revision of `progress` everything was told; `cancelled` is the last one. A watch over several
    shards has a `cursor` in each: up to there everything was told; `revision` is the shard's."""

    type: Literal["created", "events", "progress", "cancelled"]
    revision: Revision | UnsetType = UNSET
    cursor: str | UnsetType = UNSET
    events: list[WatchEvent] | UnsetType = UNSET
    reason: Literal["compacted", "limit", "invalid", "closed", "split"] | UnsetType = UNSET
    message: str | UnsetType = UNSET
    compact_revision: Revision | UnsetType = UNSET


# --- leases and locks ------------------------------------------------------------------------


class LeaseBody(In):
    """`ttl` in seconds, rounded up to whole ones and to the minimum; `id` is chosen if missing."""

    ttl: Seconds
    id: Lease | None = None


class LeaseReply(Out):
    id: str
    ttl: int


class LeaseEntry(Out):
    id: str
    ttl: int
    ttl_remaining: float


class LeaseState(Out):
    id: str
    ttl: int
    ttl_remaining: float
    keys: list[str] | UnsetType = UNSET
    key_encoding: Marked = UNSET


class LeasesReply(Out):
    leases: list[LeaseEntry]
    cursor: str | None
    has_more: bool


class RevokeReply(Out):
    id: str
    revoked: bool


class LockBody(In):
    """`lease`: hold it by this lease instead of a new one with this `ttl`. `owner`: who asks, for
    others to see. `wait_seconds` 0: try once."""

    ttl: Seconds = 30.0
    wait_seconds: Annotated[float, Meta(ge=0, le=WAIT_MAX_S)] = 0.0
    owner: Annotated[str, Meta(max_length=1024)] = ""
    lease: Lease | None = None


class LockReply(Out):
    """`token` is the fencing token: larger for every later holder."""

    name: str
    key: str
    token: Revision
    lease: str
    name_encoding: Marked = UNSET
    key_encoding: Marked = UNSET


class LockHolder(Out):
    key: str
    token: Revision
    lease: str
    owner: str
    key_encoding: Marked = UNSET


class LockState(Out):
    name: str
    holder: LockHolder | None
    waiting: int
    name_encoding: Marked = UNSET


class UnlockReply(Out):
    name: str
    released: bool
    name_encoding: Marked = UNSET
