"""Answers, against a plain description of the protocol: zeros left out, 64-bit numbers strings."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.etcd.answers import Headers, Number32, Present, encode_event, encode_message
from raftgroups.results import DeleteResult, PutResult, RangeAnswer, TxnResult
from storage.mvcc_records import Event, KeyValue

HEADERS = Headers(2**63 + 1, 2**64 - 1)

counts = st.one_of(st.just(0), st.integers(1, 2**63 - 1))
live = st.integers(1, 2**63 - 1)
kvs = st.builds(
    KeyValue, st.binary(min_size=1, max_size=9), live, live, live, counts, st.binary(max_size=9)
)
tombstones = st.builds(
    KeyValue, st.binary(min_size=1, max_size=9), st.just(0), live, st.just(0), st.just(0),
    st.just(b""),
)  # fmt: skip
some = st.lists(kvs, max_size=3).map(tuple)
put_results = st.builds(PutResult, live, st.none() | kvs)
delete_results = st.builds(DeleteResult, live, counts, some)
range_answers = st.builds(RangeAnswer, live, some, st.booleans(), counts)
txn_results = st.recursive(
    st.builds(TxnResult, live, st.booleans(), st.just(())),
    lambda inner: st.builds(
        TxnResult,
        live,
        st.booleans(),
        st.lists(put_results | delete_results | range_answers | inner, max_size=3).map(tuple),
    ),
    max_leaves=4,
)


def plain(value: Any) -> Any:
    """A message as it is sent: dicts keep their order, zero values are left out but for messages
    in a list and headers."""
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, dict):
        return {
            name: plain(it)
            for name, it in value.items()
            if it or (isinstance(it, dict) and it is not None)
        }
    if isinstance(value, list | tuple) and not isinstance(value, KeyValue):
        return [plain(each) for each in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value


def record(kv: KeyValue) -> dict[str, Any]:
    return {
        "key": kv.key,
        "create_revision": kv.create_revision,
        "mod_revision": kv.mod_revision,
        "version": kv.version,
        "value": kv.value,
        "lease": kv.lease,
    }


def fields_of(result: Any) -> dict[str, Any]:
    match result:
        case PutResult():
            return {"prev_kv": record(result.previous)} if result.previous else {}
        case DeleteResult():
            return {"deleted": result.deleted, "prev_kvs": [record(kv) for kv in result.previous]}
        case RangeAnswer():
            shown = [record(kv) for kv in result.items]
            return {"kvs": shown, "more": result.more, "count": result.count}
        case TxnResult():
            inner = [response_of(each) for each in result.responses]
            return {"succeeded": result.succeeded, "responses": inner}
    raise AssertionError(result)


def response_of(result: Any) -> dict[str, Any]:
    if isinstance(result, TxnResult):
        return {"response_txn": {"header": {}} | fields_of(result)}
    name = {PutResult: "put", DeleteResult: "delete_range", RangeAnswer: "range"}[type(result)]
    header = {"header": {"revision": result.revision}}
    return {f"response_{name}": header | fields_of(result)}


def expected(revision: int, term: int, fields: dict[str, Any]) -> bytes:
    header = {"cluster_id": 2**63 + 1, "member_id": 2**64 - 1, "revision": revision}
    message = plain({"header": header | {"raft_term": term}} | fields)
    return json.dumps(message, separators=(",", ":")).encode()


def encode_put(result: PutResult, term: int) -> bytes:
    (body,) = HEADERS.encode_puts((result,), term)
    return body


ENCODERS: dict[type, Callable[[Any, int], bytes]] = {
    PutResult: encode_put,
    DeleteResult: HEADERS.encode_delete,
    RangeAnswer: HEADERS.encode_range,
    TxnResult: HEADERS.encode_txn,
}


@given(put_results | delete_results | range_answers | txn_results, counts)
def test_a_result_is_the_message_of_the_protocol(result: Any, term: int) -> None:
    shown = ENCODERS[type(result)](result, term)
    assert shown == expected(result.revision, term, fields_of(result))


@given(st.lists(put_results, max_size=4), counts)
def test_puts_in_one_go_are_puts(results: list[PutResult], term: int) -> None:
    expected = [encode_put(each, term) for each in results]
    assert HEADERS.encode_puts(results, term) == expected


@given(st.lists(kvs | st.none(), max_size=3), counts, counts)
def test_ranges_of_one_key_are_ranges(
    found: list[KeyValue | None], revision: int, term: int
) -> None:
    expected = []
    for each in found:
        items = () if each is None else (each,)
        expected.append(HEADERS.encode_range(RangeAnswer(revision, items, False, len(items)), term))
    assert HEADERS.encode_each(found, revision, term) == expected


@pytest.mark.parametrize("revision", [0, 1, 2**63 - 1])
@pytest.mark.parametrize("term", [0, 1, 7])
def test_headers_leave_zeros_out(revision: int, term: int) -> None:
    assert HEADERS.encode_plain(revision, term) == expected(revision, term, {})
    assert HEADERS.encode_fields(revision, term, {"x": 0}) == expected(revision, term, {})
    assert HEADERS.encode_fields(revision, term, {"x": 1}) == expected(revision, term, {"x": 1})


@given(kvs, st.none() | kvs, st.booleans())
def test_an_event_of_a_put(kv: KeyValue, prev: KeyValue | None, with_prev: bool) -> None:
    message = {"kv": record(kv)} | ({"prev_kv": record(prev)} if prev and with_prev else {})
    shown = json.dumps(plain(message), separators=(",", ":")).encode()
    assert encode_event(Event(False, kv, prev), with_prev) == shown


@given(tombstones, st.none() | kvs, st.booleans())
def test_an_event_of_a_delete(kv: KeyValue, prev: KeyValue | None, with_prev: bool) -> None:
    message = {"type": "DELETE", "kv": record(kv)}
    message |= {"prev_kv": record(prev)} if prev and with_prev else {}
    shown = json.dumps(plain(message), separators=(",", ":")).encode()
    assert encode_event(Event(True, kv, prev), with_prev) == shown


def test_other_messages() -> None:
    fields = {
        "ID": 2**63, "TTL": -1, "no": 0, "name": "a<b&\"\u00e9", "hash": Number32(7),
        "isLearner": True, "isNot": False, "blob": b"\x00\xff", "none": [], "empty": {},
        "stays": Present(), "list": [{"ID": 1}, Present()], "names": ["a", "b"],
    }  # fmt: skip
    assert json.loads(encode_message(fields)) == {
        "ID": "9223372036854775808", "TTL": "-1", "name": "a<b&\"\u00e9", "hash": 7,
        "isLearner": True, "blob": "AP8=", "stays": {}, "list": [{"ID": "1"}, {}],
        "names": ["a", "b"],
    }  # fmt: skip
