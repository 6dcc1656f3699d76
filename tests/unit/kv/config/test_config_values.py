"""Each kind of value: what it takes, what it gives, how it complains, and that it reads itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.config.members import AddressTable, InitialMember, MemberKind
from kv.config.units import (
    Duration,
    Size,
    duration_text,
    size_text,
)
from kv.config.values import (
    Address,
    AddressKind,
    BadValue,
    Choice,
    Flag,
    Kind,
    ListOf,
    Number,
    Text,
    Whole,
    shown,
    toml_string,
)
from kv.config.web import HostName, Origin

HOUR_RANGE = Duration(0.001, 3600)
TIB = 1024**4


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500 ms", 0.5),
        ("500ms", 0.5),
        ("1.5s", 1.5),
        ("1 h", 3600),
        ("1 min 30 s", 90),
        ("2m", 120),
        ("1500 us", 0.0015),
        ("0.1 s", 0.1),
        ("300 ms", 0.3),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert HOUR_RANGE.read(text) == seconds
    assert HOUR_RANGE.read_text(f" {text} ") == seconds


@pytest.mark.parametrize(
    "value", ["", "5", "ms", "-1 s", "1 parsec", "1e3 s", "1 s,", "2 h", "1 us", "1" * 99 + " s"]
)
def test_what_is_no_duration_or_out_of_range_is_told_what_to_write(value: str) -> None:
    with pytest.raises(BadValue, match='write a time with its unit, "1 ms" to "1 h"'):
        HOUR_RANGE.read(value)


def test_a_duration_without_a_unit_is_asked_which_was_meant() -> None:
    with pytest.raises(BadValue, match='write "100 ms" or "100 s"'):
        HOUR_RANGE.read(100)


def test_zero_only_where_it_means_something() -> None:
    assert Duration(1, 60, zero_means="never").read("0 s") == 0
    with pytest.raises(BadValue):
        Duration(1, 60).read("0 s")
    assert Size(10, 20, zero_means="no limit").read(0) == 0
    with pytest.raises(BadValue):
        Size(10, 20).read("0")


@pytest.mark.parametrize(
    ("value", "size_bytes"),
    [
        (1000, 1000),
        ("2000", 2000),
        ("1_000", 1000),
        ("1 KiB", 1024),
        ("1.5 MiB", 1536 * 1024),
        ("2MB", 2_000_000),
        ("1 GiB", 1024**3),
        ("1 TiB", TIB),
    ],
)
def test_sizes(value: Any, size_bytes: int) -> None:
    assert Size(1, TIB).read(value) == size_bytes


@pytest.mark.parametrize(
    "value", ["", "1 QiB", "MiB", "0.3 KiB", -1, True, 1.5, "2 TiB", [], "auto"]
)
def test_what_is_no_size(value: object) -> None:
    with pytest.raises(BadValue, match="write a size"):
        Size(1, TIB).read(value)


def test_auto_is_a_size_only_where_it_is_allowed() -> None:
    kind = Size(1, TIB, auto="what fits")
    assert kind.read("auto") is None
    assert kind.render(None) == '"auto"'
    assert '"auto" for what fits' in kind.says


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:7400", Address("127.0.0.1", 7400)),
        ("[::1]:7400", Address("::1", 7400)),
        ("kv-1.example.org:1", Address("kv-1.example.org", 1)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert AddressKind().read(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        ":7400",
        "host:",
        "host:x",
        "host:70000",
        "::1:7400",
        "a b:1",
        "host:1:2",
        "h:0",
        "[]:1",
    ],
)
def test_what_is_no_address_to_dial(text: str) -> None:
    with pytest.raises(BadValue, match=r"write|brackets"):
        AddressKind().read(text)


def test_port_zero_is_for_listening_and_empty_for_what_is_derived() -> None:
    assert AddressKind(port_zero=True).read("127.0.0.1:0").port == 0
    assert AddressKind(optional=True).read("") is None


def test_other_kinds_refuse_neighbouring_types() -> None:
    for kind, value in (
        (Flag(), 1),
        (Flag(), "true"),
        (Whole(0, 9), True),
        (Whole(0, 9), 1.0),
        (Whole(0, 9), 10),
        (Number(0, 9), False),
        (Number(0, 9), float("nan")),
        (Number(0, 9), 10**400),
        (Text(), 1),
        (Text(), "two\nlines"),
        (Text(), "\ud800"),
        (Text(optional=False), ""),
        (Text(max_length=3), "four"),
        (Choice(("a", "b")), "c"),
        (Choice(("a", "b")), ["a"]),
        (ListOf(Whole(0, 9), "a list"), "1"),
        (ListOf(Whole(0, 9), "a list"), [1, 1]),
        (ListOf(Whole(0, 9), "a list"), [1, "x"]),
        (MemberKind(), {"peer": "h:1", "port": 1}),
        (MemberKind(), {"name": "a"}),
        (MemberKind(), "=h:1"),
        (AddressTable(), {"a": 1}),
        (AddressTable(), {"": "h:1"}),
        (Origin(), "https://a.example/path"),
        (Origin(), "*"),
        (HostName(), "a.example:80"),
    ):
        with pytest.raises(BadValue):
            kind.read(value)


@pytest.mark.parametrize("word", ["true", "Yes", "on", "1"])
def test_words_for_true(word: str) -> None:
    assert Flag().read_text(word) is True
    with pytest.raises(BadValue):
        Flag().read_text(f"{word}x")


def test_lists_of_the_environment_are_separated_by_commas() -> None:
    assert ListOf(Whole(0, 9), "a list").read_text(" ") == ()
    assert ListOf(Whole(0, 9), "a list").read_text("1, 2,") == (1, 2)
    with pytest.raises(BadValue):
        ListOf(Whole(0, 9), "a list").read_text("1,x")
    with pytest.raises(BadValue, match="twice"):
        AddressTable().read_text("a=h:1,a=h:2")
    with pytest.raises(BadValue, match="NAME=HOST:PORT"):
        AddressTable().read_text("h:1")


def test_origins_are_kept_as_browsers_send_them() -> None:
    assert Origin().read("HTTP://A.example:80") == "http://a.example"
    assert Origin().read("https://a.example:8443/") == "https://a.example:8443"
    assert HostName().read("[::1]") == "::1"


@given(st.integers(0, 10**15).map(lambda number: number / 10**6))
def test_a_duration_reads_its_own_text(seconds: float) -> None:
    assert Duration(0, 10**10).read_text(duration_text(seconds)) == seconds


@given(st.integers(0, 2**60))
def test_a_size_reads_its_own_text(size_bytes: int) -> None:
    assert Size(0, 2**60).read_text(size_text(size_bytes)) == size_bytes


def test_texts_of_sizes_and_times_are_short() -> None:
    assert [size_text(n) for n in (432, 1024, 1536 * 1024, 12345 * 1024**4 + 1024**4 * 3 // 4)] == [
        "432 B",
        "1 KiB",
        "1.5 MiB",
        "12345.75 TiB",
    ]
    assert [duration_text(s) for s in (0, 0.1, 1.5, 90, 3600, 172800)] == [
        "0 s",
        "100 ms",
        "1500 ms",
        "90 s",
        "1 h",
        "2 d",
    ]


KINDS: list[Kind] = [
    Text(),
    Choice(("a", "b")),
    Flag(),
    Whole(-5, 5),
    Number(-1, 1),
    Duration(0, 10),
    Size(0, 10, auto="x"),
    AddressKind(optional=True),
    ListOf(AddressKind(), "a list"),
    ListOf(MemberKind(), "a list"),
    AddressTable(),
    ListOf(Origin(), "a list"),
    ListOf(HostName(), "a list"),
]
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(KINDS), ODD, st.text())
def test_no_kind_raises_anything_but_bad_value(kind: Kind, value: object, text: str) -> None:
    for read, given_value in ((kind.read, value), (kind.read, text), (kind.read_text, text)):
        result, complaint = None, ""
        try:
            result = kind.render(read(given_value))
        except BadValue as error:
            complaint = str(error)
        assert complaint.isprintable()
        assert result is None or result.isprintable()


@given(st.text())
def test_toml_strings_are_one_line_and_printable(text: str) -> None:
    assert toml_string(text).isprintable()
    assert len(shown(text)) <= 80


def test_members_are_told_apart_by_their_names() -> None:
    kind = MemberKind()
    member = InitialMember("n1", Address("h", 1))
    assert kind.read("n1=h:1") == kind.read({"name": "n1", "peer": "h:1"}) == member
    assert kind.render(member) == '{name = "n1", peer = "h:1"}'
    assert kind.render(InitialMember("", Address("h", 1))) == '"h:1"'
