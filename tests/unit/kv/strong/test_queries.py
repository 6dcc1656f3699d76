"""Reads as values: their bytes, and what comes back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kv.api import listing, lock_queries, lockplan, watch_queries
from kv.api.bodies import BatchGetResult, Listed
from kv.api.hot import Forms
from kv.api.queries import (
    CountQuery,
    Found,
    KeyQuery,
    KeysQuery,
    LeaseQuery,
    LeasesQuery,
    PartQuery,
    RawKeyQuery,
    TxnQuery,
    TxnRead,
)
from kv.api.reply import Reply
from kv.etcd import queries as etcd
from kv.strong import lease_queries, queries
from kv.strong.queries import (
    MalformedQueryError,
    Query,
    decode_answer,
    decode_query,
    encode_answer,
    encode_query,
)
from kv.watch.merged import Pulled, PulledRevision
from raftgroups.commands import Put, Range, Txn
from raftgroups.results import PutResult, RangeAnswer, TxnResult
from storage.mvcc_records import KeyValue

PAGE = listing.Page(b"a", None, 10, 7, True, True, Forms(True, False), (b"a", b"z"))
RECORD = KeyValue(b"k", 2, 3, 1, 0, b"v", 5)
TXN = TxnResult(9, True, (PutResult(9), RangeAnswer(9, (RECORD,), False, 1)))
CASES: list[tuple[Query[Any], Any]] = [
    (KeyQuery(b"\xff", 3, 4, Forms(True, True)), Reply(200, b"{}", version=3, shard=4, revision=5)),
    (RawKeyQuery(b"k"), Reply(404, b"", headers=(("A", "b"),))),
    (
        PartQuery(PAGE),
        listing.Part([Listed("a", 3), Listed("b", 4, "v", "base64")], PAGE, True, 1, 2, 3),
    ),
    (CountQuery(b"", None, 3), listing.Counted(3, b"x", 0, 2, 9)),
    (KeysQuery((b"a", b"b")), Found([BatchGetResult("a", True, "v", 2, 3)], 4, 5)),
    (TxnQuery(Txn((), (Range(b"a"),))), TxnRead(TXN, 1, 9)),
    (LeaseQuery(5, True), Reply(200, b"{}")),
    (LeasesQuery(3, 9), Reply(200, b"{}")),
    (etcd.RangeQuery(Range(b"a", b"b")), etcd.RangeRead(RangeAnswer(4, (RECORD,), True, 7), 3)),
    (etcd.TxnQuery(Txn((), (Put(b"a"),))), etcd.TxnRead(TXN, 4)),
    (etcd.LeaseQuery(3, True), etcd.LeaseRead(4, -1, 0, [b"k"])),
    (etcd.LeasesQuery(), etcd.LeasesRead(4, [1, 2])),
    (etcd.HomeQuery(), 7),
    (lock_queries.LockLook(b"deploy", b"k", 3), lockplan.Look(True, b"before", 9)),
    (lock_queries.LockQuery(b"deploy"), Reply(200, b"{}")),
    (lock_queries.LeaseTtl(5), None),
    (lock_queries.IsThere(b"k"), True),
    (lease_queries.LeaseLook((3, 4)), lease_queries.Looked(2, 4)),
    (lease_queries.LeaseKeysQuery(5, b"a"), lease_queries.LeaseKeys([b"a", b"b"], None)),
    (
        watch_queries.EventsQuery(b"a", None, 3, 9, whole_end=b"z"),
        Pulled(9, [PulledRevision(4, [b"{}"], [(b"a", b"c"), (b"m", None)])]),
    ),
    (watch_queries.OriginQuery(b"a", None, 4), watch_queries.Origin(4, (1, 7))),
]


@pytest.mark.parametrize(
    ("query", "answer"), CASES, ids=[query.__struct_config__.tag for query, _ in CASES]
)
def test_query_and_answer_survive_their_bytes(query: Query[Any], answer: Any) -> None:
    assert decode_query(encode_query(query)) == query
    assert decode_answer(query, encode_answer(answer)) == answer


def test_every_registered_query_is_tried_here() -> None:
    assert {type(query) for query, _ in CASES} == set(queries._kinds)


@pytest.mark.parametrize(
    "body", [b"", b"\xc0", b"\x91\xa7unknown", msgspec.msgpack.encode(["api.key", 5])]
)
def test_bytes_that_are_no_query_are_refused(body: bytes) -> None:
    with pytest.raises(MalformedQueryError):
        decode_query(body)


def test_an_answer_of_another_kind_is_refused() -> None:
    with pytest.raises(MalformedQueryError):
        decode_answer(CountQuery(b"", None), b"\xc0")


def test_locks_of_the_whole_range_concern_a_part_of_it() -> None:
    """A part begins at one key, and reads on from there."""
    assert PartQuery(PAGE).reads() == (PAGE.start, PAGE.end)
    assert CountQuery(b"b", b"d").reads() == (b"b", b"d")
    assert CountQuery(b"b", b"d").scope() == (b"b", b"b\x00")
    assert KeyQuery(b"k").reads() == KeyQuery(b"k").scope()
    assert LeaseQuery(7, with_keys=True).reads() == (b"", None)
