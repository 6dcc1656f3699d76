"""What is printed moves no cursor and tells no two keys as one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.cli.show import named, printable, seconds, size, table
from kv.cli.txn_text import InvalidTxnTextError, parse


@given(st.lists(st.binary(max_size=12), min_size=2, max_size=2, unique=True))
def test_escapes_are_printable_and_tell_all_bytes_apart(pair: list[bytes]) -> None:
    one, other = map(printable, pair)
    assert one != other
    assert one.isprintable()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain", "plain"),
        ("schön ☃".encode(), "schön ☃"),
        (b"a\\b\n\t\r\x1b", r"a\\b\n\t\r\x1b"),
        (b"\xff\x80", r"\xff\x80"),
        ("\u202e\U000e0001\x80".encode(), r"\u202e\U000e0001\u0080"),
    ],
)
def test_how_bytes_look(data: bytes, text: str) -> None:
    assert printable(data) == text


def test_fields_are_marked_where_they_are_base64() -> None:
    assert named("value", b"v") == {"value": "v"}
    assert named("value", b"\xff") == {"value": "/w==", "encoding": "base64"}
    assert named("key", b"\xff") == {"key": "/w==", "key_encoding": "base64"}
    assert named("value", None) == {"value": None}


def test_tables_are_aligned() -> None:
    shown = table(("NAME", "N"), [("a", 1), ("long name", 1000)], right="N")
    assert shown == "NAME          N\na             1\nlong name  1000"


def test_sizes_and_times() -> None:
    assert [size(n) for n in (0, 1023, 1536, 5 * 2**30)] == ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]
    assert [seconds(s) for s in (0.0123, 5, 600, 10_000, 400_000)] == [
        "12.3 ms", "5.0 s", "10 min", "2 h", "4 d",
    ]  # fmt: skip


# --- transactions as text --------------------------------------------------------------------


def test_a_transaction_as_text() -> None:
    txn = parse(
        """
        # comment
        if 'a key' exists
        if k value != "x y"
        if k lease = 7
        then
        put k v ttl=1.5 lease=7
        range p/ limit=3
        else
        del k
        del-prefix p/
        get k
        """
    )
    fields = txn.fields()
    assert fields["compare"] == [
        {"key": "a key", "target": "version", "op": ">", "operand": 0},
        {"key": "k", "target": "value", "op": "!=", "operand": "x y"},
        {"key": "k", "target": "lease", "op": "=", "operand": "7"},
    ]
    assert fields["then"][0] == {"op": "put", "key": "k", "value": "v", "ttl": 1.5, "lease": "7"}
    assert fields["then"][1]["limit"] == 3
    assert [step["op"] for step in fields["else"]] == ["delete", "delete", "get"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("put k", "KEY and VALUE"),
        ("put k v w", "too much"),
        ("put k v ttl=soon", "not a number"),
        ("get", "needs one word"),
        ("get k limit=3", "does not"),
        ("fly k", "no step 'fly'"),
        ("get k\nif k exists", "before all steps"),
        ("if k version = x\nget k", "whole number"),
        ("if k version ~ 3\nget k", "a condition is"),
        ("else\nelse\nget k", "stands alone"),
        ("then\nthen\nget k", "stands alone"),
        ("get 'k", "line 1.*pairs"),
        ("# nothing", "no step"),
    ],
)
def test_what_is_wrong_names_its_line(text: str, says: str) -> None:
    with pytest.raises(InvalidTxnTextError, match=says):
        parse(text)
