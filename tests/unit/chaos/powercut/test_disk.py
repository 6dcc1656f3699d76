"""Hand-made recordings: what the model of a disk says of well-known ways to write a file."""

from __future__ import annotations

import random

import pytest

from chaos.powercut.disk import Disk, Image
from chaos.powercut.errors import RecordingError
from chaos.powercut.namespace import Entries
from chaos.powercut.recording import (
    ROOT,
    Acknowledge,
    Call,
    Create,
    Effect,
    Entry,
    InitialFile,
    Recording,
    Remove,
    Rename,
    Resize,
    Scribble,
    Sync,
    Write,
    Zero,
)

OLD = b"old" * 1000
NEW = b"new" * 1000
INITIAL = (InitialFile(1, Entry(ROOT, "f"), OLD),)
TEMPORARY, FINAL = Entry(ROOT, "f.tmp"), Entry(ROOT, "f")


def recording(*effects: Effect, initial: tuple[InitialFile, ...] = INITIAL) -> Recording:
    """Calls one after the other: the i-th is entered at 2i and left at 2i + 1."""
    calls = tuple(Call(2 * i, 2 * i + 1, effect) for i, effect in enumerate(effects))
    return Recording(calls, initial)


def draw(
    made: Recording, cut: int | None = None, rule: Entries = Entries.FILE_SYNC, draws: int = 400
) -> list[Image]:
    disk = Disk(made, rule)
    disk.advance(made.end if cut is None else cut)
    return [disk.draw(random.Random(seed)) for seed in range(draws)]


def contents(images: list[Image]) -> set[tuple[tuple[str, bytes], ...]]:
    return {tuple(sorted(image.files.items())) for image in images}


REPLACE = recording(
    Create(2, TEMPORARY),
    Write(2, 0, NEW, synced=False),
    Sync(2),
    Rename(2, TEMPORARY, FINAL, 1),
    Sync(ROOT),
)


def test_write_sync_rename_gives_the_old_file_or_the_new_one_whole() -> None:
    before_the_directory_sync = contents(draw(REPLACE, cut=8))
    assert before_the_directory_sync == {
        (("f", OLD), ("f.tmp", NEW)),
        (("f", NEW),),
    }
    assert contents(draw(REPLACE)) == {(("f", NEW),)}


def test_a_sync_counts_when_it_is_left() -> None:
    assert len(contents(draw(REPLACE, cut=5))) > 3, "the data's sync is entered but not left"
    assert (("f", OLD), ("f.tmp", NEW)) in contents(draw(REPLACE, cut=6))


def test_a_sync_of_the_kernel_covers_what_was_left_before_it_was_submitted() -> None:
    """The write made between its two ends is undecided, and so is all before it was heard of."""
    made = Recording(
        (
            Call(0, 1, Write(1, 0, b"a" * 512, synced=False)),
            Call(2, 7, Sync(1, by_kernel=True)),
            Call(4, 5, Write(1, 512, b"b" * 512, synced=False)),
        ),
        INITIAL,
    )
    b = {image.files["f"][512:1024] == b"b" * 512 for image in draw(made)}
    assert b == {True, False}
    assert {image.files["f"][:512] for image in draw(made)} == {b"a" * 512}
    assert len({image.files["f"][:512] for image in draw(made, cut=7)}) == 2


def test_rename_without_a_sync_may_leave_an_empty_or_torn_file() -> None:
    made = recording(
        Create(2, TEMPORARY), Write(2, 0, NEW, synced=False), Rename(2, TEMPORARY, FINAL, 1)
    )
    found = {image.files["f"] for image in draw(made)}
    assert {OLD, NEW, b""} <= found
    assert any(content not in (OLD, NEW, b"") for content in found)


def test_overwriting_in_place_may_mix_old_and_new() -> None:
    made = recording(Write(1, 0, NEW, synced=False))
    found = {image.files["f"] for image in draw(made)}
    assert {OLD, NEW} <= found
    assert any(b"old" in content and b"new" in content for content in found)


def test_a_write_through_a_synced_descriptor_needs_no_sync() -> None:
    made = recording(Write(1, 0, NEW, synced=True))
    assert {image.files["f"] for image in draw(made)} == {NEW}
    assert len({image.files["f"] for image in draw(made, cut=1)}) > 2


def test_a_synced_write_keeps_the_name_of_a_new_file() -> None:
    made = recording(Create(2, TEMPORARY), Write(2, 0, b"x", synced=True))
    assert all("f.tmp" in image.files for image in draw(made))
    strict = draw(made, rule=Entries.DIRECTORY_SYNC)
    assert {"f.tmp" in image.files for image in strict} == {True, False}


def test_a_sync_of_everything() -> None:
    made = recording(Create(2, TEMPORARY), Write(2, 0, NEW, synced=False), Resize(1, 7), Sync(None))
    assert contents(draw(made)) == {(("f", OLD[:7]), ("f.tmp", NEW))}


def test_zeroing_and_removing() -> None:
    made = recording(Zero(1, 0, 3000), Sync(1), Remove(1, FINAL), Sync(ROOT))
    assert {image.files["f"] for image in draw(made, cut=4)} == {bytes(3000)}
    assert contents(draw(made)) == {()}


def test_data_without_a_name_is_not_seen() -> None:
    made = recording(
        Create(3, Entry(ROOT, "d"), directory=True),
        Create(2, Entry(3, "g")),
        Write(2, 0, b"x", synced=False),
        initial=(),
    )
    for image in draw(made):
        assert "d/g" not in image.files or "d" in image.directories
    assert {len(image.directories) for image in draw(made)} == {0, 1}


def test_a_volatile_file_may_hold_noise_even_after_a_sync() -> None:
    made = recording(Scribble(1), Sync(1))
    assert len(contents(draw(made))) > 5
    disk = Disk(made)
    disk.advance(made.end)
    assert disk.latest().files == {}


def test_the_same_dice_draw_the_same_image() -> None:
    made = recording(Write(1, 0, NEW, synced=False), Create(2, TEMPORARY))
    first, second = draw(made, draws=50), draw(made, draws=50)
    assert first == second


def test_a_lost_sync_is_an_undecided_write() -> None:
    made = REPLACE.without_syncs()
    assert {image.files.get("f") for image in draw(made)} >= {OLD, NEW, b""}
    synced = recording(Write(1, 0, NEW, synced=True)).without_syncs()
    assert len({image.files["f"] for image in draw(synced)}) > 2


def test_an_incomplete_recording_is_refused() -> None:
    made = recording(Write(9, 0, b"x", synced=False))
    with pytest.raises(RecordingError, match="before it creates it"):
        draw(made)


def test_a_recording_reads_as_text() -> None:
    made = recording(*(call.effect for call in REPLACE.calls), Acknowledge(b"ack 1\n"))
    assert made.describe(4).splitlines() == [
        "     4      5 sync f.tmp",
        "     6      7 rename f.tmp to f",
        "     8      9 sync .",
        "    10     11 acknowledge ack 1",
    ]
    assert made.end == 12
    assert list(made.acknowledgements()) == [(10, b"ack 1\n")]
