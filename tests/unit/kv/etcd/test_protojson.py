"""The exact decoder's own rules, and the splitting of streams."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.etcd.protojson import (
    MalformedBodyError,
    Schema,
    Splitter,
    binary,
    camel_case,
    decode,
    int64,
    message,
    repeated,
    text,
    union,
)

SCHEMA: Schema = {
    "ID": int64,
    "some_name": text,
    "blob": binary,
    "inner": message({"x": int64}),
    "list": repeated(message({"x": int64}), {}),
    "numbers": repeated(int64, 0),
}


@pytest.mark.parametrize(
    ("name", "json_name"),
    [
        ("key", "key"),
        ("prev_kv", "prevKv"),
        ("max_create_revision", "maxCreateRevision"),
        ("ID", "ID"),
        ("peerURLs", "peerURLs"),
    ],
)
def test_json_names(name: str, json_name: str) -> None:
    assert camel_case(name) == json_name


def test_only_what_is_there_is_given() -> None:
    assert decode(SCHEMA, b"") == decode(SCHEMA, b" \n") == decode(SCHEMA, b"null") == {}
    assert decode(SCHEMA, b'{"ID":null,"id":3,"other":[]}') == {}
    assert decode(SCHEMA, b'{"inner":{},"list":[null,{"x":"1"}],"numbers":[1,"2",null]}') == {
        "inner": {},
        "list": [{}, {"x": 1}],
        "numbers": [1, 2, 0],
    }


def test_big_numbers_stay_exact() -> None:
    assert decode(SCHEMA, b'{"ID":9007199254740993}') == {"ID": 2**53 + 1}
    assert decode(SCHEMA, b'{"ID":"-9223372036854775808"}') == {"ID": -(2**63)}


def test_bytes_that_are_no_text() -> None:
    assert decode(SCHEMA, b'{"someName":"\xff"}') == {"some_name": "\ufffd"}
    assert decode(SCHEMA, b'{"someName":"\\ud800x"}') == {"some_name": "?x"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"ID":NaN}', "NaN is not JSON"),
        (b'{"ID":Infinity}', "Infinity is not JSON"),
        (b'{"ID":' + b"9" * 10_000 + b"}", "is not a whole number of 64 bits"),
        (b'{"inner":{"x":"?"}}', r"\(field x\) \(field inner\)"),
        (b'{"someName":7}', "7 is not a string"),
        (b'{"blob":[256]}', "256 is not between 0 and 255"),
        (b'{"list":7}', "7 is not a list"),
        (b'{"ID":1', "Expecting"),
        (b"[]", "is not an object"),
        (b'{"a":"\n"}', "control character"),
    ],
)
def test_what_is_refused_is_named(body: bytes, says: str) -> None:
    with pytest.raises(MalformedBodyError, match=says):
        decode(SCHEMA, body)


def test_the_last_declared_member_of_a_union() -> None:
    chosen = union("a", "b", "c")
    assert chosen({}) is None
    assert chosen({"b": 0, "a": 1}) == "b"
    assert chosen({"a": 1, "c": 0}) == "c"


# --- streams ----------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just('"\\{}[]'),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
objects = st.lists(st.dictionaries(st.text(max_size=4), values, max_size=3), max_size=4)


@given(objects, st.lists(st.integers(0, 300), max_size=6), st.sampled_from(["", " ", "\n\t "]))
def test_a_stream_is_cut_alike_wherever_it_arrives(
    given_objects: list[dict[str, object]], cuts: list[int], between: str
) -> None:
    body = between.join(["", *(json.dumps(each) for each in given_objects), ""]).encode()
    splitter = Splitter(10_000)
    found: list[bytes] = []
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    for start, end in pairwise(edges):
        found += splitter.feed(body[start:end])
    splitter.finish()
    assert [json.loads(each) for each in found] == given_objects


@pytest.mark.parametrize("body", [b"junk", b"null", b"7", b"[1]", b'"a"', b"}"])
def test_what_is_no_object_ends_a_stream_after_what_came_before(body: bytes) -> None:
    splitter = Splitter(1000)
    found: list[bytes] = []
    with pytest.raises(MalformedBodyError, match="not an object"):
        found.extend(splitter.feed(b"{} " + body))
    assert found == [b"{}"]
    taken = splitter.feed(b"")
    with pytest.raises(MalformedBodyError, match="not an object"):
        next(taken)


def test_an_object_that_never_ends() -> None:
    splitter = Splitter(100)
    assert list(splitter.feed(b'{"a":"')) == []
    with pytest.raises(MalformedBodyError, match="over the limit of 100 bytes"):
        list(splitter.feed(b"x" * 100))
    short = Splitter(100)
    assert list(short.feed(b'{"a":')) == []
    with pytest.raises(MalformedBodyError, match="ends inside an object"):
        short.finish()


def test_an_escape_may_be_cut_in_two() -> None:
    splitter = Splitter(100)
    assert list(splitter.feed(b'{"a":"\\')) == []
    assert list(splitter.feed(b'"}"')) == []
    assert list(splitter.feed(b"}")) == [b'{"a":"\\"}"}']
