"""Frames: every kind survives its bytes, and no bytes do more than raise MalformedError."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raftgroups import frames as f
from raftgroups import messages as m
from raftgroups.smallcbor import write
from raftgroups.snapshot import (
    Incoming,
    Phase,
    checked_rows,
    decode_rows,
    encode_rows,
    offer_fault,
    overlap,
)
from storage.slices import Slice

ONE_OF_EACH = [
    m.Append(1, 2, 3, 2, 3, False, [(2, b"\x01"), (2, b"\x00x")]),
    m.Append(1, 2, None, 0, 0, True, []),
    m.Ack(1, 2, 3, True, False),
    m.VoteRequest(1, 2, 3, 4, True),
    m.Vote(1, 2),
    m.BlankVote(1, 2),
    m.PreVoteRequest(1, 2, 3, 4, 5),
    m.PreVote(1, 2, 3, True),
    m.Stale(1, 2),
    m.TimeoutNow(1, 2),
    m.Probe(1, 2, 3),
    m.Echo(1, 2, 3),
    m.ReadRequest(1, 2, 3),
    m.ReadIndex(1, 2, 3, 4),
    m.ReadIndex(1, 2, 3, None),
    m.NotMember(1, 2, 3),
    m.Sleep(1, 2, 3),
    m.Beat(0, 0),
    m.Offer(1, 2, 3, 4, 5, 6, b"config", [(b"a", b"b")]),
    m.LineageOffer(
        1, 2, 3, 4, 5, 4, b"config", [[b"a", b"b"], [b"c", b"d", 13, b"", None]], [7, 8]
    ),
    m.OfferReply(1, 2, 3, None),
    m.Chunk(1, 2, 3, 4, True, 5, b"rows"),
]


def plain(message: Any) -> Any:
    """As a list: entries and ranges come back as lists, not as tuples."""
    return cbor2.loads(cbor2.dumps(list(message)))


def test_every_kind_is_in_the_list() -> None:
    assert {type(message) for message in ONE_OF_EACH} == {kind for kind, _, _ in m.KINDS.values()}


def test_every_kind_survives_its_bytes() -> None:
    frame = f.decode_frame(f.encode_frame(7, "boot", 3, ONE_OF_EACH))
    assert (frame.incarnation, frame.boot, frame.level, frame.malformed) == (7, "boot", 3, 0)
    assert [type(message) for message in frame.messages] == [type(o) for o in ONE_OF_EACH]
    assert [plain(message) for message in frame.messages] == [plain(o) for o in ONE_OF_EACH]


@pytest.mark.parametrize("message", ONE_OF_EACH, ids=str)
def test_no_field_may_be_left_out_doubled_or_of_another_type(message: Any) -> None:
    kind = next(number for number, (made, _, _) in m.KINDS.items() if made is type(message))
    for at in range(len(message)):
        for wrong in ("text", -1, 1 << 64, 1.5, {}, [[]], [b"x"], [[1, 2]], True, b"b"):
            fields = list(message)
            if type(fields[at]) is type(wrong) or (isinstance(fields[at], bytes) and wrong == b"b"):
                continue
            fields[at] = wrong
            frame = f.decode_frame(cbor2.dumps([f.FRAME_VERSION, 7, "boot", 1, [[kind, *fields]]]))
            assert frame.malformed == 1, (message, at, wrong)
    for fields in (list(message)[:-1], [*message, 0]):
        frame = f.decode_frame(cbor2.dumps([f.FRAME_VERSION, 7, "boot", 1, [[kind, *fields]]]))
        assert frame.malformed == 1


@given(st.binary(max_size=200))
def test_any_bytes_give_a_frame_or_a_malformed_error(data: bytes) -> None:
    with suppress(m.MalformedError):
        f.decode_frame(data)


_FRAMES = st.sampled_from(
    [f.encode_frame(7, "boot", 3, ONE_OF_EACH), f.encode_frame(2**52, "b", 1, ONE_OF_EACH[:3])]
)


@given(_FRAMES, st.data())
def test_a_known_opening_changes_nothing(frame: bytes, data: st.DataObject) -> None:
    octets = f.frame_opening(7, "boot", 3)
    opening = f.Opening(octets, 7, "boot", 3)
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(frame) - 1))
        frame = frame[:at] + data.draw(st.binary(max_size=2)) + frame[at + 1 :]
    frame += data.draw(st.binary(max_size=2))
    found: list[f.Frame | None] = []
    for known in (None, opening):
        try:
            found.append(f.decode_frame(frame, known))
        except m.MalformedError:
            found.append(None)
    assert found[0] == found[1]
    assert found[0] is None or [*map(type, found[0].messages)] == [
        *map(type, found[1].messages if found[1] else ())
    ]


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.binary(max_size=8) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=9),
    max_leaves=40,
)


@given(st.lists(_VALUES, max_size=6))
def test_any_cbor_inside_a_frame_is_sorted_out(items: list[Any]) -> None:
    frame = f.decode_frame(cbor2.dumps([f.FRAME_VERSION, 7, "boot", 1, items]))
    assert len(frame.messages) + frame.malformed == len(items)


# --- snapshots as values ---------------------------------------------------------------------


def test_incoming_survives_its_bytes() -> None:
    offer = m.Offer(1, 2, 3, 4, 5, 4, b"config", [(b"a", b"b"), (b"c", b"d")])
    incoming = Incoming.of(offer)
    assert Incoming.decode(incoming.encode()) == incoming
    assert incoming.phase is Phase.STAGING


@pytest.mark.parametrize("packed", [True, False])
def test_chunks_are_checked(packed: bool) -> None:
    rows = [(b"a1", b"x"), (b"a2", b"y")]
    data, checksum = encode_rows(rows, packed=packed)
    assert decode_rows(data) == rows
    assert checked_rows(data, checksum, [(b"a", b"b")]) == rows
    assert checked_rows(data, checksum, [(b"a2", b"b"), (b"a", b"a2")]) == rows
    assert checked_rows(data, checksum + 1, [(b"a", b"b")]) == "snapshot-chunk-damaged"
    assert checked_rows(data, checksum, [(b"a2", b"b")]) == "snapshot-row-out-of-range"
    assert checked_rows(data, checksum, [(b"a", b"a2")]) == "snapshot-row-out-of-range"
    assert checked_rows(data, checksum, [(b"a", b"a2"), (b"b", b"c")]) == (
        "snapshot-row-out-of-range"
    )


def test_rows_out_of_order_and_those_of_slices_are_checked_one_by_one() -> None:
    halves = [Slice(b"a", b"b", 2, b"", b"m"), Slice(b"a", b"b", 2, b"m", None)]
    rows = [(b"a1x", b""), (b"a1c", b"")]
    data, checksum = encode_rows(rows)
    assert checked_rows(data, checksum, halves) == rows
    assert checked_rows(data, checksum, halves[:1]) == "snapshot-row-out-of-range"


def test_rows_that_no_engine_takes_are_refused() -> None:
    for row in ((b"", b"x"), (b"a" * 512, b"x"), (b"a", b"x" * (4 * 1024 * 1024 + 1))):
        data, checksum = encode_rows([row])
        assert checked_rows(data, checksum, [(b"", b"z")]) == "snapshot-chunk-malformed"


@given(st.binary(max_size=50))
def test_any_chunk_gives_rows_or_a_malformed_error(data: bytes) -> None:
    with suppress(m.MalformedError):
        assert all(len(row) == 2 for row in decode_rows(data))


@pytest.mark.parametrize(
    ("ranges", "fault"),
    [
        ([(b"\xf0", b"\xf1")], None),
        ([(b"\xf1", b"\xf1")], "snapshot-range-malformed"),
        ([(b"\x10", b"\xff")], "snapshot-overlaps"),
        ([(b"\x01x", b"\x01y")], "snapshot-overlaps"),
        ([(b"\xe0", b"\xe0\x05")], "snapshot-overlaps"),
        ([(b"\xe0\x09", b"\xe1")], None),
    ],
)
def test_an_offer_must_not_touch_other_replicas_or_our_own_tables(
    ranges: list[tuple[bytes, bytes]], fault: str | None
) -> None:
    offer = m.Offer(1, 2, 3, 4, 5, 4, b"config", ranges)
    found = offer_fault(offer)
    if found is None and overlap(ranges, [(b"\xe0\x01", b"\xe0\x09")]):
        found = "snapshot-overlaps"
    assert found == fault


_SAYABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(0, 2**64 - 1)
    | st.sampled_from([23, 24, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**64 - 1])
    | st.binary(max_size=300)
    | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=30) | st.lists(inner, max_size=3).map(tuple),
    max_leaves=60,
)


@given(_SAYABLE)
@example(b"x" * 70_000)
@example([0] * 70_000)
def test_our_cbor_is_the_same_as_that_of_everybody(value: Any) -> None:
    parts: list[bytes] = []
    write(value, parts.append)
    assert b"".join(parts) == cbor2.dumps(value)


@given(st.sampled_from(ONE_OF_EACH), st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_a_frame_is_the_same_as_that_of_everybody(message: Any, group: int, term: int) -> None:
    """But for numbers at full width, which everybody reads all the same."""
    messages = [message, message._replace(group=group, term=term)]
    kind = next(number for number, (made, _, _) in m.KINDS.items() if made is type(message))
    document = [f.FRAME_VERSION, 2**52 + 7, "böot", 3, [[kind, *each] for each in messages]]
    frame = f.encode_frame(2**52 + 7, "böot", 3, messages)
    if f.read_plain(frame, f.Opening(f.frame_opening(2**52 + 7, "böot", 3), 2**52 + 7, "böot", 3)):
        assert cbor2.loads(frame) == plain(document)
    else:
        assert frame == cbor2.dumps(document)


@pytest.mark.parametrize("strange", [object(), -1, 1.5, 2**64, {}])
def test_what_cannot_be_said_is_an_error_and_no_frame(strange: Any) -> None:
    with pytest.raises((TypeError, AssertionError, struct.error)):
        f.encode_frame(7, "boot", 1, [m.Vote(1, strange)])
