"""The key-value calls of etcd's JSON gateway: body -> command. Pure. (The way back: answers.py.)

    decode_one_key(body)        the key, if the body is of a range that names nothing else
    decode_range(body)          RangeCall: a Range and whether it may be local
    decode_put(body)            Put
    decode_delete(body)         Delete
    decode_txn(body)            Txn
    decode_compaction(body)     Compact

Both lanes of the node call these. They are the hot path: a body is first decoded by msgspec into a
struct that knows the usual form only; whatever that refuses goes to the exact decoder
(protojson.py), which takes all that etcd takes. What the fast path accepts, the slow one accepts
with the same meaning (a test compares them).

A command may still be one that cannot be right: the regime and the machine look at all of them.
Here only what is cheap is refused: an empty key, a put with a value and `ignore_value`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from kv.etcd.protojson import (
    INT64_MAX,
    INT64_MIN,
    Message,
    Schema,
    binary,
    boolean,
    check_depth,
    decode,
    enum,
    int64,
    message,
    repeated,
    union,
)
from raftgroups.commands import (
    Command,
    Compact,
    Compare,
    CompareTarget,
    Comparison,
    Delete,
    Put,
    Range,
    SortOrder,
    SortTarget,
    Txn,
    TxnOperation,
    encode,
)
from raftgroups.ranges import check_range
from raftgroups.refusals import KeyNotFoundError
from raftgroups.txn import check_put
from storage.codec import KEY_MAX_BYTES
from storage.errors import EmptyKeyError, JanusError

C = TypeVar("C", bound=Command)

ORDERS: Final = {order.name: int(order) for order in SortOrder}
TARGETS: Final = {target.name: int(target) for target in SortTarget}
RESULTS: Final = {result.name: int(result) for result in Comparison}
COMPARED: Final = {target.name: int(target) for target in CompareTarget}


class RangeCall(NamedTuple):
    operation: Range
    serializable: bool


# --- what clients really send -----------------------------------------------------------------


class _Usual(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """Numbers as numbers; enums as numbers or names."""


class _RangeBody(_Usual):
    key: bytes = b""
    range_end: bytes = b""
    limit: int = 0
    revision: int = 0
    sort_order: int | str = 0
    sort_target: int | str = 0
    serializable: bool = False
    keys_only: bool = False
    count_only: bool = False
    min_mod_revision: int = 0
    max_mod_revision: int = 0
    min_create_revision: int = 0
    max_create_revision: int = 0


class _KeyBody(_Usual):
    key: bytes = b""


class _PutBody(_Usual):
    key: bytes = b""
    value: bytes = b""
    lease: int = 0
    prev_kv: bool = False
    ignore_value: bool = False
    ignore_lease: bool = False


class _DeleteBody(_Usual):
    key: bytes = b""
    range_end: bytes = b""
    prev_kv: bool = False


class _CompareBody(_Usual):
    result: int | str = 0
    target: int | str = 0
    key: bytes = b""
    version: int | None = None
    create_revision: int | None = None
    mod_revision: int | None = None
    value: bytes | None = None
    lease: int | None = None
    range_end: bytes = b""


class _OperationBody(_Usual):
    request_range: _RangeBody | None = None
    request_put: _PutBody | None = None
    request_delete_range: _DeleteBody | None = None
    request_txn: _TxnBody | None = None


class _TxnBody(_Usual):
    compare: list[_CompareBody] = []
    success: list[_OperationBody] = []
    failure: list[_OperationBody] = []


_range_body: Final = msgspec.json.Decoder(_RangeBody).decode
_key_body: Final = msgspec.json.Decoder(_KeyBody).decode
_put_body: Final = msgspec.json.Decoder(_PutBody).decode
_delete_body: Final = msgspec.json.Decoder(_DeleteBody).decode
_txn_body: Final = msgspec.json.Decoder(_TxnBody).decode
_UNUSUAL: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

# --- and all that etcd takes ------------------------------------------------------------------

_RANGE: Final[Schema] = {
    "key": binary,
    "range_end": binary,
    "limit": int64,
    "revision": int64,
    "sort_order": enum(**ORDERS),
    "sort_target": enum(**TARGETS),
    "serializable": boolean,
    "keys_only": boolean,
    "count_only": boolean,
    "min_mod_revision": int64,
    "max_mod_revision": int64,
    "min_create_revision": int64,
    "max_create_revision": int64,
}
_PUT: Final[Schema] = {
    "key": binary,
    "value": binary,
    "lease": int64,
    "prev_kv": boolean,
    "ignore_value": boolean,
    "ignore_lease": boolean,
}
_DELETE: Final[Schema] = {"key": binary, "range_end": binary, "prev_kv": boolean}
_COMPARE: Final[Schema] = {
    "result": enum(**RESULTS),
    "target": enum(**COMPARED),
    "key": binary,
    "version": int64,
    "create_revision": int64,
    "mod_revision": int64,
    "value": binary,
    "lease": int64,
    "range_end": binary,
}
_OPERATION: Final[dict[str, Any]] = {
    "request_range": message(_RANGE),
    "request_put": message(_PUT),
    "request_delete_range": message(_DELETE),
}
_TXN: Final[Schema] = {
    "compare": repeated(message(_COMPARE), {}),
    "success": repeated(message(_OPERATION), {}),
    "failure": repeated(message(_OPERATION), {}),
}
_OPERATION["request_txn"] = message(_TXN)
_COMPACTION: Final[Schema] = {"revision": int64, "physical": boolean}

_operand: Final = union("version", "create_revision", "mod_revision", "value", "lease")
_kind: Final = union(*_OPERATION)


def _usual_of(fields: Message) -> _TxnBody:
    """An exactly decoded transaction in the form of the fast path."""
    return _TxnBody(
        [
            _CompareBody(**_only(_operand(each), _OPERANDS, each))
            for each in fields.get("compare", ())
        ],
        [_operation_of(each) for each in fields.get("success", ())],
        [_operation_of(each) for each in fields.get("failure", ())],
    )


def _only(chosen: str | None, members: frozenset[str], fields: Message) -> Message:
    return {name: it for name, it in fields.items() if name == chosen or name not in members}


_OPERANDS: Final = frozenset(("version", "create_revision", "mod_revision", "value", "lease"))


def _operation_of(fields: Message) -> _OperationBody:
    kind = _kind(fields)
    if kind == "request_put":
        return _OperationBody(request_put=_PutBody(**fields[kind]))
    if kind == "request_range":
        return _OperationBody(request_range=_RangeBody(**fields[kind]))
    if kind == "request_delete_range":
        return _OperationBody(request_delete_range=_DeleteBody(**fields[kind]))
    if kind == "request_txn":
        return _OperationBody(request_txn=_usual_of(fields[kind]))
    return _OperationBody()


# --- body -> command --------------------------------------------------------------------------


class _UnusualError(Exception):
    """The fast path met something that it leaves to the exact decoder."""


def decode_one_key(body: bytes) -> bytes | None:
    """The key of a range that names one key and nothing else (a third of what `decode_range`
    costs). None: look closer."""
    try:
        key = _key_body(body).key
    except _UNUSUAL:
        return None
    return key if 0 < len(key) <= KEY_MAX_BYTES else None


def decode_range(body: bytes) -> RangeCall:
    try:
        given = _range_body(body)
        if given == _RangeBody(given.key) and given.key:  # what most reads are
            return RangeCall(Range(given.key), False)
        call = _range_of(given)
    except (*_UNUSUAL, _UnusualError):
        given = _RangeBody(**decode(_RANGE, body))
        call = _range_of(given)
    check_range(call)
    return RangeCall(call, given.serializable)


def decode_put(body: bytes) -> Put:
    try:
        put = _put_of(_put_body(body))
    except (*_UNUSUAL, _UnusualError):
        put = _put_of(_PutBody(**decode(_PUT, body)))
    if put.ignore_value or put.ignore_lease or not 0 < len(put.key) <= KEY_MAX_BYTES:
        check_put(put)
    return put  # its value is looked at by whoever looks at the size of the call


def decode_puts(bodies: Iterable[bytes]) -> list[Put | JanusError]:
    """The same of many, with what it would raise in its place."""
    puts: list[Put | JanusError] = []
    for body in bodies:
        try:
            given = _put_body(body)
        except _UNUSUAL:
            puts.append(or_error(decode_put, body))
            continue
        key = given.key
        if (
            0 < len(key) <= KEY_MAX_BYTES
            and not given.lease
            and not (given.prev_kv or given.ignore_value or given.ignore_lease)
        ):
            puts.append(Put(key, given.value))
        else:
            puts.append(or_error(decode_put, body))
    return puts


def or_error(decode_one: Callable[[bytes], C], body: bytes) -> C | JanusError:
    try:
        return decode_one(body)
    except JanusError as error:
        return error


def decode_delete(body: bytes) -> Delete:
    try:
        given = _delete_body(body)
    except _UNUSUAL:
        given = _DeleteBody(**decode(_DELETE, body))
    if not given.key:
        raise EmptyKeyError("the key is empty; to delete all keys give a zero byte as key and end")
    return Delete(given.key, given.range_end, given.prev_kv)


def decode_txn(body: bytes) -> Txn:
    check_depth(body)
    try:
        return _txn_of(_txn_body(body))
    except (*_UNUSUAL, _UnusualError, KeyNotFoundError):  # what comes after it may be malformed
        return _txn_of(_usual_of(decode(_TXN, body)))


def decode_compaction(body: bytes) -> Compact:
    return Compact(decode(_COMPACTION, body).get("revision", 0))


def _fits(number: int) -> int:
    if INT64_MIN <= number <= INT64_MAX:
        return number
    raise _UnusualError


def _member(names: dict[str, int], given: int | str) -> int:
    if isinstance(given, int):
        if -(2**31) <= given < 2**31:
            return given
    elif given in names:
        return names[given]
    raise _UnusualError


def _range_of(given: _RangeBody) -> Range:
    order = 0 if given.sort_order == 0 else _member(ORDERS, given.sort_order)
    target = 0 if given.sort_target == 0 else _member(TARGETS, given.sort_target)
    if not 0 <= order <= SortOrder.DESCEND and 0 <= target <= SortTarget.VALUE:
        # To etcd 3.5 an unknown order is one by which nothing is sorted, whatever the target.
        order, target = SortOrder.ASCEND, SortTarget.KEY
    made = Range(
        given.key,
        given.range_end,
        given.limit,
        given.revision,
        order,
        target,
        given.keys_only,
        given.count_only,
        given.min_mod_revision,
        given.max_mod_revision,
        given.min_create_revision,
        given.max_create_revision,
    )
    for number in (
        made.limit,
        made.revision,
        made.min_mod_revision,
        made.max_mod_revision,
        made.min_create_revision,
        made.max_create_revision,
    ):
        if number:
            _fits(number)
    return made


def _put_of(given: _PutBody) -> Put:
    lease = given.lease
    if lease:
        _fits(lease)
    return Put(given.key, given.value, lease, given.prev_kv, given.ignore_value, given.ignore_lease)


def _compare_of(given: _CompareBody) -> Compare:
    target = _member(COMPARED, given.target)
    operands = (
        given.version, given.create_revision, given.mod_revision, given.value, given.lease
    )  # fmt: skip
    operand: int | bytes = b"" if target == CompareTarget.VALUE else 0
    if operands != _NOTHING:
        member, found = _single(operands)
        if not isinstance(found, bytes):
            _fits(found)
        if member == target:
            operand = found
    return Compare(given.key, given.range_end, target, _member(RESULTS, given.result), operand)


_NOTHING: Final = (None, None, None, None, None)
"""The operands of a compare that gives none, in the order of CompareTarget."""


def _single(members: tuple[Any, ...]) -> tuple[int, Any]:
    """The only member of a union that is there, and which one it is."""
    found = [(number, member) for number, member in enumerate(members) if member is not None]
    if len(found) > 1:
        raise _UnusualError
    return found[0]


def _txn_of(given: _TxnBody) -> Txn:
    return Txn(
        tuple([_compare_of(each) for each in given.compare]),
        tuple([_operation(each) for each in given.success]),
        tuple([_operation(each) for each in given.failure]),
    )


def _operation(given: _OperationBody) -> TxnOperation:
    members = (
        given.request_range, given.request_put, given.request_delete_range, given.request_txn
    )  # fmt: skip
    if members != _NOTHING[:4]:
        _, found = _single(members)
        if isinstance(found, _PutBody):
            return _put_of(found)
        if isinstance(found, _RangeBody):
            return _range_of(found)
        if isinstance(found, _DeleteBody):
            return Delete(found.key, found.range_end, found.prev_kv)
        return _txn_of(found)
    raise KeyNotFoundError(
        "an operation of the transaction has no kind; give request_range, request_put, "
        "request_delete_range or request_txn"
    )


def message_bytes(command: Command | Range) -> int:
    """About the size of the call as a protocol message; exact for a put without options."""
    if isinstance(command, Put):
        return sum(
            1 + (max(len(field).bit_length(), 1) + 6) // 7 + len(field)
            for field in (command.key, command.value)
            if field
        )
    return 0 if isinstance(command, Range) else len(encode(command))
