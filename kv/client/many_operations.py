"""Operations on many keys: listings, counts, batches, transactions. Pure."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
from msgspec import UNSET

from kv.api import bodies
from kv.client.failures import Refusal, error_of
from kv.client.forms import Bytes, as_bytes, bytes_of, named, query
from kv.client.operations import API, Operation, decoder, without_none, writing
from kv.client.records import (
    BatchItem,
    CountResult,
    Entry,
    Page,
    Record,
    TxnDelete,
    TxnGet,
    TxnPut,
    TxnRange,
    TxnResult,
    TxnStepResult,
)
from kv.client.replies import Reply
from kv.client.txn import Txn
from kv.errors import OutcomeUnknownError, OverloadedError, StoppingError, UnavailableError

PAGE_KEYS: Final = 500
AGAIN: Final = frozenset(
    {UnavailableError.code, OutcomeUnknownError.code, OverloadedError.code, StoppingError.code}
)
_list: Final = decoder(bodies.ListReply)
_count: Final = decoder(bodies.CountReply)
_scan: Final = decoder(bodies.ScanReply)
_batch_get: Final = decoder(bodies.BatchGetReply)
_batch_put: Final = decoder(bodies.BatchPutReply)
_txn: Final = decoder(bodies.TxnReply)


def _entry(listed: bodies.Listed) -> Entry:
    return Entry(
        bytes_of(listed.key, listed.key_encoding),
        listed.version,
        None if listed.value is UNSET else bytes_of(listed.value, listed.encoding),
        None if listed.timestamp is UNSET else listed.timestamp,
    )


def _bound(given: Bytes | None) -> bytes | None:
    return None if given is None else as_bytes(given)


def list_page(
    *,
    prefix: Bytes | None = None,
    start: Bytes | None = None,
    end: Bytes | None = None,
    limit: int = PAGE_KEYS,
    cursor: str | None = None,
    reverse: bool = False,
    values: bool = False,
    revision: int | None = None,
) -> Operation[Page]:
    pairs: list[tuple[str, Any]] = [("limit", limit), ("values", values)]
    if cursor is not None:
        pairs.append(("cursor", cursor))
    else:
        bounds = (("prefix", prefix), ("start", start), ("end", end))
        pairs += [(name, _bound(given)) for name, given in bounds]
        pairs += [("reverse", reverse or None), ("revision", revision)]

    def read(reply: Reply) -> Page:
        body = _list(reply)
        return Page(tuple([_entry(each) for each in body.keys]), body.cursor, body.revision)

    return Operation("GET", f"{API}/keys{query(pairs)}", read)


def scan_page(
    *,
    prefix: Bytes | None = None,
    limit: int = PAGE_KEYS,
    cursor: str | None = None,
    values: bool = False,
) -> Operation[Page]:
    pairs: list[tuple[str, Any]] = [("count", limit), ("values", values), ("cursor", cursor)]
    if cursor is None:
        pairs.append(("prefix", _bound(prefix)))

    def read(reply: Reply) -> Page:
        body = _scan(reply)
        return Page(tuple([_entry(each) for each in body.keys]), body.next_cursor, 0)

    return Operation("GET", f"{API}/scan{query(pairs)}", read)


def count(
    *,
    prefix: Bytes | None = None,
    start: Bytes | None = None,
    end: Bytes | None = None,
    revision: int | None = None,
) -> Operation[CountResult]:
    pairs = [("prefix", _bound(prefix)), ("start", _bound(start)), ("end", _bound(end))]

    def read(reply: Reply) -> CountResult:
        body = _count(reply)
        return CountResult(body.count, body.revision)

    return Operation("GET", f"{API}/count{query([*pairs, ('revision', revision)])}", read)


# --- batches ---------------------------------------------------------------------------------


def batch_get(keys: Iterable[Bytes]) -> Operation[dict[bytes, Record | None]]:
    """In the order given, as of one moment."""
    raw = [as_bytes(key) for key in keys]
    fields: dict[str, Any]
    try:
        fields = {"keys": [key.decode() for key in raw]}
    except UnicodeDecodeError:
        coded = [b2a_base64(key, newline=False).decode() for key in raw]
        fields = {"keys": coded, "key_encoding": "base64"}

    def read(reply: Reply) -> dict[bytes, Record | None]:
        results = _batch_get(reply).results
        return {key: _record(key, each) for key, each in zip(raw, results, strict=True)}

    target = f"{API}/batch/get"
    return Operation("POST", target, read, msgspec.json.encode(fields))


def _record(key: bytes, got: bodies.BatchGetResult | bodies.TxnGetReply) -> Record | None:
    if not got.found or got.value is None:
        return None
    return Record(key, bytes_of(got.value, got.encoding), got.version, got.timestamp)


@dataclass(frozen=True, slots=True)
class BatchPut:
    """Write `key`; with `if_version` only if that is its version (0: it is absent)."""

    key: Bytes
    value: Bytes
    ttl: float | None = None
    lease: int | None = None
    if_version: int | None = None


@dataclass(frozen=True, slots=True)
class BatchDelete:
    """Delete `key`; with `if_version` only if that is its version."""

    key: Bytes
    if_version: int | None = None


BatchOperation = BatchPut | BatchDelete


def batch(operations: Sequence[BatchOperation], atomic: bool) -> Operation[tuple[BatchItem, ...]]:
    keys = [as_bytes(each.key) for each in operations]
    fields = {"operations": [_batch_fields(each) for each in operations], "atomic": atomic}

    def read(reply: Reply) -> tuple[BatchItem, ...]:
        results = _batch_put(reply).results
        return tuple([_item(key, each) for key, each in zip(keys, results, strict=True)])

    operation = writing("POST", f"{API}/batch/put", read, fields)
    if atomic:
        return operation
    return replace(operation, sequences=max(1, len(keys)), unfinished=_unfinished)


def _unfinished(reply: Reply) -> Refusal | None:
    """Some of its writes may still be done: each has a sequence of its own, so those that were done
    are not done again."""
    for result in _batch_put(reply).results:
        said = result.error
        if said is not UNSET and said.error in AGAIN:
            unknown = said.outcome == "unknown"
            status = 504 if unknown else 503
            return Refusal(status, said.error, said.message, unknown, said.retryable)
    return None


def _batch_fields(wanted: BatchOperation) -> dict[str, Any]:
    key = named("key", as_bytes(wanted.key), "key_encoding")
    condition = without_none(expected_version=wanted.if_version)
    if isinstance(wanted, BatchDelete):
        return {"op": "delete", **key, **condition}
    lease = None if wanted.lease is None else str(wanted.lease)
    value = named("value", as_bytes(wanted.value), "encoding")
    return {**key, **value, **condition, **without_none(ttl=wanted.ttl, lease=lease)}


def _item(key: bytes, result: bodies.BatchPutResult) -> BatchItem:
    said = result.error
    if said is UNSET:
        return BatchItem(key, result.version)
    unknown = said.outcome == "unknown"
    refusal = Refusal(0, said.error, said.message, unknown, said.retryable, version=result.version)
    return BatchItem(key, result.version, error_of(refusal))


# --- transactions ----------------------------------------------------------------------------


def txn(wanted: Txn) -> Operation[TxnResult]:
    fields = wanted.fields()

    def read(reply: Reply) -> TxnResult:
        body = _txn(reply)
        results = tuple([_step_result(each) for each in body.results])
        return TxnResult(body.succeeded, body.revision, results)

    target = f"{API}/txn"
    if wanted.only_reads:
        return Operation("POST", target, read, msgspec.json.encode(fields))
    return writing("POST", target, read, fields)


def _step_result(
    result: bodies.TxnPutReply | bodies.TxnDeleteReply | bodies.TxnGetReply | bodies.TxnRangeReply,
) -> TxnStepResult:
    if isinstance(result, bodies.TxnPutReply):
        return TxnPut(bytes_of(result.key, result.key_encoding), result.version)
    if isinstance(result, bodies.TxnDeleteReply):
        return TxnDelete(result.deleted)
    if isinstance(result, bodies.TxnRangeReply):
        entries = tuple([_entry(each) for each in result.keys])
        return TxnRange(entries, result.has_more, result.count)
    key = bytes_of(result.key, result.key_encoding)
    return TxnGet(key, _record(key, result))
