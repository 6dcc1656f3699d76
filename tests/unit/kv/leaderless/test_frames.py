"""The bytes on the replica channel: what goes in comes out, and nothing else is believed."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.errors import OutcomeUnknownError, OverloadedError
from kv.leaderless.dvv import Context, SiblingLimitError
from kv.leaderless.frames import (
    FRAME_BYTES,
    ErrorBody,
    MalformedFrameError,
    Message,
    Put,
    Read,
    Reply,
    Status,
    Store,
    WrittenBody,
    decode_context,
    decode_error,
    decode_frame,
    decode_written,
    encode_body,
    encode_context,
    encode_frames,
    encode_written,
)
from kv.leaderless.quorum import WriteQuorumError
from kv.leaderless.wire_errors import body_of, error_of
from storage.errors import JanusError
from storage.siblings import Actor, Clock

RING = b"r" * 16
MESSAGES: list[Message] = [
    Read(1, 1, b"k"),
    Store(2, 1, b"k", b"set", "", False),
    Store(3, 1, b"k", b"set", "b", True),
    Put(4, 900, 1, b"k", b"v", None, b"", 0, 2, 0, False),
    Put(5, 900, 1, b"k", None, -7, b"ctx", 5, 1, 1, True),
    Reply(6, Status.STORED, b""),
]


def test_questions_and_answers_share_a_frame() -> None:
    ((frame, part),) = encode_frames(RING, MESSAGES)
    assert part == MESSAGES
    assert decode_frame(frame) == (RING, MESSAGES)


def test_frames_are_cut_and_a_larger_set_travels_alone() -> None:
    large = Store(1, 1, b"k", b"x" * (FRAME_BYTES + 1), "", False)
    small = [Store(n, 1, b"k", b"x" * 1000, "", False) for n in range(2, 1500)]
    frames = encode_frames(RING, [*small[:3], large, *small[3:]])
    assert [len(part) for _, part in frames] == [3, 1, 1047, 448]
    assert all(len(frame) < FRAME_BYTES + 64 * 1024 for frame, _ in frames)
    assert [m for _, part in frames for m in part] == [*small[:3], large, *small[3:]]


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(frame: bytes) -> None:
    for decode in (decode_frame, decode_written, decode_error, decode_context):
        with suppress(MalformedFrameError):
            decode(frame)


@pytest.mark.parametrize(
    "item",
    [
        [1, 0, 1, b"k"],
        [1, -1, 1, b"k"],
        [1, 1, 1 << 32, b"k"],
        [1, 1, 1, "text"],
        [1, 1, 1, b"k", 9],
        [9, 1, 1, b"k"],
        [4, 1, 99, b""],
        [3, 1, 900, 1, b"k", b"v", None, b"", 0, -1, 0, False],
    ],
)
def test_what_no_node_sends_is_malformed(item: list[Any]) -> None:
    with pytest.raises(MalformedFrameError):
        decode_frame(msgspec.msgpack.encode([1, RING, [item]]))


def test_another_version_is_malformed() -> None:
    with pytest.raises(MalformedFrameError, match="version 3"):
        decode_frame(msgspec.msgpack.encode([3, RING, []]))


def test_contexts() -> None:
    actor = Actor("a", 5, 1)
    context = Context(Clock({actor: 3}, {actor: (5,)}), 77)
    assert decode_context(encode_context(context)) == context
    assert decode_context(encode_context(None)) is None
    assert decode_context(encode_context(Context())) == Context()
    with pytest.raises(MalformedFrameError):
        decode_context(encode_context(context) + b"x")


@pytest.mark.parametrize(
    "error", [SiblingLimitError("too many"), OverloadedError("busy"), OutcomeUnknownError("lost")]
)
def test_errors_come_back_as_they_were(error: JanusError) -> None:
    back = error_of(decode_error(encode_body(body_of(error))))
    assert (type(back), str(back)) == (type(error), str(error))


def test_a_missed_quorum_keeps_its_counts() -> None:
    back = error_of(body_of(WriteQuorumError("few", got=1, required=2)))
    assert isinstance(back, WriteQuorumError)
    assert (back.got, back.required) == (1, 2)


def test_an_unknown_error_has_an_unknown_outcome() -> None:
    assert isinstance(error_of(ErrorBody("from_the_future", "?", 0, 0)), OutcomeUnknownError)


def test_bodies() -> None:
    body = WrittenBody(b"c", ["a", "b"], ["b"])
    assert decode_written(encode_written(body)) == body
    # What an older program reads, and writes.
    assert encode_written(body) == encode_body([b"c", ["a", "b"], ["b"]])
    missed = WrittenBody(b"c", ["a", "b"], ["b"], [("c", "its disk is full")])
    assert decode_written(encode_written(missed)) == missed
