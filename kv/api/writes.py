"""Time to live, increments and batches: bodies to commands, results to replies. Pure.

A batch that is not atomic is as many writes as it has operations; with an idempotency token they
take as many sequences, beginning with the one given, so that a retry of the whole batch repeats
nothing. (The next request of that client has to go on behind them.)
"""

from __future__ import annotations

from typing import Final

import msgspec

from kv.api.bodies import (
    BatchPutBody,
    BatchPutOperation,
    BatchPutReply,
    BatchPutResult,
    ErrorBody,
    IncrementBody,
    IncrementReply,
    TtlBody,
    TtlReply,
)
from kv.api.failures import InvalidBodyError, VersionMismatchError, outcome_of
from kv.api.hot import AS_IS, Forms, decode, encode, lease_of, ttl_ms_of
from kv.api.reply import Reply
from kv.api.text import given, shown
from raftgroups.commands import BatchOperation, BatchWrite, Cas, Delete, Increment, Put, SetTtl
from raftgroups.refusals import KeyNotFoundError
from raftgroups.results import (
    BatchResult,
    CasResult,
    DeleteResult,
    IncrementResult,
    Result,
    TtlResult,
)
from storage.codec import check_key, check_value
from storage.errors import JanusError

_ttl_body: Final = msgspec.json.Decoder(TtlBody)
_increment_body: Final = msgspec.json.Decoder(IncrementBody)
_batch_body: Final = msgspec.json.Decoder(BatchPutBody)


class NotDoneError(JanusError):
    """An operation of an atomic batch that was not done because another one could not be."""

    code = "not_done"


# --- time to live, increment -----------------------------------------------------------------


def ttl_command(key: bytes, body: bytes) -> SetTtl:
    check_key(key)
    wanted = decode(_ttl_body, body)
    return SetTtl(key, ttl_ms_of(wanted.ttl_seconds))


def ttl_reply(key: bytes, result: Result, forms: Forms = AS_IS, shard: int = 0) -> Reply:
    assert isinstance(result, TtlResult)
    if not result.version:
        raise KeyNotFoundError(f"key {key!r} does not exist, so it has no time to live")
    text, mark = shown(key, forms.keys)
    left = result.ttl_ms / 1000 if result.ttl_ms else None
    body = TtlReply(text, result.version, left, mark)
    version = result.version
    return Reply(200, encode(body), version=version, shard=shard, revision=result.revision)


def increment_command(key: bytes, body: bytes) -> Increment:
    check_key(key)
    wanted = decode(_increment_body, body or b"{}")
    return Increment(key, wanted.delta)


def increment_reply(key: bytes, result: Result, forms: Forms = AS_IS, shard: int = 0) -> Reply:
    assert isinstance(result, IncrementResult)
    text, mark = shown(key, forms.keys)
    version = result.revision
    body = IncrementReply(text, result.value, version, mark)
    return Reply(200, encode(body), version=version, shard=shard, revision=version)


# --- batches ---------------------------------------------------------------------------------


def batch_of(body: bytes) -> tuple[list[bytes], list[BatchOperation], bool]:
    """(keys, an operation for each, whether atomic). Raises InvalidBodyError and what check_key and
    check_value raise: then none of them is done."""
    wanted = decode(_batch_body, body)
    keys, operations = [], []
    for place, operation in enumerate(wanted.operations):
        key = given(operation.key, operation.key_encoding, f"operations[{place}].key")
        check_key(key)
        keys.append(key)
        operations.append(_operation_of(place, key, operation))
    return keys, operations, wanted.atomic


def _operation_of(place: int, key: bytes, wanted: BatchPutOperation) -> BatchOperation:
    expected = -1 if wanted.expected_version is None else wanted.expected_version
    if wanted.op == "delete":
        if wanted.value is not None or wanted.ttl is not None or wanted.lease is not None:
            raise InvalidBodyError(
                f"operations[{place}] is a deletion and takes no value, ttl or lease"
            )
        return Delete(key) if expected < 0 else Cas(key, None, expected)
    if wanted.value is None:
        raise InvalidBodyError(f"operations[{place}] is a put and needs a value")
    value = given(wanted.value, wanted.encoding, f"operations[{place}].value")
    check_value(value)
    lease, ttl_ms = lease_of(wanted.lease), ttl_ms_of(wanted.ttl)
    if expected < 0:
        return Put(key, value, lease, ttl_ms=ttl_ms)
    return Cas(key, value, expected, lease=lease, ttl_ms=ttl_ms)


def atomic_reply(keys: list[bytes], command: BatchWrite, result: Result, shard: int = 0) -> Reply:
    assert isinstance(result, BatchResult)
    if result.failed >= 0:
        (lost,) = result.results
        assert isinstance(lost, CasResult)
        results = [_undone(key, place, result.failed, lost) for place, key in enumerate(keys)]
    else:
        answers = zip(keys, command.operations, result.results, strict=True)
        results = [_done(key, operation, answer) for key, operation, answer in answers]
    return _batch_reply(keys, results, shard, result.revision)


def separate_reply(
    keys: list[bytes],
    operations: list[BatchOperation],
    answers: list[Result | JanusError],
    shard: int = 0,
) -> Reply:
    results = [
        _failed(key, answer) if isinstance(answer, JanusError) else _done(key, operation, answer)
        for key, operation, answer in zip(keys, operations, answers, strict=True)
    ]
    revision = max(
        (answer.revision for answer in answers if not isinstance(answer, JanusError)), default=0
    )
    return _batch_reply(keys, results, shard if revision else 0, revision)


def _done(key: bytes, operation: BatchOperation, answer: Result) -> BatchPutResult:
    text, mark = shown(key)
    if isinstance(answer, CasResult) and not answer.succeeded:
        return _failed(key, _lost(key, answer))
    deletes = isinstance(operation, Delete) or (
        isinstance(operation, Cas) and operation.value is None
    )
    version = answer.revision
    if deletes and not _was_there(answer):
        version = 0
    return BatchPutResult(text, True, version, mark)


def _was_there(answer: Result) -> bool:
    if isinstance(answer, DeleteResult):
        return bool(answer.deleted)
    return isinstance(answer, CasResult) and answer.current is not None


def _lost(key: bytes, answer: CasResult) -> VersionMismatchError:
    version = 0 if answer.current is None else answer.current.mod_revision
    return VersionMismatchError(f"key {key!r} has version {version} (0: it is absent)", version)


def _undone(key: bytes, place: int, failed: int, lost: CasResult) -> BatchPutResult:
    if place == failed:
        return _failed(key, _lost(key, lost))
    return _failed(
        key, NotDoneError(f"not done, because operations[{failed}] of this atomic batch failed")
    )


def _failed(key: bytes, error: JanusError) -> BatchPutResult:
    text, mark = shown(key)
    version = error.version if isinstance(error, VersionMismatchError) else 0
    body = ErrorBody(error.code, str(error), outcome_of(error), error.retryable)
    return BatchPutResult(text, False, version, mark, body)


def _batch_reply(
    keys: list[bytes], results: list[BatchPutResult], shard: int, revision: int
) -> Reply:
    failed = [result.key for result in results if not result.success]
    body = BatchPutReply(len(keys) - len(failed), failed, results)
    return Reply(200, encode(body), shard=shard, revision=revision)
