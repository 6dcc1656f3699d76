"""Frames: any split of the stream gives the same ones, and nothing hostile gets through."""

from __future__ import annotations

import struct
from collections.abc import Callable
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.cluster.link_protocol import (
    CHANNELS,
    CONTROL,
    CONTROL_MAX_BYTES,
    FRAGMENT_BYTES,
    MORE,
    RECEIVE_BUFFER_BYTES,
    STRANGER_BUFFER_BYTES,
    Channel,
    Decoder,
    Violation,
    control_frame,
    header,
)

SMALL = (
    Channel("a", 1, 200_000, 400_000, 100, 70_000),
    Channel("b", 7, 100, 400_000, 100, 70_000),
)


def feed(decoder: Decoder, data: bytes, sizes: list[int]) -> list[tuple[int, bytes]]:
    """Give the bytes in pieces of these sizes, again and again, as a transport would."""
    frames: list[tuple[int, bytes]] = []
    at = turn = 0
    while at < len(data) and decoder.violation is None:
        room = decoder.free
        assert len(room) > 0, "asyncio takes an empty buffer for an error"
        piece = data[at : at + min(len(room), sizes[turn % len(sizes)])]
        room[: len(piece)] = piece
        at, turn = at + len(piece), turn + 1
        found = decoder.received(len(piece))
        while found:
            frames += found
            found = decoder.received(0)
    return frames


def opened() -> Decoder:
    decoder = Decoder()
    decoder.open_channels(SMALL)
    return decoder


def fragments(channel: int, payload: bytes) -> list[bytes]:
    pieces = [
        payload[i : i + FRAGMENT_BYTES] for i in range(0, max(len(payload), 1), FRAGMENT_BYTES)
    ]
    return [
        header(channel, MORE if piece is not pieces[-1] else 0, piece) + piece for piece in pieces
    ]


SIZES = st.integers(0, 1000) | st.integers(0, 200_000)
frames_of_a = st.tuples(st.just(1), SIZES.map(lambda size: bytes([size % 256]) * size))
frames_of_b = st.tuples(st.just(7), st.binary(max_size=100))
frames_of_control = st.tuples(st.just(CONTROL), st.binary(max_size=CONTROL_MAX_BYTES))
some_frames = st.lists(frames_of_a | frames_of_b | frames_of_control, max_size=8)
some_sizes = st.lists(st.integers(1, 3 * FRAGMENT_BYTES), min_size=1, max_size=5)


@given(frames=some_frames, sizes=some_sizes)
def test_any_split_gives_the_same_frames(frames: list[tuple[int, bytes]], sizes: list[int]) -> None:
    data = b"".join(part for channel, frame in frames for part in fragments(channel, frame))
    decoder = opened()
    assert feed(decoder, data, sizes) == frames
    assert decoder.violation is None


@given(
    frames=some_frames,
    sizes=some_sizes,
    position=st.integers(0, 1_000_000),
    flip=st.integers(1, 255),
)
def test_any_split_of_damaged_bytes_gives_the_same_frames_and_the_same_violation(
    frames: list[tuple[int, bytes]], sizes: list[int], position: int, flip: int
) -> None:
    data = bytearray(b"".join(part for c, frame in frames for part in fragments(c, frame)))
    if not data:
        return
    data[position % len(data)] ^= flip
    whole, split = opened(), opened()
    expected = feed(whole, bytes(data), [RECEIVE_BUFFER_BYTES])
    assert feed(split, bytes(data), sizes) == expected
    assert split.violation == whole.violation
    # What did come out was sent, and came out in order: damage ends the stream, it never edits it.
    assert expected == frames[: len(expected)]
    assert len(expected) < len(frames)


def test_fragments_of_different_channels_interleave() -> None:
    large = bytes(range(256)) * 600
    first, second, third = fragments(1, large)
    small = fragments(7, b"urgent")[0]
    decoder = opened()
    frames = feed(decoder, first + small + second + small + third, [1000])
    assert frames == [(7, b"urgent"), (7, b"urgent"), (1, large)]


def violation_of(data: bytes, decoder: Decoder) -> Violation:
    assert feed(decoder, data, [4096]) == []
    assert decoder.violation is not None
    return decoder.violation


def sealed(length: int, version: int, channel: int, flags: int, payload: bytes) -> bytes:
    rest = struct.pack(">IBBH", length, version, channel, flags)
    return struct.pack(">I", crc32(rest + payload)) + rest + payload


@pytest.mark.parametrize("make", [Decoder, opened], ids=["stranger", "open"])
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "bad_version"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50), "tls_mismatch"),
        (b"\x15\x03\x01\x00\x02\x02\x28" + bytes(50), "tls_mismatch"),
        (sealed(0, 2, CONTROL, 0, b""), "bad_version"),
        (sealed(0, 1, 99, 0, b""), "bad_channel"),
        (sealed(0xFFFF_FFFF, 1, CONTROL, 0, b""), "too_large"),
        (sealed(FRAGMENT_BYTES + 1, 1, CONTROL, 0, b""), "too_large"),
        (sealed(5, 1, CONTROL, MORE, b"hello"), "bad_flags"),
        (sealed(5, 1, CONTROL, 4, b"hello"), "bad_flags"),
        (control_frame(b"hello")[:-1] + b"!", "bad_checksum"),
    ],
)
def test_hostile_bytes_are_a_violation(make: Callable[[], Decoder], data: bytes, code: str) -> None:
    assert violation_of(data, make()).code == code


