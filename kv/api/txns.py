"""Transactions: the JSON form to raftgroups' Txn, its result back to JSON. Pure.

`version` in a compare is what REST calls so: the mod revision. A range in a transaction is cut at
RANGE_MAX keys; a transaction that only reads is evaluated as a read.
"""

from __future__ import annotations

from typing import Final

import msgspec

from kv.api.bodies import (
    CompareBody,
    Encoding,
    TxnBody,
    TxnDelete,
    TxnDeleteReply,
    TxnGet,
    TxnGetReply,
    TxnPut,
    TxnPutReply,
    TxnRange,
    TxnRangeReply,
    TxnReply,
    TxnStep,
)
from kv.api.failures import InvalidBodyError
from kv.api.hot import Forms, decode, encode, lease_of, ttl_ms_of
from kv.api.listing import listed
from kv.api.reply import Reply
from kv.api.text import BASE64, given, shown
from raftgroups.commands import (
    TO_THE_END,
    Compare,
    CompareTarget,
    Comparison,
    Delete,
    Put,
    Range,
    SortOrder,
    Txn,
)
from raftgroups.results import DeleteResult, PutResult, RangeAnswer, TxnResponse, TxnResult
from raftgroups.txn import validate
from storage.codec import prefix_end

_body: Final = msgspec.json.Decoder(TxnBody)
_TARGETS: Final = {
    "version": CompareTarget.MOD,
    "mod": CompareTarget.MOD,
    "create": CompareTarget.CREATE,
    "value": CompareTarget.VALUE,
    "lease": CompareTarget.LEASE,
}
_COMPARISONS: Final = {
    "=": Comparison.EQUAL,
    "!=": Comparison.NOT_EQUAL,
    "<": Comparison.LESS,
    ">": Comparison.GREATER,
}


def txn_of(body: bytes) -> tuple[TxnBody, Txn]:
    """Raises InvalidBodyError, and what raftgroups.txn.validate raises."""
    wanted = decode(_body, body)
    txn = Txn(
        tuple([_compare_of(place, each) for place, each in enumerate(wanted.compare)]),
        tuple([_operation_of(f"then[{place}]", each) for place, each in enumerate(wanted.then)]),
        tuple(
            [_operation_of(f"else[{place}]", each) for place, each in enumerate(wanted.otherwise)]
        ),
    )
    validate(txn)
    return wanted, txn


def _compare_of(place: int, wanted: CompareBody) -> Compare:
    what = f"compare[{place}]"
    key = given(wanted.key, wanted.key_encoding, f"{what}.key")
    operand: int | bytes
    if wanted.target == "value":
        if not isinstance(wanted.operand, str):
            raise InvalidBodyError(f"{what} compares a value, so its operand is text")
        operand = given(wanted.operand, wanted.encoding, f"{what}.operand")
    else:
        operand = _number_of(what, wanted)
    target, comparison = _TARGETS[wanted.target], _COMPARISONS[wanted.op]
    return Compare(key, b"", target, comparison, operand)


def _number_of(what: str, wanted: CompareBody) -> int:
    operand = wanted.operand
    if isinstance(operand, int):
        return operand
    if wanted.target == "lease" and operand.isascii() and operand.isdigit():
        number = int(operand[:20])
        if number < 2**63:
            return number
    raise InvalidBodyError(
        f"{what} compares {wanted.target!r}, so its operand is a number, not {operand[:40]!r}"
    )


def _operation_of(what: str, wanted: TxnStep) -> Put | Delete | Range:
    if isinstance(wanted, TxnPut):
        return Put(
            given(wanted.key, wanted.key_encoding, f"{what}.key"),
            given(wanted.value, wanted.encoding, f"{what}.value"),
            lease_of(wanted.lease),
            ttl_ms=ttl_ms_of(wanted.ttl),
        )
    if isinstance(wanted, TxnDelete):
        return _delete_of(what, wanted)
    if isinstance(wanted, TxnGet):
        key = given(wanted.key, wanted.key_encoding, f"{what}.key")
        return Range(key, revision=wanted.revision)
    return _range_of(what, wanted)


def _delete_of(what: str, wanted: TxnDelete) -> Delete:
    if (wanted.key is None) == (wanted.prefix is None):
        raise InvalidBodyError(f"{what} deletes either a key or a prefix; give one of them")
    if wanted.key is not None:
        return Delete(given(wanted.key, wanted.key_encoding, f"{what}.key"))
    assert wanted.prefix is not None
    return Delete(*_prefixed(given(wanted.prefix, wanted.key_encoding, f"{what}.prefix")))


def _range_of(what: str, wanted: TxnRange) -> Range:
    encoding = wanted.key_encoding
    if wanted.prefix is not None:
        if wanted.start is not None or wanted.end is not None:
            raise InvalidBodyError(f"{what} has a prefix and start or end; give one or the other")
        start, end = _prefixed(given(wanted.prefix, encoding, f"{what}.prefix"))
    else:
        start = _bound(wanted.start, encoding, f"{what}.start") or b"\x00"
        end = _bound(wanted.end, encoding, f"{what}.end") or TO_THE_END
    return Range(
        start,
        end,
        limit=wanted.limit,
        revision=wanted.revision,
        sort_order=SortOrder.DESCEND if wanted.reverse else SortOrder.NONE,
        keys_only=not wanted.values,
    )


def _bound(text: str | None, encoding: Encoding | None, what: str) -> bytes:
    return b"" if text is None else given(text, encoding, what)


def _prefixed(prefix: bytes) -> tuple[bytes, bytes]:
    return prefix or b"\x00", prefix_end(prefix) or TO_THE_END


def txn_reply(wanted: TxnBody, txn: Txn, result: TxnResult, shard: int = 0, now: int = 0) -> Reply:
    """`now`: the revision that the caller has seen by this, if it is not the result's."""
    taken = result.succeeded
    steps = wanted.then if taken else wanted.otherwise
    operations = txn.then if taken else txn.otherwise
    results = [
        _answer_of(step, operation, answer)
        for step, operation, answer in zip(steps, operations, result.responses, strict=True)
        if not isinstance(operation, Txn)
    ]
    body = TxnReply(taken, result.revision, results)
    return Reply(200, encode(body), shard=shard, revision=now or result.revision)


def _answer_of(
    step: TxnStep, operation: Put | Delete | Range, answer: TxnResponse
) -> TxnPutReply | TxnDeleteReply | TxnGetReply | TxnRangeReply:
    if isinstance(answer, PutResult):
        key, mark = shown(operation.key)
        return TxnPutReply(key, answer.revision, mark)
    if isinstance(answer, DeleteResult):
        return TxnDeleteReply(answer.deleted)
    assert isinstance(answer, RangeAnswer)
    if isinstance(step, TxnGet):
        return _get_of(operation.key, step, answer)
    assert isinstance(step, TxnRange)
    forms = Forms(step.encoding == BASE64)
    keys = [listed(item, step.values, forms) for item in answer.items]
    return TxnRangeReply(keys, answer.more, answer.count)


def _get_of(asked: bytes, step: TxnGet, answer: RangeAnswer) -> TxnGetReply:
    key, key_mark = shown(asked)
    if not answer.items:
        return TxnGetReply(key, False, key_encoding=key_mark)
    (record,) = answer.items
    value, mark = shown(record.value, step.encoding == BASE64)
    version = record.mod_revision
    return TxnGetReply(key, True, value, version, record.modified_ms, mark, key_mark)
