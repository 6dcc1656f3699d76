"""Bodies to commands: the fast path and the exact decoder agree, and both mean what etcd means."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kv.etcd import translate
from kv.etcd.errors import encode_error
from kv.etcd.protojson import INT64_MAX, INT64_MIN, MalformedBodyError, camel_case
from kv.etcd.translate import (
    decode_compaction,
    decode_delete,
    decode_one_key,
    decode_put,
    decode_puts,
    decode_range,
    decode_txn,
    message_bytes,
)
from raftgroups.commands import (
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
)
from storage.codec import KEY_MAX_BYTES
from storage.errors import JanusError

Decode = Callable[[bytes], Any]


def raised(answer: Any) -> Any:
    if isinstance(answer, JanusError):
        raise answer
    return answer


DECODERS: dict[str, Decode] = {
    "range": decode_range,
    "put": decode_put,
    "puts": lambda body: raised(*decode_puts((body,))),
    "delete": decode_delete,
    "txn": decode_txn,
}
FAST = ("_range_body", "_put_body", "_delete_body", "_txn_body")


def b64(raw: bytes) -> str:
    return b64encode(raw).decode()


def outcome(decode: Decode, body: bytes) -> Any:
    """A command, or the answer to what is refused. The words of a parser may differ."""
    try:
        return decode(body)
    except MalformedBodyError:
        return "malformed"
    except JanusError as error:
        return encode_error(error)


def slowly(monkeypatch: pytest.MonkeyPatch, decode: Decode, body: bytes) -> Any:
    def refuse(body: bytes) -> Any:
        raise translate._UnusualError

    with monkeypatch.context() as patch:
        for name in FAST:
            patch.setattr(translate, name, _unusual)
        return outcome(decode, body)


def _unusual(body: bytes) -> Any:
    raise translate.msgspec.DecodeError("not looked at")


# --- documents, likely and unlikely -----------------------------------------------------------

raw_bytes = st.binary(max_size=6)
base64s = st.one_of(
    raw_bytes.map(b64),
    st.sampled_from(["", "YQ", "YR==", "Y Q==", "YQ\n==", "-_8=", "YQ===", "=", "?", "YQ==YQ=="]),
    raw_bytes.map(list),
)
integers = st.one_of(
    st.integers(-3, 20),
    st.sampled_from([INT64_MAX, INT64_MIN, INT64_MAX + 1, INT64_MIN - 1, 10**30]),
    st.integers(-3, 20).map(str),
    st.sampled_from(["", " 1", "1 ", "+1", "01", "1.0", "1e3", "0x1", "-0", str(INT64_MAX + 1)]),
    st.sampled_from([1.0, 1.5, 1e3, True]),
)
booleans = st.one_of(st.booleans(), st.sampled_from(["true", 1, 0, ""]))
enums = st.one_of(
    st.integers(-1, 9),
    st.sampled_from(["NONE", "ASCEND", "DESCEND", "KEY", "VERSION", "CREATE", "MOD", "VALUE"]),
    st.sampled_from(["EQUAL", "GREATER", "LESS", "NOT_EQUAL", "LEASE", "equal", "", "1"]),
    st.sampled_from([1.0, True, 2**31, -(2**31) - 1]),
)
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "key": base64s, "range_end": base64s, "value": base64s,
    "limit": integers, "revision": integers, "lease": integers, "version": integers,
    "create_revision": integers, "mod_revision": integers,
    "min_mod_revision": integers, "max_mod_revision": integers,
    "min_create_revision": integers, "max_create_revision": integers,
    "serializable": booleans, "keys_only": booleans, "count_only": booleans,
    "prev_kv": booleans, "ignore_value": booleans, "ignore_lease": booleans,
    "sort_order": enums, "sort_target": enums, "result": enums, "target": enums,
}  # fmt: skip
RANGE_NAMES = tuple(translate._RANGE)
PUT_NAMES = tuple(translate._PUT)
DELETE_NAMES = tuple(translate._DELETE)
COMPARE_NAMES = tuple(translate._COMPARE)


def documents(names: tuple[str, ...]) -> st.SearchStrategy[dict[str, Any]]:
    """Some fields, most of them good, under either name, some null, some unknown."""

    def pairs(name: str) -> st.SearchStrategy[tuple[str, Any]]:
        value = st.one_of(KINDS[name], KINDS[name], KINDS[name], st.none())
        return st.tuples(st.sampled_from([name, name, name, camel_case(name)]), value)

    known = st.lists(st.sampled_from(names).flatmap(pairs), max_size=4)
    other = st.just({"unknown": {"deep": [1, "}"]}})
    return st.tuples(known.map(dict), st.one_of(st.just({}), st.just({}), other)).map(
        lambda both: both[0] | both[1]
    )


def with_key(names: tuple[str, ...]) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(documents(names), documents(names).map(lambda made: {"key": "YQ=="} | made))


def operations(depth: int) -> st.SearchStrategy[dict[str, Any]]:
    kinds = {
        "request_range": with_key(RANGE_NAMES),
        "request_put": with_key(PUT_NAMES),
        "requestDeleteRange": with_key(DELETE_NAMES),
    }
    if depth:
        kinds["request_txn"] = txns(depth - 1)
    one = st.sampled_from(list(kinds)).flatmap(
        lambda kind: kinds[kind].map(lambda made: {kind: made})
    )
    both = st.tuples(one, one).map(lambda pair: pair[0] | pair[1])
    return st.one_of(one, one, one, both, st.just({}))


def txns(depth: int = 1) -> st.SearchStrategy[dict[str, Any]]:
    lists = st.lists(operations(depth), max_size=2)
    return st.fixed_dictionaries(
        {},
        optional={
            "compare": st.lists(with_key(COMPARE_NAMES), max_size=2),
            "success": lists,
            "failure": lists,
        },
    )


SHAPES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "range": with_key(RANGE_NAMES),
    "put": with_key(PUT_NAMES),
    "delete": with_key(DELETE_NAMES),
    "txn": txns(),
}


def test_a_transaction_is_malformed_before_an_operation_of_it_has_no_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = b'{"success":[{},{"request_range":{"limit":%d}}]}'
    for limit in (1, 2**63):
        given = body % limit
        assert outcome(decode_txn, given) == slowly(monkeypatch, decode_txn, given)
    assert outcome(decode_txn, body % 2**63) == "malformed"


@given(st.data())
def test_the_fast_path_agrees_with_the_exact_decoder(data: st.DataObject) -> None:
    call = data.draw(st.sampled_from(list(SHAPES)))
    body = json.dumps(data.draw(SHAPES[call])).encode()
    tail = data.draw(st.sampled_from([b"", b"", b" ", b" junk", b"{}"]))
    with pytest.MonkeyPatch.context() as patch:
        assert outcome(DECODERS[call], body + tail) == slowly(patch, DECODERS[call], body + tail)


@given(call=st.sampled_from(list(DECODERS)), at=st.integers(0, 200), byte=st.binary(max_size=2))
@example(call="put", at=8, byte=b"\xff")
@example(call="put", at=1, byte=b"\x00")
def test_they_agree_on_damaged_bodies(call: str, at: int, byte: bytes) -> None:
    body = (
        b'{"compare":[{"key":"YQ==","target":"MOD","mod_revision":5}],"success":[{"request_put":'
        b'{"key":"YQ==","value":"\\u0059Q==","lease":7}},{"request_range":{"key":"YQ==","limit":3,'
        b'"sort_order":"ASCEND"}}]}'
        if call == "txn"
        else b'{"key":"YQ==","prev_kv":true,"lease":17,"value":"YWJj"}'
    )
    body = body[:at] + byte + body[at + 1 :]
    with pytest.MonkeyPatch.context() as patch:
        assert outcome(DECODERS[call], body) == slowly(patch, DECODERS[call], body)


ODD_VALUES = (
    None, True, False, 0, 1, -1, 9, 2**31, -(2**31) - 1, INT64_MAX, INT64_MIN, INT64_MAX + 1,
    INT64_MIN - 1, 2**64, 10**30, 1.0, 1e0, 1.5, -0.0, "", "0", "1", "-1", " 1", "1 ", "+1", "01",
    "1.0", "1e3", "0x1", "null", "NaN", str(INT64_MAX), str(INT64_MAX + 1), str(INT64_MIN - 1),
    "true", "NONE", "ASCEND", "VALUE", "LESS", "less", "YQ==", "YQ", "YR==", "YQ\n==", "Y Q==",
    "YQ===", "-_8=", "=", "YQ==YQ==", [], [97], [256], [1.5], ["YQ=="], [None], {}, {"a": 1},
    "\ud800", "\x7f",
)  # fmt: skip
TXN_FIELDS = {
    "compare": lambda fields: {"compare": [fields]},
    "request_put": lambda fields: {"success": [{"request_put": fields}]},
    "request_range": lambda fields: {"failure": [{"request_range": fields}]},
    "request_delete_range": lambda fields: {"success": [{"request_delete_range": fields}]},
}


def single_fields() -> list[tuple[str, dict[str, Any]]]:
    """Every field with every odd value."""
    names = {"range": RANGE_NAMES, "put": PUT_NAMES, "delete": DELETE_NAMES}
    made: list[tuple[str, dict[str, Any]]] = []
    for value in ODD_VALUES:
        for call, fields in names.items():
            made += [(call, {"key": "YQ==", name: value}) for name in fields]
        for wrapped, fields in zip(
            TXN_FIELDS, (COMPARE_NAMES, PUT_NAMES, RANGE_NAMES, DELETE_NAMES), strict=True
        ):
            made += [("txn", TXN_FIELDS[wrapped]({"key": "YQ==", name: value})) for name in fields]
            made.append(("txn", {"success": [{wrapped: value}]}))
        made += [("txn", {name: value}) for name in ("compare", "success", "failure")]
    return made


def test_they_agree_on_every_field_with_every_odd_value(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = 0
    for call, fields in single_fields():
        body = json.dumps(fields).encode()
        fast = outcome(DECODERS[call], body)
        assert fast == slowly(monkeypatch, DECODERS[call], body), body
        refused += fast == "malformed"
    assert 500 < refused < len(single_fields()) - 500


# --- round trips ------------------------------------------------------------------------------

int64s = st.integers(INT64_MIN, INT64_MAX)
keys = st.binary(min_size=1, max_size=20)
puts = st.builds(
    Put, keys, st.binary(max_size=40), int64s, st.booleans(), st.just(False), st.just(False)
)
deletes = st.builds(Delete, keys, st.binary(max_size=8), st.booleans())
ranges = st.builds(
    Range, keys, st.binary(max_size=8), int64s, int64s,
    st.sampled_from(SortOrder).map(int), st.sampled_from(SortTarget).map(int),
    st.booleans(), st.booleans(), int64s, int64s, int64s, int64s,
)  # fmt: skip


def document(command: Any) -> dict[str, Any]:
    """As a client would write it."""
    if isinstance(command, Put):
        return {"key": b64(command.key), "value": b64(command.value), "lease": command.lease} | {
            "prev_kv": command.want_previous
        }
    if isinstance(command, Delete):
        return {
            "key": b64(command.key),
            "range_end": b64(command.range_end),
            "prev_kv": command.want_previous,
        }
    fields = {name: getattr(command, name) for name in RANGE_NAMES if name != "serializable"}
    return fields | {"key": b64(command.key), "range_end": b64(command.range_end)}


@given(st.one_of(puts, deletes, ranges), st.booleans())
def test_a_command_survives_its_document(command: Any, as_strings: bool) -> None:
    fields = document(command)
    if as_strings:
        fields = {
            camel_case(name): str(it) if type(it) is int and not name.startswith("sort") else it
            for name, it in fields.items()
        }
    body = json.dumps(fields).encode()
    if isinstance(command, Range):
        assert decode_range(body) == (command, False)
    else:
        decode = decode_put if isinstance(command, Put) else decode_delete
        assert decode(body) == command


BASE64ISH = st.text(alphabet='AQgw0+/-_="\\ }{u,:é\n', max_size=12)
"""Characters that may be read in different ways."""


@given(st.one_of(BASE64ISH, st.binary(max_size=500).map(b64)))
@example("YR==")  # bits that mean nothing are set
@example("YQ=")
@example("YQ")
@example("YQ==YQ==")
@example('YQ==","key":"Yg==')
@example(b64(b"k" * KEY_MAX_BYTES))
@example(b64(b"k" * (KEY_MAX_BYTES + 1)))
def test_a_range_of_one_key_means_what_it_means_in_full(text: str) -> None:
    for form in (b'{"key":"%b"}', b' { "key" : "%b" }\n'):
        check_one_key(form % text.encode())


@given(at=st.integers(0, 20), byte=st.binary(max_size=3))
@example(at=0, byte=b"\xef\xbb\xbf")
@example(at=8, byte=b"\xff")
@example(at=13, byte=b'","key":"Yg=="}')
def test_a_damaged_range_of_one_key_means_what_it_means_in_full(at: int, byte: bytes) -> None:
    body = b'{"key":"YWJj"}'
    check_one_key(body[:at] + byte + body[at + 1 :])


def check_one_key(body: bytes) -> None:
    key = decode_one_key(body)
    if key is not None:
        assert decode_range(body) == (Range(key), False)
        with pytest.MonkeyPatch.context() as patch:
            assert slowly(patch, decode_range, body) == (Range(key), False)


@pytest.mark.parametrize(
    "body",
    [
        b'{"key":""}',
        b'{"key":null}',
        b'{"key":"YQ"}',
        b'{"key":"YQ=="}{}',
        b'{"key":"YQ==","serializable":false}',
        b'{"name":"YQ=="}',
        b"[]",
        b"\xff",
        b'{"key":"YQ==","limit":1}',
        b'"}',
        b"",
    ],
)
def test_any_other_form_is_looked_at_closer(body: bytes) -> None:
    assert decode_one_key(body) is None
    assert decode_one_key(b'{"key":"YQ=="}') == b"a"


# --- single rules -----------------------------------------------------------------------------


def test_a_transaction_in_full() -> None:
    body = {
        "compare": [
            {"key": "YQ==", "range_end": "Yg==", "target": "VALUE", "result": "NOT_EQUAL",
             "value": "dg=="},
            {"key": "YQ==", "target": 4, "result": 2, "lease": "9"},
        ],
        "success": [{"request_put": {"key": "YQ==", "ignore_value": True}}],
        "failure": [
            {"request_txn": {"success": [{"request_delete_range": {"key": "Yw=="}}]}},
            {"request_range": {"key": "Yg==", "sort_target": "MOD"}},
        ],
    }  # fmt: skip
    assert decode_txn(json.dumps(body).encode()) == Txn(
        (
            Compare(b"a", b"b", CompareTarget.VALUE, Comparison.NOT_EQUAL, b"v"),
            Compare(b"a", b"", CompareTarget.LEASE, Comparison.LESS, 9),
        ),
        (Put(b"a", ignore_value=True),),
        (Txn((), (Delete(b"c"),), ()), Range(b"b", sort_target=SortTarget.MOD)),
    )


@pytest.mark.parametrize(
    ("compare", "expected"),
    [
        ({"target": "VALUE"}, Compare(b"a", target=3, operand=b"")),
        ({"target": "VALUE", "value": "YQ==", "lease": 1}, Compare(b"a", target=3, operand=b"")),
        ({"target": "VERSION", "version": 1, "mod_revision": 9}, Compare(b"a", operand=0)),
        ({"target": "MOD", "version": 1, "mod_revision": 9}, Compare(b"a", target=2, operand=9)),
        ({"target": "MOD", "version": 3}, Compare(b"a", target=2, operand=0)),
        ({"target": "MOD", "value": "YQ=="}, Compare(b"a", target=2, operand=0)),
    ],
)
def test_of_several_operands_the_last_declared_counts(
    compare: dict[str, Any], expected: Compare
) -> None:
    body = json.dumps({"compare": [compare | {"key": "YQ=="}]}).encode()
    assert decode_txn(body).compares == (expected,)


def test_camel_case_wins_over_snake_case() -> None:
    assert decode_put(b'{"key":"YQ==","prevKv":true,"prev_kv":false}').want_previous
    assert not decode_put(b'{"key":"YQ==","prev_kv":true,"prevKv":false}').want_previous


def test_a_null_in_camel_case_is_absent_and_hides_nothing_else() -> None:
    assert decode_put(b'{"key":"YQ==","prevKv":null}') == Put(b"a")


def test_a_compaction() -> None:
    assert decode_compaction(b'{"revision":"12","physical":true}') == Compact(12)
    assert decode_compaction(b"") == Compact(0)


def test_nesting_has_a_limit() -> None:
    deep = b'{"unknown":' + b"[" * 5000 + b"]" * 5000 + b',"key":"YQ=="}'
    for decode in DECODERS.values():
        with pytest.raises(MalformedBodyError, match="nested deeper than 500"):
            decode(deep)
    brackets_in_a_string = json.dumps({"unknown": "[" * 5000, "key": "YQ=="}).encode()
    assert decode_put(brackets_in_a_string) == Put(b"a")


def test_many_flat_operations_are_not_deep() -> None:
    get = {"request_range": {"key": "YQ=="}}
    body = json.dumps({"success": [get] * 128, "failure": [get] * 128}).encode()
    assert len(decode_txn(body).then) == 128


def test_the_size_of_a_put_is_that_of_its_message() -> None:
    # 2097160 is what etcd said of this one (tests/golden/etcd/put-too-large.json).
    assert message_bytes(Put(b"a", bytes(2**21))) == 2097160
    assert message_bytes(Range(b"a" * 400)) == 0
    assert message_bytes(Txn((), (Put(b"a", bytes(1000)),))) > 1000
