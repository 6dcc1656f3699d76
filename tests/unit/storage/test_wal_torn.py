"""A record of more than 64 KiB, whose head and body are written apart, and a power cut within it.

The disk may have any of its sectors and lack any others, whatever the order of the writes: what was
there before, of an older use of the file, is there still. Each such image is read as the next start
would read it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from storage.engine import Op, Operation
from storage.errors import DamagedFilesError
from storage.wal import WriteAheadLog
from storage.wal_format import APART_BYTES, RECORD_HEAD_BYTES

SECTOR: Final = 512
SEGMENT: Final = 128 * 1024
USED: Final = "used before"
SMALL_BEFORE: Final[list[Operation]] = [(Op.PUT, b"before", b"b" * 100)]
SMALL_AFTER: Final[list[Operation]] = [(Op.PUT, b"after", b"a" * 100)]


def large(fill: bytes) -> list[Operation]:
    rows = [(Op.PUT, b"%s/%03d" % (fill, number), fill * 900) for number in range(80)]
    return [*rows, (Op.DELETE, b"gone", None)]


@dataclass
class Torn:
    """The segment before the large record was appended, after it, and after a small one more."""

    path: Path
    old: bytes
    large: bytes
    whole: bytes
    begin: int
    middle: int
    """Where its body begins."""
    end: int

    @property
    def sectors(self) -> range:
        return range(self.begin // SECTOR, (self.end - 1) // SECTOR + 1)

    def with_sectors(self, kept: Collection[int], new: bytes | None = None) -> bytes:
        """The segment before, and these sectors as they are after."""
        after = self.large if new is None else new
        image = bytearray(self.old)
        for sector in kept:
            at = sector * SECTOR
            image[at : at + SECTOR] = after[at : at + SECTOR]
        return bytes(image)

    def read(self, image: bytes) -> list[Operation]:
        with self.path.open("r+b") as file:
            file.write(image)
        found: list[Operation] = []
        WriteAheadLog(self.path.parent, segment_bytes=SEGMENT).replay(found.extend)
        return found


def segment_after(log: WriteAheadLog, operations: list[Operation], *, sync: bool) -> bytes:
    log.append(operations)
    if sync:
        log.sync()
    return log._segments[-1].path.read_bytes()


def made(directory: Path, use: str, *, synced: bool = False) -> Torn:
    """`synced`: the large record was, before the small one behind it was appended."""
    log = WriteAheadLog(directory, segment_bytes=SEGMENT)
    log.replay(lambda _: None)
    log.begin()
    if use == USED:
        for _ in range(2):
            segment_after(log, large(b"o"), sync=True)
            log.folded(log.synced_number)
            log.mark()
    segment = log._segments[-1]
    old = segment_after(log, SMALL_BEFORE, sync=True)
    begin = segment.at
    new = segment_after(log, large(b"n"), sync=synced)
    end = segment.at
    whole = segment_after(log, SMALL_AFTER, sync=False)
    log.close()
    assert end - begin > APART_BYTES + RECORD_HEAD_BYTES
    assert begin % SECTOR, "it begins within a sector that others have a part of"
    assert (old[end - 2000 : end].count(b"o") > 1000) == (use == USED)
    return Torn(segment.path, old, new, whole, begin, begin + RECORD_HEAD_BYTES, end)


@pytest.fixture(autouse=True)
def no_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The images are what the disk has."""
    for call in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, call, lambda _: None)


@pytest.fixture(params=["new", USED])
def torn(request: pytest.FixtureRequest, tmp_path: Path) -> Torn:
    return made(tmp_path, request.param)


def interesting(torn: Torn) -> Iterable[Collection[int]]:
    """Of its sectors, which may be on the disk: never all of them."""
    sectors = torn.sectors
    yield ()
    for sector in sectors:
        yield [each for each in sectors if each != sector]
    for place in range(1, len(sectors), 8):
        yield sectors[:place]
        yield sectors[place:]
        yield sectors[place : place + 1]
    yield sectors[::2]
    yield sectors[1::2]
    dice = random.Random(1)
    for _ in range(20):
        yield dice.sample(sectors, dice.randrange(1, len(sectors)))


def test_without_any_of_its_sectors_it_is_not_there_and_what_was_before_it_is(torn: Torn) -> None:
    images = 0
    for kept in interesting(torn):
        assert torn.read(torn.with_sectors(kept)) == SMALL_BEFORE, kept
        images += 1
    assert images > 200
    assert torn.read(torn.with_sectors(torn.sectors)) == [*SMALL_BEFORE, *large(b"n")]


def test_nothing_of_it_is_taken_if_its_bytes_end_anywhere(torn: Torn) -> None:
    """As a write that was cut off leaves it: around its head, its body's table, each end."""
    edges = {torn.begin, torn.middle, torn.middle + 4, torn.end}
    edges |= {sector * SECTOR for sector in (*torn.sectors[1:3], *torn.sectors[-2:])}
    cuts = {at for edge in edges for at in range(edge - 9, edge + 10)}
    cuts |= set(range(torn.begin, torn.middle + 40))
    for cut in sorted(at for at in cuts if torn.begin <= at < torn.end):
        assert torn.read(torn.large[:cut] + torn.old[cut:]) == SMALL_BEFORE, cut
    for cut in range(torn.end, torn.end + 9):
        image = torn.large[:cut] + torn.old[cut:]
        assert torn.read(image) == [*SMALL_BEFORE, *large(b"n")], cut


def test_a_later_record_that_was_synced_no_more_than_it_does_not_count_it_as_damage(
    torn: Torn,
) -> None:
    """The later one is on the disk whole, the large one in part: neither was promised."""
    behind = range(torn.sectors[-1], torn.sectors[-1] + 2)
    for gone in torn.sectors[:-1]:
        kept = [*(each for each in torn.sectors if each != gone), *behind]
        assert torn.read(torn.with_sectors(kept, torn.whole)) == SMALL_BEFORE, gone


@pytest.mark.parametrize("use", ["new", USED])
def test_once_it_was_synced_a_lack_of_any_sector_is_damage_and_is_told(
    tmp_path: Path, use: str
) -> None:
    torn = made(tmp_path, use, synced=True)
    behind = range(torn.sectors[-1], torn.sectors[-1] + 2)
    for gone in torn.sectors[:-1]:
        kept = [*(each for each in torn.sectors if each != gone), *behind]
        with pytest.raises(DamagedFilesError, match=r"record \d+ in .* was synced and is damaged"):
            torn.read(torn.with_sectors(kept, torn.whole))
    assert torn.read(torn.whole) == [*SMALL_BEFORE, *large(b"n"), *SMALL_AFTER]


def test_the_next_life_writes_over_what_is_left_of_it(torn: Torn) -> None:
    for kept in (torn.sectors[:-1], torn.sectors[1:], torn.sectors[:1], torn.sectors[::2]):
        assert torn.read(torn.with_sectors(kept)) == SMALL_BEFORE
        log = WriteAheadLog(torn.path.parent, segment_bytes=SEGMENT)
        log.replay(lambda _: None)
        log.begin()
        log.append(large(b"l"))
        log.sync()
        log.close()
        found: list[Operation] = []
        WriteAheadLog(torn.path.parent, segment_bytes=SEGMENT).replay(found.extend)
        assert found == large(b"l")
        for path in torn.path.parent.iterdir():
            if path != torn.path:
                path.unlink()
