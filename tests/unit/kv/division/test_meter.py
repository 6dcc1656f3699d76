"""Rates, marks and hot keys of one shard, from counts and samples."""

from __future__ import annotations

import random

import pytest

from kv.division.cuts import middle_of
from kv.division.meter import MARKS, Meter


def driven(keys: list[bytes], seconds: int = 40) -> Meter:
    """Every key is read once a second, as many at a time as a read point takes along."""
    meter = Meter(random.Random(1))
    for second in range(seconds):
        order = random.Random(second).sample(keys, len(keys))
        for place in range(0, len(order), 8):
            part = order[place : place + 8]
            if meter.read(len(part)):
                meter.note_read(part[-1])
        meter.tick(float(second), 0, ())
    return meter


def test_rates_are_means_of_the_last_seconds() -> None:
    meter = driven([b"%03d" % n for n in range(500)])
    assert meter.reads_a_second == pytest.approx(500, rel=0.05)
    for second in range(40, 80):
        meter.tick(float(second), 100, [b"w"])
    assert meter.reads_a_second < 15
    assert meter.writes_a_second == pytest.approx(100, rel=0.05)


def test_marks_cut_the_load_evenly() -> None:
    meter = driven([b"%03d" % n for n in range(500)])
    marks = meter.marks()
    assert len(marks) == MARKS
    middle = middle_of([(mark, 1.0) for mark in marks])
    assert 150 < int(middle) < 350


def test_a_hot_key_is_named_and_cannot_be_cut() -> None:
    keys = [b"%03d" % n for n in range(50)] + [b"025"] * 450
    meter = driven(keys)
    (hot,) = meter.hot_keys()
    assert hot.key == b"025"
    assert 0.7 < hot.share <= 1.0
    assert middle_of([(mark, 1.0) for mark in meter.marks()]) == b""


def test_written_keys_count_for_all_writes_of_their_tick() -> None:
    meter = Meter(random.Random(1))
    for second in range(30):
        meter.tick(float(second), 1000, [b"a"] * 6 + [b"b"] * 2)
    (first, second) = meter.hot_keys()
    assert (first.key, second.key) == (b"a", b"b")
    assert first.share == pytest.approx(0.75)
    meter.forget()
    assert not meter.hot_keys()
    assert not meter.marks()
    assert meter.operations_a_second == 0.0


def test_an_idle_shard_has_no_marks() -> None:
    meter = Meter(random.Random(1))
    meter.tick(0.0, 0, ())
    meter.tick(1.0, 2, [b"a", b"b"])
    assert meter.marks() == []
    assert meter.hot_keys() == []
