"""Frames at full width: what is read in one go is what the general way reads."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raftgroups import frames as f
from raftgroups import messages as m

OPENING = f.Opening(f.frame_opening(7, "boot", 3), 7, "boot", 3)

numbers = st.integers(0, 30) | st.integers(0, m.INT_LIMIT - 1)
entries = st.lists(
    st.tuples(
        st.sampled_from([0, 23, 24, 255, 256, 2**16, 2**32, 2**63 - 1]),
        st.binary(max_size=30) | st.integers(250, 70_000).map(bytes),
    ).map(list),
    max_size=26,
)
plain = (
    st.builds(m.Probe, numbers, numbers, numbers)
    | st.builds(m.Echo, numbers, numbers, numbers)
    | st.builds(m.ReadRequest, numbers, numbers, numbers)
    | st.builds(m.ReadIndex, numbers, numbers, numbers, numbers)
    | st.builds(m.Ack, numbers, numbers, numbers, st.booleans(), st.booleans())
    | st.builds(m.Append, numbers, numbers, numbers, numbers, numbers, st.booleans(), entries)
)
other = (
    st.builds(m.Vote, numbers, numbers)
    | st.builds(m.ReadIndex, numbers, numbers, numbers, st.none())
    | st.builds(m.Append, numbers, numbers, st.none(), numbers, numbers, st.booleans(), entries)
)


def both_ways(frame: bytes) -> tuple[list[m.Message] | None, f.Frame | None]:
    """Read in one go, and by the general way; None where it is not read."""
    found = None
    with suppress(m.MalformedError):
        found = f.decode_frame(frame, OPENING)
    return f.read_plain(frame, OPENING), found


def same(messages: list[m.Message], frame: f.Frame | None) -> bool:
    return (
        frame is not None
        and frame == (7, "boot", 3, messages, 0)
        and [*map(type, messages)] == [*map(type, frame.messages)]
        and [*map(repr, messages)] == [*map(repr, frame.messages)]  # True is not 1
    )


@given(st.lists(plain, min_size=1, max_size=6))
@example([m.Probe(1, 2, 3)] * 23)
def test_messages_at_full_width_are_read_in_one_go(messages: list[m.Message]) -> None:
    messages = [
        each._replace(entries=each.entries[:23]) if isinstance(each, m.Append) else each
        for each in messages
    ]
    one, general = both_ways(f.encode_messages(OPENING.octets, messages))
    assert one == messages
    assert same(one, general)


@given(st.lists(plain | other, max_size=6), st.data())
def test_any_bytes_are_read_the_same_or_left_to_the_general_way(
    messages: list[m.Message], data: st.DataObject
) -> None:
    frame = f.encode_messages(OPENING.octets, messages)
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(frame) - 1))
        part = data.draw(st.binary(max_size=2) | st.sampled_from([b"\x1b", b"\xf4", b"\xf5"]))
        frame = frame[:at] + part + frame[at + data.draw(st.integers(0, 2)) :]
    frame = frame[: data.draw(st.integers(0, len(frame)))] if data.draw(st.booleans()) else frame
    frame += data.draw(st.binary(max_size=2))
    one, general = both_ways(frame)
    assert one is None or same(one, general)


@pytest.mark.parametrize(
    "message",
    [
        m.Echo(1, 2, 3),
        m.ReadIndex(1, 2, 3, 4),
        m.Ack(1, 2, 3, True, False),
        m.Append(1, 2, 3, 2, 3, False, [[2, b"abc"], [1 << 40, bytes(300)]]),
    ],
)
def test_every_byte_counts(message: m.Message) -> None:
    """Each one changed to anything, and each end cut off."""
    frame = f.encode_messages(OPENING.octets, [message])
    beyond = (m.INT_LIMIT >> 56) & 0xFF
    for at in range(len(OPENING.octets), len(frame)):
        for value in (0, 1, 0x1A, 0x1B, 0x42, 0x59, beyond, 0x81, 0x82, 0xF4, 0xF5, 0xF6, 0xFF):
            one, general = both_ways(frame[:at] + bytes((value,)) + frame[at + 1 :])
            assert one is None or same(one, general), (at, value)
        assert f.read_plain(frame[:at], OPENING) is None
    assert f.read_plain(frame + b"\x00", OPENING) is None
    assert f.read_plain(OPENING.octets, OPENING) is None
    assert f.read_plain(b"\x85" + frame, OPENING) is None


@given(st.lists(plain | other, max_size=30))
def test_everybody_reads_what_we_write(messages: list[m.Message]) -> None:
    kinds = {kind: number for number, (kind, _, _) in m.KINDS.items()}
    body: Any = cbor2.loads(f.encode_messages(OPENING.octets, messages))[4]
    assert body == [[kinds[type(each)], *each] for each in messages]
