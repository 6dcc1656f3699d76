"""A MANIFEST that a power cut tore is mended; one that is damaged otherwise is not."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from storage.engine import Batch
from storage.errors import DamagedFilesError
from storage.rocks_engine import RocksEngine
from storage.rocks_manifest import SECTOR_BYTES, whole_bytes
from storage.rocks_options import RocksOptions
from storage.system_clock import SystemClock

OPTIONS = RocksOptions(write_buffer_bytes=64 * 1024)


def fill(path: Path, first: int, last: int) -> None:
    engine = RocksEngine(path, clock=SystemClock(), options=OPTIONS)
    for number in range(first, last):
        batch = Batch()
        batch.put(b"%06d" % number, b"%d" % number * 2_000)
        engine.write(batch, sync=True)
    engine.close()


def manifest_of(path: Path) -> Path:
    return path / (path / "CURRENT").read_text().strip()


def record_starts(manifest: bytes) -> list[int]:
    starts, at = [], 0
    while at < len(manifest):
        starts.append(at)
        at += 7 + int.from_bytes(manifest[at + 4 : at + 6], "little")
    return starts


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filled") / "db"
    fill(path, 0, 200)
    return path


def across_an_edge(manifest: bytes) -> tuple[int, int]:
    """(start of the last record that crosses a sector's edge, that edge)"""
    starts = [*record_starts(manifest), len(manifest)]
    pairs = itertools.pairwise(starts)
    crossing = [(a, -(-a // SECTOR_BYTES) * SECTOR_BYTES, b) for a, b in pairs]
    return [(a, edge) for a, edge, b in crossing if a < edge < b][-1]


def test_a_sound_manifest_ends_where_it_ends(filled: Path) -> None:
    assert whole_bytes(manifest_of(filled).read_bytes()) is None


def test_a_record_without_one_of_its_sectors_was_torn(filled: Path) -> None:
    manifest = manifest_of(filled).read_bytes()
    start, edge = across_an_edge(manifest)
    torn = manifest[:edge] + bytes(min(SECTOR_BYTES, len(manifest) - edge))
    assert whole_bytes(torn) == start
    assert whole_bytes(torn + manifest[len(torn) :]) == start


def test_a_record_that_is_cut_off_is_left_to_rocksdb(filled: Path) -> None:
    manifest = manifest_of(filled).read_bytes()
    _, edge = across_an_edge(manifest)
    assert whole_bytes(manifest[: edge + 1]) is None


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_changed_byte_was_not_a_power_cut(filled: Path, share: float) -> None:
    manifest = bytearray(manifest_of(filled).read_bytes())
    start = record_starts(bytes(manifest))[int(len(record_starts(bytes(manifest))) * share)]
    manifest[start + 8] ^= 1
    assert whole_bytes(bytes(manifest)) is None


def test_the_engine_opens_what_a_power_cut_tore(tmp_path: Path) -> None:
    """The torn record is one that nothing depends on yet: the copy is of before the flush."""
    path = tmp_path / "db"
    fill(path, 0, 200)
    manifest = manifest_of(path)
    whole = manifest.read_bytes()
    start, edge = record_starts(whole)[-1], -(-len(whole) // SECTOR_BYTES) * SECTOR_BYTES
    # One more record, of which only the part in the sector that is there already was written.
    length = edge - len(whole) + 40
    record = b"\1\2\3\4" + length.to_bytes(2, "little") + b"\1" + b"x" * length
    manifest.write_bytes((whole + record)[:edge] + bytes(len(whole + record) - edge))
    assert whole_bytes(manifest.read_bytes()) == len(whole) > start
    engine = RocksEngine(path, clock=SystemClock(), options=OPTIONS)
    with engine.snapshot() as snapshot:
        assert snapshot.get(b"000199") == b"199" * 2_000
    engine.close()
    fill(path, 200, 210)


def test_the_engine_refuses_any_other_damage_and_leaves_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "db"
    fill(path, 0, 200)
    manifest = manifest_of(path)
    damaged = bytearray(manifest.read_bytes())
    damaged[record_starts(bytes(damaged))[-1] + 8] ^= 1
    manifest.write_bytes(damaged)
    with pytest.raises(DamagedFilesError, match="MANIFEST"):
        RocksEngine(path, clock=SystemClock(), options=OPTIONS)
    assert manifest.read_bytes() == damaged
