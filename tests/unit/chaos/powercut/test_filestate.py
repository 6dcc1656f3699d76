"""One file: what is durable, and what a power cut may leave of the rest."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.powercut.errors import RecordingError
from chaos.powercut.filestate import NEVER, FileState, Mood

LOSE = Mood(0.0, as_of=-1)
KEEP = Mood(1.0, as_of=NEVER)


def images(state: FileState, mood: Mood, draws: int = 300) -> set[bytes]:
    return {state.content(random.Random(seed), mood) for seed in range(draws)}


def all_images(state: FileState) -> set[bytes]:
    moods = [Mood(keep, tear) for keep in (0.0, 0.5, 1.0) for tear in (512, 4096)]
    found = {LOSE: images(state, LOSE, 1), KEEP: images(state, KEEP, 1)}
    return set().union(*found.values(), *(images(state, mood) for mood in moods))


def test_nothing_is_durable_before_a_sync() -> None:
    state = FileState()
    state.write(0, 1, 0, b"a" * 100)
    assert images(state, LOSE) == {b""}
    assert images(state, KEEP) == {b"a" * 100}
    assert all_images(state) == {b"", b"a" * 100, bytes(100)}


def test_a_sync_makes_durable_what_was_left_before_it_was_entered() -> None:
    state = FileState()
    state.write(0, 1, 0, b"a" * 512)
    state.write(2, 9, 512, b"b" * 512)  # still under way when the sync is entered at 3
    state.sync(before=3)
    assert all_images(state) == {
        b"a" * 512,
        b"a" * 512 + bytes(512),
        b"a" * 512 + b"b" * 512,
    }


def test_a_write_is_torn_at_sectors_and_only_there() -> None:
    state = FileState(bytes(2048))
    state.write(0, 1, 256, b"x" * 1024)  # sectors 0, 1 and 2
    seen = set()
    for image in all_images(state):
        sectors = tuple(image[at : at + 512] for at in range(0, 2048, 512))
        assert sectors[0] in (bytes(512), bytes(256) + b"x" * 256)
        assert sectors[1] in (bytes(512), b"x" * 512)
        assert sectors[2] in (bytes(512), b"x" * 256 + bytes(256))
        assert sectors[3] == bytes(512)
        seen.add(tuple(b"x" in sector for sector in sectors[:3]))
    assert len(seen) == 8, "every combination of the three sectors should have been drawn"


def test_pages_are_torn_whole_with_the_larger_unit() -> None:
    state = FileState(bytes(8192))
    state.write(0, 1, 0, b"x" * 8192)
    drawn = images(state, Mood(0.5, tear_bytes=4096))
    halves = (bytes(4096), b"x" * 4096)
    assert drawn == {first + second for first in halves for second in halves}


def test_a_sector_is_never_ahead_of_an_older_change_of_its_own() -> None:
    state = FileState(bytes(512))
    state.write(0, 1, 0, b"a" * 10)
    state.write(2, 3, 10, b"b" * 10)
    for image in all_images(state):
        assert not (b"b" in image and b"a" not in image)
    assert any(b"a" in image and b"b" not in image for image in all_images(state))


def test_the_length_may_be_ahead_of_the_data_and_behind_it() -> None:
    state = FileState(b"old!")
    state.write(0, 1, 4, b"new" * 400)
    drawn = all_images(state)
    assert b"old!" + bytes(1200) in drawn
    assert b"old!" in drawn
    assert {len(image) for image in drawn} == {4, 512, 1024, 1204}


def test_a_synced_write_makes_its_own_sectors_durable_and_no_others() -> None:
    state = FileState(bytes(4096))
    state.write(0, 1, 0, b"a" * 100)
    state.write(2, 3, 2048, b"b" * 100)
    state.write(4, 5, 100, b"c" * 100)
    state.sync_range(before=4, own=4, offset=100, end=200)
    for image in all_images(state):
        assert image[:200] == b"a" * 100 + b"c" * 100
        assert image[2048:2148] in (bytes(100), b"b" * 100)
    assert images(state, LOSE) == {b"a" * 100 + b"c" * 100 + bytes(3896)}


def test_a_synced_write_keeps_the_length_that_it_needs() -> None:
    state = FileState()
    state.write(0, 1, 0, b"a" * 3000)
    state.write(2, 3, 0, b"b" * 600)
    state.sync_range(before=2, own=2, offset=0, end=600)
    assert min(len(image) for image in all_images(state)) >= 600
    assert max(len(image) for image in all_images(state)) == 3000
    assert all(image.startswith(b"b" * 600) for image in all_images(state))


def test_cut_and_written_again_shows_no_data_of_before() -> None:
    state = FileState(b"o" * 1024)
    state.resize(0, 1, 0)
    state.write(2, 3, 512, b"n" * 512)
    drawn = all_images(state)
    assert b"o" * 1024 in drawn, "the cut may be lost"
    for image in drawn:
        assert not (b"o" in image and b"n" in image)
        assert image == b"o" * 1024 or b"o" not in image
    assert bytes(512) + b"n" * 512 in drawn


def test_a_cut_is_durable_after_a_sync() -> None:
    state = FileState(b"o" * 1000)
    state.resize(0, 1, 300)
    state.sync(before=2)
    assert all_images(state) == {b"o" * 300}
    state.resize(3, 4, 1000)
    state.sync(before=5)
    assert all_images(state) == {b"o" * 300 + bytes(700)}


def test_a_zeroed_range_may_be_lost_until_it_is_synced() -> None:
    state = FileState(b"o" * 1024)
    state.zero(0, 1, 0, 1024)
    assert len(all_images(state)) == 4
    state.sync(before=2)
    assert all_images(state) == {bytes(1024)}


def test_a_volatile_file_holds_anything() -> None:
    state = FileState(b"v" * 100)
    state.volatile = True
    drawn = all_images(state)
    assert {b"", bytes(100), b"v" * 100} <= drawn
    assert len(drawn) > 10


def test_a_file_too_large_for_memory_is_refused() -> None:
    state = FileState()
    with pytest.raises(RecordingError, match="record a smaller workload"):
        state.write(0, 1, 1 << 40, b"x")


# --- properties ----------------------------------------------------------------------------------

# Two sectors and a bit, so that changes overlap and lengths cross sector edges.
_SIZE = 1300
_writes = st.tuples(st.just("write"), st.integers(0, _SIZE), st.integers(1, 700))
_resizes = st.tuples(st.just("resize"), st.integers(0, _SIZE), st.just(0))
_synced = st.tuples(st.just("synced"), st.integers(0, _SIZE), st.integers(1, 700))
_syncs = st.tuples(st.just("sync"), st.just(0), st.just(0))
_steps = st.lists(st.one_of(_writes, _writes, _resizes, _synced, _syncs), max_size=14)


@dataclass
class Played:
    """A file after some calls, with what a plain file holds after each of them."""

    state: FileState = field(default_factory=FileState)
    history: list[tuple[int, bytes]] = field(default_factory=lambda: [(-1, b"")])
    """(order, content)"""
    synced: int = 0
    """Index into history: all up to there is durable."""


def play(steps: list[tuple[str, int, int]]) -> Played:
    played = Played()
    content = bytearray()
    for index, (kind, at, size) in enumerate(steps):
        order = 2 * index
        if kind in ("write", "synced"):
            data = bytes([65 + index]) * size
            content.extend(bytes(max(0, at - len(content))))
            content[at : at + size] = data
            played.state.write(order, order + 1, at, data)
            if kind == "synced":
                played.state.sync_range(order, order, at, at + size)
        elif kind == "resize":
            del content[at:]
            content.extend(bytes(at - len(content)))
            played.state.resize(order, order + 1, at)
        else:
            played.state.sync(order)
            played.synced = len(played.history) - 1
        played.history.append((order, bytes(content)))
    return played


@given(_steps)
def test_without_a_power_cut_it_is_a_plain_file(steps: list[tuple[str, int, int]]) -> None:
    played = play(steps)
    assert played.state.latest() == played.history[-1][1]
    assert images(played.state, KEEP, 1) == {played.history[-1][1]}


@given(_steps)
def test_after_a_sync_nothing_is_undecided(steps: list[tuple[str, int, int]]) -> None:
    played = play([*steps, ("sync", 0, 0)])
    moods = (LOSE, KEEP, Mood(0.0), Mood(0.5), Mood(0.5, 4096))
    drawn = set[bytes]().union(*(images(played.state, mood, 5) for mood in moods))
    assert drawn == {played.history[-1][1]}
    assert not played.state.pieces
    assert not played.state.steps


@given(_steps.filter(lambda steps: all(kind != "synced" for kind, _, _ in steps)))
def test_as_of_a_moment_is_the_file_of_that_moment(steps: list[tuple[str, int, int]]) -> None:
    played = play(steps)
    for index, (order, content) in enumerate(played.history):
        wanted = content if index >= played.synced else played.history[played.synced][1]
        assert images(played.state, Mood(1.0, as_of=order), 1) == {wanted}


@given(_steps, st.integers(0, 1 << 32), st.sampled_from([0.0, 0.5, 0.9]))
def test_each_byte_is_one_that_the_file_has_held(
    steps: list[tuple[str, int, int]], seed: int, keep: float
) -> None:
    """Zero, or the byte of some moment since the last full sync."""
    played = play(steps)
    image = played.state.content(random.Random(seed), Mood(keep))
    since = [content for _, content in played.history[played.synced :]]
    assert len(image) <= max(len(content) for content in since)
    for at, byte in enumerate(image):
        assert byte == 0 or any(at < len(content) and content[at] == byte for content in since)


@pytest.mark.parametrize("kind", ["write", "resize"])
def test_a_change_under_way_may_have_happened_or_not(kind: str) -> None:
    state = FileState(b"o" * 512)
    change: dict[str, Callable[[], None]] = {
        "write": lambda: state.write(0, NEVER, 0, b"n" * 512),
        "resize": lambda: state.resize(0, NEVER, 0),
    }
    change[kind]()
    state.sync(before=100)
    new = b"n" * 512 if kind == "write" else b""
    assert all_images(state) == {b"o" * 512, new}
