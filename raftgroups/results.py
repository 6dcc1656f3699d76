"""What applying a command answers. Plain values; the outer edges turn them into JSON or errors.

Every result has `revision`, the shard's revision after the command (within a transaction: as of
that operation). Those of writes end with `modified_ms`, the wall time of that revision: the
modified_ms of the records that the command wrote; 0 if it wrote nothing, or if the proposer gave no
time. A refusal is a Failure. Results are remembered for idempotency tokens, so each has bytes:
msgpack of [kind, field, ...], encoded and decoded here.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import cache
from typing import Final

import msgspec

from raftgroups.refusals import LockedError
from raftgroups.txnref import TxnRef
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
    else -1. unknown: the outcome of what was asked is not known. place: of "wrong_shard".
    holders: of "locked"."""

    code: str
    message: str
    compact_revision: int = -1
    unknown: bool = False
    place: KeyRange | None = None
    holders: tuple[TxnRef, ...] = ()


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


class PartFailure(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Why a branch cannot be taken: the condition of the operation at `place` does not hold
    (current: the record that it met), or it is refused (failure)."""

    taken: bool
    place: int
    current: KeyValue | None = None
    failure: Failure | None = None


class PrepareResult(_Result, frozen=True, tag=18):
    """Prepared if `blocked` is empty and `known` is None.
    blocked: who holds what is wanted; nothing was locked.
    known: the client's token was executed before, and this was its answer.
    compares: (place, Found). failures: at most one a branch."""

    blocked: tuple[TxnRef, ...] = ()
    known: bytes | None = None
    compares: tuple[tuple[int, int], ...] = ()
    failures: tuple[PartFailure, ...] = ()


PartResponse = PutResult | DeleteResult | RangeAnswer | IncrementResult | CasResult


class PartAnswer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Of one piece. key, range_end: what it is about, so that what was cut can be joined in order,
    and a gap is seen."""

    place: int
    key: bytes
    response: PartResponse
    range_end: bytes = b""


class ResolveResult(_Result, frozen=True, tag=19):
    """start, end: the shard's range, in which nothing of it is left. found: its part was here (now
    or, if it is remembered, earlier)."""

    start: bytes
    end: bytes | None
    found: bool
    answers: tuple[PartAnswer, ...] = ()
    modified_ms: int = 0

    def joined(self, other: ResolveResult) -> ResolveResult:
        """Of a shard that two of its shards became."""
        answers = {(each.place, each.key): each for each in (*other.answers, *self.answers)}
        return ResolveResult(
            max(self.revision, other.revision),
            self.start,
            self.end,
            self.found or other.found,
            tuple(answers[place] for place in sorted(answers)),
            max(self.modified_ms, other.modified_ms),
        )


class DecideResult(_Result, frozen=True, tag=20):
    """committed: with the branch `taken`; else it was aborted, and nothing of it is done."""

    committed: bool
    taken: bool = False
    here: ResolveResult | None = None


class PushResult(_Result, frozen=True, tag=21):
    """status: a TxnStatus. For a committed one, which branch, and where its parts are."""

    status: int
    taken: bool = False
    participants: tuple[tuple[bytes, bytes | None], ...] = ()


class FinishResult(_Result, frozen=True, tag=22):
    pass


class CrossResult(_Result, frozen=True, tag=23):
    """What a transaction over several shards answers as a whole. seen: (a key, the revision of its
    shard with it), one of each shard that it changed; revision is the highest of them and names
    nothing by itself."""

    result: TxnResult | BatchResult
    seen: tuple[tuple[bytes, int], ...]


class TxnStatus(IntEnum):
    PENDING = 0
    COMMITTED = 1
    GONE = 2
    """Aborted; or it was committed and every part of it is resolved. Either way nothing that is
    still locked by it will ever be executed."""


class Found(IntEnum):
    """What a shard says of a compare."""

    NOTHING = 0
    """It has no key of the range."""
    TRUE = 1
    FALSE = 2


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
    | PrepareResult
    | ResolveResult
    | DecideResult
    | PushResult
    | FinishResult
    | CrossResult
    | MetaAnswer
)
TxnResponse = PutResult | DeleteResult | RangeAnswer | TxnResult
BatchAnswer = PutResult | DeleteResult | IncrementResult | CasResult

encode_result: Final = msgspec.msgpack.Encoder().encode
decode_result: Final[Callable[[bytes], Result]] = msgspec.msgpack.Decoder(Result).decode
"""Raises ValueError."""

REFUSALS: Final = (InvalidRequestError, WrongShardError)
"""The errors that are answers; any other stops the replica."""


def failure_of(error: JanusError, revision: int) -> Failure:
    compact_revision = error.compact_revision if isinstance(error, CompactedError) else -1
    place = error.place if isinstance(error, WrongShardError) else None
    unknown = error.outcome.value == "unknown"
    holders = error.holders if isinstance(error, LockedError) else ()
    return Failure(revision, error.code, str(error), compact_revision, unknown, place, holders)


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
    if failure.code == LockedError.code:
        return LockedError(failure.message, failure.holders)
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
