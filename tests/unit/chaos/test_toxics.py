"""What each toxic does to a stream, without a socket."""

from __future__ import annotations

import random

import pytest

from chaos.toxics.toxics import (
    Ending,
    StreamState,
    Toxic,
    close_delay_s,
    ends_at,
    removal_ends,
    shape,
)
from storage.errors import InvalidRequestError


def toxic(kind: str, toxicity: float = 1.0, **attributes: int) -> Toxic:
    return Toxic.parse({"type": kind, "toxicity": toxicity, "attributes": attributes})


@pytest.fixture
def state() -> StreamState:
    return StreamState(random.Random(1))


def shaped(
    state: StreamState, data: bytes, now: float, *toxics: Toxic
) -> list[tuple[bytes, float]]:
    pieces, _ = shape(state, toxics, data, now)
    return [(piece.data, round(piece.leave_at, 6)) for piece in pieces]


def test_without_toxics_data_leaves_at_once(state: StreamState) -> None:
    assert shaped(state, b"abc", 5.0) == [(b"abc", 5.0)]


def test_latency_puts_off_and_keeps_the_order(state: StreamState) -> None:
    slow = toxic("latency", latency=100, jitter=90)
    leaves = [shaped(state, b"x", at / 1_000, slow)[0][1] for at in range(100)]
    assert leaves == sorted(leaves)
    assert leaves[0] >= 0.010
    assert max(leaves) <= 0.099 + 0.190
    assert len(set(leaves)) > 5, "jitter varies"


def test_bandwidth_lets_a_piece_leave_when_the_line_has_carried_it(state: StreamState) -> None:
    line = toxic("bandwidth", rate=10)
    assert shaped(state, b"x" * 1024, 0.0, line) == [(b"x" * 1024, 0.1)]
    assert shaped(state, b"x" * 1024, 0.05, line) == [(b"x" * 1024, 0.2)]
    assert shaped(state, b"x" * 1024, 9.0, line) == [(b"x" * 1024, 9.1)]


def test_slicer_cuts_and_pauses_and_loses_nothing(state: StreamState) -> None:
    pieces = shaped(state, bytes(range(256)), 0.0, toxic("slicer", average_size=50, delay=1_000))
    assert b"".join(data for data, _ in pieces) == bytes(range(256))
    assert [len(data) for data, _ in pieces] == [50, 50, 50, 50, 50, 6]
    assert [at for _, at in pieces] == [0.0, 0.001, 0.002, 0.003, 0.004, 0.005]
    varied = shaped(state, bytes(5_000), 1.0, toxic("slicer", average_size=50, size_variation=20))
    assert {30 <= len(data) <= 70 for data, _ in varied[:-1]} == {True}
    assert len({len(data) for data, _ in varied}) > 5


def test_limit_data_passes_so_many_bytes_and_ends(state: StreamState) -> None:
    limit = toxic("limit_data", bytes=5)
    assert shape(state, (limit,), b"abc", 0.0)[1] is None
    pieces, ending = shape(state, (limit,), b"defg", 1.0)
    assert [piece.data for piece in pieces] == [b"de"]
    assert ending is Ending.CLOSE


def test_timeout_swallows_and_ends_after_its_time_or_never(state: StreamState) -> None:
    hole, short = toxic("timeout", timeout=0), toxic("timeout", timeout=500)
    assert shaped(state, b"abc", 0.0, hole) == []
    assert ends_at(state, (hole,), 100.0) is None
    other = StreamState(random.Random(1))
    assert ends_at(other, (short,), 7.0) == (7.5, Ending.CLOSE)
    assert ends_at(other, (short,), 7.2) == (7.5, Ending.CLOSE), "counted from the first meeting"
    assert removal_ends(state, hole)
    assert not removal_ends(state, toxic("latency", latency=1))


def test_reset_peer_resets_at_once_or_later(state: StreamState) -> None:
    assert ends_at(state, (toxic("reset_peer", timeout=0),), 3.0) == (3.0, Ending.RESET)
    assert ends_at(StreamState(random.Random(1)), (toxic("reset_peer", timeout=2_000),), 3.0) == (
        5.0,
        Ending.RESET,
    )


def test_slow_close_delays_only_the_end(state: StreamState) -> None:
    slow = toxic("slow_close", delay=1_500)
    assert shaped(state, b"x", 0.0, slow) == [(b"x", 0.0)]
    assert close_delay_s(state, (slow,)) == 1.5


def test_toxicity_takes_hold_of_that_share_of_connections_once_each() -> None:
    rng = random.Random(7)
    half = toxic("latency", toxicity=0.5, latency=1)
    held = 0
    for _ in range(1_000):
        state = StreamState(rng)
        first = shaped(state, b"x", 0.0, half)
        assert shaped(state, b"x", 0.0, half) == first, "the dice are rolled once a connection"
        held += first != [(b"x", 0.0)]
    assert 420 < held < 580


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"type": "rain"}, "invalid toxic type 'rain'"),
        ({}, "invalid toxic type None"),
        ({"type": "latency", "stream": "sideways"}, "either upstream or downstream"),
        ({"type": "latency", "toxicity": 1.5}, "between 0 and 1"),
        ({"type": "latency", "attributes": {"delay": 1}}, "latency has no attribute 'delay'"),
        ({"type": "latency", "attributes": {"latency": "1"}}, "latency must be a number"),
        ({"type": "latency", "attributes": {"latency": -1}}, "latency must be a number"),
        ({"type": "latency", "attributes": [1]}, "must be an object"),
    ],
)
def test_a_bad_toxic_is_refused_with_a_sentence(body: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        Toxic.parse(body)
