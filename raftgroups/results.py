"""What applying a command answers. Plain values; the outer edges turn them into JSON or errors.

Every result has `revision`, the shard's revision after the command (within a transaction: as of
that operation). Those of writes end with `modified_ms`, the wall time of that revision: the
modified_ms of the records that the command wrote; 0 if it wrote nothing, or if the proposer gave no
time. A refusal is a Failure. Results are remembered for idempotency tokens, so each has bytes:
msgpack of [kind, field, ...], encoded and decoded here.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import msgspec

from storage.errors import (
    CompactedError,
    InvalidRequestError,
    JanusError,
    KeyRange,
    NoSpaceError,
    Outcome,
    WrongShardError,
)
from storage.mvcc_records import KeyValue


class _Result(msgspec.Struct, frozen=True, array_like=True, gc=False):
    revision: int


class PutResult(_Result, frozen=True, tag=1):
    previous: KeyValue | None = None
    modified_ms: int = 0


class DeleteResult(_Result, frozen=True, tag=2):
    """previous: of every key deleted, if it was asked for."""

    deleted: int
    previous: tuple[KeyValue, ...] = ()
    modified_ms: int = 0


class RangeAnswer(_Result, frozen=True, tag=3):
    """count: keys of the whole range, whatever limit and filters left of them."""

    items: tuple[KeyValue, ...]
    more: bool
    count: int


class TxnResult(_Result, frozen=True, tag=4):
    succeeded: bool
    responses: tuple[PutResult | DeleteResult | RangeAnswer | TxnResult, ...]
    modified_ms: int = 0


class CompactResult(_Result, frozen=True, tag=5):
    pass


class LeaseResult(_Result, frozen=True, tag=6):
    """Of a grant: the TTL granted. Of a revocation: 0."""

    lease: int
    ttl_s: int


class KeepAliveResult(_Result, frozen=True, tag=7):
    """The TTL of each lease asked for, in that order; 0 for one that is not there any more."""

    ttls_s: tuple[int, ...]


class TickResult(_Result, frozen=True, tag=8):
    clock_ms: int


class ExpireResult(_Result, frozen=True, tag=9):
    """How many leases and how many keys with a TTL of their own were really over."""

    leases: int
    keys: int


class TtlResult(_Result, frozen=True, tag=10):
    """version: the mod revision of the key; 0 if there is no such key (and nothing was done)."""

    version: int
    ttl_ms: int


class IncrementResult(_Result, frozen=True, tag=11):
    value: int
    modified_ms: int = 0


class CasResult(_Result, frozen=True, tag=12):
    """current: the record that was compared, None if the key did not exist."""

    succeeded: bool
    current: KeyValue | None
    modified_ms: int = 0


class BatchResult(_Result, frozen=True, tag=13):
    """failed: the place of the condition that did not hold, and then results has that one answer
    only and nothing was changed; -1 if all was done."""

    failed: int
    results: tuple[PutResult | DeleteResult | IncrementResult | CasResult, ...]
    modified_ms: int = 0


class Failure(_Result, frozen=True, tag=14):
    """code: of an error class (refusals.py, storage/errors.py). compact_revision: of "compacted",
    else -1. unknown: the outcome of what was asked is not known. place: of "wrong_shard"."""

    code: str
    message: str
    compact_revision: int = -1
    unknown: bool = False
    place: KeyRange | None = None


class SplitResult(_Result, frozen=True, tag=15):
    """epoch: of both children, above the parent's."""

    epoch: int


class MergeResult(_Result, frozen=True, tag=16):
    """Of every command of a merge. merge: the number of the attempt. index: where in the log of the
    shard asked this was done. epoch: of the shard, afterwards."""

    merge: int
    index: int
    epoch: int


class LeaseEndResult(_Result, frozen=True, tag=17):
    """How many keys went, and for which range: that of the shard as it stood then."""

    keys: int
    start: bytes
    end: bytes | None


class MetaAnswer(_Result, frozen=True, tag=32):
    """Of the meta group: revision is the version of its view, body what meta/commands.py reads."""

    body: bytes


Result = (
    PutResult
    | DeleteResult
    | TxnResult
    | CompactResult
    | LeaseResult
    | KeepAliveResult
    | TickResult
    | ExpireResult
    | TtlResult
    | IncrementResult
    | CasResult
    | BatchResult
    | Failure
    | SplitResult
    | MergeResult
    | LeaseEndResult
    | MetaAnswer
)
TxnResponse = PutResult | DeleteResult | RangeAnswer | TxnResult
BatchAnswer = PutResult | DeleteResult | IncrementResult | CasResult

encode_result: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Result).decode

REFUSALS: Final = (InvalidRequestError, WrongShardError)
"""The errors that are answers; any other stops the replica."""


def decode_result(data: bytes) -> Result:
    result: Result = _decode(data)
    return result


def failure_of(error: JanusError, revision: int) -> Failure:
    compact_revision = error.compact_revision if isinstance(error, CompactedError) else -1
    place = error.place if isinstance(error, WrongShardError) else None
    return Failure(
        revision, error.code, str(error), compact_revision, error.outcome.value == "unknown", place
    )


class RefusedCommandError(InvalidRequestError):
    """A refusal of a machine that knows more kinds than this program."""

    code = "refused"


class UnknownRefusalError(JanusError):
    """The same, where the outcome is not known."""

    code = "refused"
    outcome = Outcome.UNKNOWN


def error_of(failure: Failure) -> JanusError:
    """The refusal as the error that it was in the machine."""
    if failure.code == CompactedError.code:
        return CompactedError(failure.message, failure.compact_revision)
    if failure.code == WrongShardError.code:
        return WrongShardError(failure.message, failure.place)
    kind = _refusals_by_code().get(failure.code)
    if kind is None:
        kind = UnknownRefusalError if failure.unknown else RefusedCommandError
    return kind(failure.message)


@cache
def _refusals_by_code() -> dict[str, type[JanusError]]:
    found: dict[str, type[JanusError]] = {
        NoSpaceError.code: NoSpaceError,
    }
    waiting: list[type[JanusError]] = [InvalidRequestError]
    while waiting:
        kind = waiting.pop()
        found[kind.code] = kind
        waiting += kind.__subclasses__()
    return found