def test_a_stranger_is_given_a_kilobyte_and_no_channel() -> None:
    assert len(Decoder().free) == STRANGER_BUFFER_BYTES <= 1100
    assert violation_of(b"".join(fragments(1, b"raft")), Decoder()).code == "bad_channel"
    long = sealed(CONTROL_MAX_BYTES + 1, 1, CONTROL, 0, b"")
    assert violation_of(long, Decoder()).code == "too_large"


def test_a_frame_over_the_limit_of_its_channel_is_refused_while_it_comes_in() -> None:
    decoder = opened()
    assert violation_of(b"".join(fragments(7, bytes(101))), opened()).code == "too_large"
    parts = fragments(1, bytes(200_001))
    assert feed(decoder, b"".join(parts[:-1]), [9999]) == []
    assert decoder.violation is None
    assert violation_of(parts[-1], decoder).code == "too_large"


def test_nothing_after_a_violation_is_looked_at() -> None:
    decoder = opened()
    good, bad = control_frame(b"good"), sealed(0, 9, CONTROL, 0, b"")
    room = decoder.free
    data = good + bad + good
    room[: len(data)] = data
    assert decoder.received(len(data)) == [(CONTROL, b"good")]
    assert decoder.violation is not None
    assert decoder.received(0) == []


def test_bytes_behind_the_message_that_opens_the_channels_are_kept() -> None:
    decoder = Decoder()
    data = control_frame(b"welcome") + fragments(7, b"first frame")[0]
    room = decoder.free
    room[: len(data)] = data
    assert decoder.received(len(data)) == [(CONTROL, b"welcome")]
    decoder.open_channels(SMALL)
    assert decoder.received(0) == [(7, b"first frame")]
    assert decoder.violation is None


def test_the_channels_of_the_product_are_well_formed() -> None:
    names = [channel.name for channel in CHANNELS]
    assert sorted(names) == ["forward", "gossip", "look", "raft", "replica", "snapshot"]
    assert names[0] == "raft", "the most urgent one goes first"
    assert names[-1] == "snapshot", "the one that can wait goes last"
    assert all(channel.id != CONTROL for channel in CHANNELS)


# --- one frame in one piece -------------------------------------------------------------------

pieces = st.lists(
    st.tuples(
        st.sampled_from([CONTROL, 1, 7, 9]),
        st.sampled_from([0, 0, 0, 0, MORE, 2]),
        st.binary(max_size=120),
    ).map(lambda each: header(*each) + each[2]),
    min_size=1,
    max_size=6,
)


@given(pieces, st.data())
def test_a_frame_in_one_piece_is_what_the_decoder_would_make_of_it(
    sent: list[bytes], data: st.DataObject
) -> None:
    """Whatever came before it: a part of a frame, of a fragment, a violation."""
    decoder = opened()
    for piece in sent:
        if data.draw(st.integers(0, 5)) == 0:
            at = data.draw(st.integers(0, len(piece) - 1))
            damaged = piece[:at] + data.draw(st.binary(max_size=1)) + piece[at + 1 :]
            piece = data.draw(st.sampled_from([damaged, piece[:at], piece + piece]))
        if not piece:
            continue
        clean = decoder.violation is None and len(decoder.free) == RECEIVE_BUFFER_BYTES
        whole = decoder.whole(piece)
        decoder.free[: len(piece)] = piece
        found = decoder.received(len(piece))
        if whole is not None:
            assert clean
            assert found == [(piece[9], whole)]
            assert decoder.violation is None
            assert len(decoder.free) == RECEIVE_BUFFER_BYTES, "nothing is kept"


def test_what_is_not_one_frame_in_one_piece_is_left_to_the_decoder() -> None:
    frame = fragments(7, b"frame")[0]
    decoder = opened()
    assert decoder.whole(frame) == b"frame"
    assert decoder.whole(control_frame(b"")) == b""
    for other in (frame[:-1], frame + b"x", frame + frame, b"", frame[:11], fragments(9, b"")[0]):
        assert decoder.whole(other) is None
    for at in range(len(frame)):
        damaged = bytearray(frame)
        damaged[at] ^= 1
        assert decoder.whole(bytes(damaged)) is None
    assert decoder.whole(sealed(101, 1, 7, 0, bytes(101))) is None, "over the channel's limit"
    assert decoder.whole(sealed(5, 2, 7, 0, b"frame")) is None
    assert decoder.whole(sealed(5, 1, 7, MORE, b"frame")) is None
    assert feed(decoder, sealed(5, 1, 7, MORE, b"frame"), [4096]) == []
    assert decoder.whole(frame) is None, "the end of another one"
    assert decoder.whole(fragments(1, b"other")[0]) == b"other"
    assert feed(decoder, frame[:3], [4096]) == []
    assert decoder.whole(fragments(1, b"other")[0]) is None
    broken = opened()
    assert violation_of(sealed(0, 1, 7, 2, b""), broken).code == "bad_flags"
    assert broken.whole(frame) is None
