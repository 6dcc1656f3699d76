from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftgroups.commands import (
    VERSION,
    BatchWrite,
    Cas,
    Command,
    Compact,
    Compare,
    Delete,
    Expire,
    Increment,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseRevoke,
    Put,
    Range,
    SetTtl,
    Tick,
    Token,
    Txn,
    decode,
    encode,
    stamp,
)
from raftgroups.refusals import InvalidTokenError, NewerCommandError, UnknownCommandError

EVERY_KIND: list[Command] = [
    Put(b"k", b"v", 5, True, False, True, 9),
    Delete(b"k", b"l", True),
    Txn(
        (Compare(b"k", b"", 3, 1, b"x"), Compare(b"k", operand=2**62)),
        (Put(b"a"), Range(b"b", limit=3), Txn((), (Delete(b"c"),))),
        (Delete(b"d"),),
    ),
    Compact(7),
    LeaseGrant(2**63 - 1, 60),
    LeaseRevoke(1),
    LeaseKeepAlive((1, 2)),
    Tick(),
    Expire((1,), (b"k",)),
    SetTtl(b"k", 1000),
    Increment(b"k", -3),
    Cas(b"k", None, 0),
    Cas(b"k", b"", expected_value=b""),
    BatchWrite((Put(b"a"), Delete(b"b"), Increment(b"c"), Cas(b"d", b"e"))),
]


@pytest.mark.parametrize(
    "command", EVERY_KIND, ids=[f"{n}-{type(c).__name__}" for n, c in enumerate(EVERY_KIND)]
)
@pytest.mark.parametrize("token", [None, Token(b"client", 7, 3), Token(b"c" * 64, 2**63 - 1)])
def test_a_command_comes_back_as_it_was(command: Command, token: Token | None) -> None:
    payload = encode(command, token, 123, 456)
    assert decode(payload) == (command, token, 123, 456)


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1), st.booleans())
def test_a_leader_stamps_foreign_bytes(clock_ms: int, wall_ms: int, with_token: bool) -> None:
    token = Token(b"c", 1) if with_token else None
    expected = encode(Put(b"k", b"v"), token, clock_ms, wall_ms)
    for payload in (encode(Put(b"k", b"v"), token), encode(Put(b"k", b"v"), token, 55, 66)):
        assert stamp(payload, clock_ms, wall_ms) == expected


@pytest.mark.parametrize("times", [(2**63, 0), (0, 2**63)])
def test_a_time_beyond_every_clock_is_refused(times: tuple[int, int]) -> None:
    with pytest.raises(UnknownCommandError, match=str(2**63)):
        decode(stamp(encode(Tick()), *times))


def test_the_bytes_of_version_1_do_not_change() -> None:
    assert encode(Put(b"k", b"v"), Token(b"c", 2, 1), 3, 4).hex() == (
        "01" "0000000000000003" "0000000000000004" "01" "63" "0000000000000002" "0000000000000001"
        "9801c4016bc4017600c2c2c200"
    )  # fmt: skip
    kinds = [encode(command)[18:20].hex() for command in EVERY_KIND]
    assert [int(kind[2:], 16) for kind in kinds] == [1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 13, 14]


@pytest.mark.parametrize(
    "token",
    [
        Token(b"", 1),
        Token(b"c" * 65, 1),
        Token(b"c", -1),
        Token(b"c", 2**63),
        Token(b"c", 1, 2),
        Token(b"c", 1, -1),
    ],
)
def test_a_token_that_cannot_be_kept_is_refused(token: Token) -> None:
    with pytest.raises(InvalidTokenError):
        encode(Tick(), token)


def test_a_later_version_is_told_from_nonsense() -> None:
    payload = encode(Tick())
    with pytest.raises(NewerCommandError):
        decode(bytes((VERSION + 1,)) + payload[1:])
    with pytest.raises(UnknownCommandError):
        decode(b"\x00" + payload[1:])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        msgspec.msgpack.encode([99]),
        msgspec.msgpack.encode(["put", b"k"]),
        msgspec.msgpack.encode([1]),
        msgspec.msgpack.encode([1, "text", b"v"]),
        msgspec.msgpack.encode([9, "one field more than version 1 has"]),
        msgspec.msgpack.encode([3, b"a read is no command"]),
        msgspec.msgpack.encode([9]) + b"\x00",
        b"\x94\x04\x90" * 2_000,
    ],
)
def test_what_is_not_a_command_of_version_1_is_refused(body: bytes) -> None:
    with pytest.raises(UnknownCommandError):
        decode(encode(Tick())[:18] + body)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_command_or_refused(data: bytes) -> None:
    try:
        command, token, *times = decode(bytes((VERSION,)) + data)
    except UnknownCommandError:
        return
    assert decode(encode(command, token, *times)) == (command, token, *times)


def test_a_token_cut_short_is_refused() -> None:
    payload = encode(Tick(), Token(b"client", 7, 3))
    for size in range(len(payload)):
        with pytest.raises(UnknownCommandError):
            decode(payload[:size])
