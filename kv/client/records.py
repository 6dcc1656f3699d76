"""What calls give back. Keys and values are bytes; `version` is the revision of a key's last write,
0 if it is absent; times are seconds, timestamps milliseconds since 1970. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from storage.errors import JanusError


@dataclass(frozen=True, slots=True)
class Record:
    """A key as it is, or was."""

    key: bytes
    value: bytes
    version: int
    timestamp_ms: int = 0
    ttl_remaining_s: float | None = None
    lease: int | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A key of a listing; `value` is None if it was not asked for."""

    key: bytes
    version: int
    value: bytes | None = None
    timestamp_ms: int | None = None


class Page(NamedTuple):
    entries: tuple[Entry, ...]
    cursor: str | None
    """Where the next page begins; None: this is the last one."""
    revision: int
    """The revision that all pages of a listing are of; 0 for a scan."""


class PutResult(NamedTuple):
    version: int
    created: bool
    timestamp_ms: int


class DeleteResult(NamedTuple):
    deleted: bool
    version: int
    """The revision of the deletion; 0 if there was nothing to delete."""


class CasResult(NamedTuple):
    success: bool
    version: int
    """What the key has now; 0: it is absent."""


class IncrementResult(NamedTuple):
    value: int
    version: int


class TtlResult(NamedTuple):
    version: int
    ttl_remaining_s: float | None


class CountResult(NamedTuple):
    total: int
    revision: int


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One operation of a batch; `error` says why it was not done."""

    key: bytes
    version: int
    error: JanusError | None = None


# --- transactions ----------------------------------------------------------------------------


class TxnPut(NamedTuple):
    key: bytes
    version: int


class TxnDelete(NamedTuple):
    deleted: int


class TxnGet(NamedTuple):
    key: bytes
    record: Record | None


class TxnRange(NamedTuple):
    entries: tuple[Entry, ...]
    more: bool
    total: int
    """Of the whole range."""


TxnStepResult = TxnPut | TxnDelete | TxnGet | TxnRange


class TxnResult(NamedTuple):
    succeeded: bool
    """All comparisons held, so `then` was done; otherwise `else`."""
    revision: int
    results: tuple[TxnStepResult, ...]


# --- watches ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Event:
    """`value` is None for a deletion; `previous` is there if it was asked for and existed."""

    type: Literal["put", "delete"]
    key: bytes
    version: int
    value: bytes | None
    timestamp_ms: int
    lease: int | None = None
    previous: Record | None = None


class Change(NamedTuple):
    """Everything that one revision did to the keys that are watched. `cursor`: of a watch over
    several shards, whose revisions are counted apart: where to go on behind this change."""

    revision: int
    events: tuple[Event, ...]
    cursor: str = ""


# --- leases and locks ------------------------------------------------------------------------


class LeaseInfo(NamedTuple):
    id: int
    ttl_s: int
    remaining_s: float
    keys: tuple[bytes, ...] | None = None


class LockInfo(NamedTuple):
    """`token` is the fencing token: larger for every later holder."""

    name: bytes
    key: bytes
    token: int
    lease: int


class LockHolder(NamedTuple):
    key: bytes
    token: int
    lease: int
    owner: str


class LockState(NamedTuple):
    name: bytes
    holder: LockHolder | None
    waiting: int
