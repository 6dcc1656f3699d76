"""The log's files: what is read back after which end of a process."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import pytest

from storage import wal, wal_format
from storage.engine import Op, Operation
from storage.errors import DamagedFilesError, UnknownDirectoryFormatError
from storage.wal import WriteAheadLog
from storage.wal_format import (
    APART_BYTES,
    HEADER_BYTES,
    SegmentHeader,
    pack_header,
    pack_record,
    read_header,
    read_operations,
    read_record,
)

SEGMENT = 1_000


def batch(number: int, size: int = 100) -> list[Operation]:
    return [(Op.PUT, b"%d" % number, b"x" * size)]


def opened(path: Path) -> WriteAheadLog:
    log = WriteAheadLog(path, segment_bytes=SEGMENT)
    log.replay(lambda _: None)
    log.begin()
    return log


def segments(path: Path) -> list[Path]:
    """The files that are segments, oldest first."""
    found = []
    for entry in path.iterdir():
        header = read_header(entry.read_bytes()[:HEADER_BYTES])
        if header is not None:
            found.append((header.number, entry))
    return [entry for _, entry in sorted(found)]


def contents(path: Path) -> list[Operation]:
    """Of a copy, as the next start would read it."""
    found: list[Operation] = []
    WriteAheadLog(path, segment_bytes=SEGMENT).replay(found.extend)
    return found


def numbers(path: Path) -> list[int]:
    return [int(key) for _, key, _ in contents(path)]


def fill(log: WriteAheadLog, first: int, last: int) -> None:
    for number in range(first, last + 1):
        log.append(batch(number))
    log.sync()


def record(number: int, operations: list[Operation]) -> bytes:
    return b"".join(pack_record(number, operations))


def test_every_kind_of_operation_is_read_as_it_was_written() -> None:
    operations: list[Operation] = [
        (Op.PUT, b"key", b"value"),
        (Op.PUT, b"empty", b""),
        (Op.DELETE, b"gone", None),
        (Op.DELETE_RANGE, b"", None),
        (Op.DELETE_RANGE, b"a", b"b"),
        (Op.DELETE_RANGE, b"a", b""),
    ]
    data = b"before" + record(7, operations) + b"after"
    place = read_record(data, 6, 7)
    assert place is not None
    assert list(read_operations(data, place[0])) == operations
    assert data[place[1] :] == b"after"
    assert read_record(data, 6, 8) is None, "the number counts"


@pytest.mark.parametrize("size", [0, 1, 100, APART_BYTES, 100_000])
def test_a_record_of_one_put_has_the_bytes_that_any_other_has(size: int) -> None:
    """It is made in another way."""
    value = b"v" * size
    body = struct.pack("<IBII3s", 1, 0, 3, size, b"key") + value
    rest = struct.pack("<IQQ", len(body), 7, 5) + body
    wanted = struct.pack("<I", zlib.crc32(rest)) + rest
    assert b"".join(pack_record(7, [(Op.PUT, b"key", value)], 5)) == wanted
    two = b"".join(pack_record(8, [(Op.PUT, b"key", value), (Op.DELETE, b"k", None)], 7))
    assert read_record(wanted + two, len(wanted), 8) == (len(wanted) + 24, len(wanted + two))


def test_a_record_that_is_not_whole_is_none() -> None:
    data = record(1, batch(1))
    for end in range(len(data)):
        assert read_record(data[:end], 0, 1) is None
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        assert read_record(bytes(damaged), 0, 1) is None


def test_a_header_that_is_not_whole_is_none() -> None:
    header = SegmentHeader(3, 40, 30)
    data = pack_header(header)
    assert read_header(data) == header
    for at in range(40):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        assert read_header(bytes(damaged)) is None
    assert read_header(data[:-1]) is None


def test_what_was_appended_is_read_again(tmp_path: Path) -> None:
    log = opened(tmp_path / "log")
    fill(log, 1, 30)
    assert len(segments(log.directory)) >= 4
    assert numbers(log.directory) == [*range(1, 31)]
    log.close()


def test_what_is_folded_is_not_read_and_its_files_are_used_again(tmp_path: Path) -> None:
    log = opened(tmp_path / "log")
    for turn in range(40):
        fill(log, 10 * turn + 1, 10 * turn + 10)
        log.folded(log.synced_number - 5)
    assert len(list(log.directory.iterdir())) <= 8
    assert log.size_bytes <= 8 * SEGMENT
    found = numbers(log.directory)
    assert found == [*range(found[0], 401)]
    assert found[0] >= 370
    log.folded(400)
    log.mark()
    assert numbers(log.directory) == []
    log.close()


def test_the_rest_of_an_older_use_of_a_file_is_not_read(tmp_path: Path) -> None:
    log = opened(tmp_path / "log")
    for turn in range(12):
        fill(log, 6 * turn + 1, 6 * turn + 6)
        log.folded(log.synced_number)
    log.mark()
    assert segments(log.directory)[-1].read_bytes().count(b"x") > 100, "it was used before"
    fill(log, 73, 73)
    assert numbers(log.directory) == [73]
    log.close()


def test_a_torn_end_ends_the_log_and_the_next_life_begins_behind_it(tmp_path: Path) -> None:
    log = opened(tmp_path / "log")
    fill(log, 1, 3)
    log.close()
    path = segments(log.directory)[-1]
    whole = path.read_bytes()
    third = whole.index(record(3, batch(3)))
    for cut in (third + 1, third + 40):
        path.write_bytes(whole[:cut] + bytes(len(whole) - cut))
        assert numbers(log.directory) == [1, 2]
    again = opened(log.directory)
    assert again.last_number > 1 << 32, "what was torn has a number that never comes again"
    fill(again, 3, 3)
    assert numbers(log.directory) == [3]
    again.close()


@pytest.mark.parametrize(
    "where", [0, 5, 10, 18, 60], ids=["sum", "length", "number", "synced", "value"]
)
def test_damage_to_a_record_that_was_synced_is_no_torn_end(tmp_path: Path, where: int) -> None:
    log = opened(tmp_path)
    for number in (1, 2, 3):
        log.append(batch(number))
        log.sync()
    log.close()
    (segment,) = segments(tmp_path)
    data = bytearray(segment.read_bytes())
    second = HEADER_BYTES + len(record(1, batch(1)))
    data[second + where] ^= 1
    segment.write_bytes(data)
    with pytest.raises(DamagedFilesError, match=r"record 2 in .* was synced and is damaged"):
        contents(tmp_path)


def test_what_the_power_tore_out_of_the_middle_of_an_end_never_synced_ends_the_log(
    tmp_path: Path,
) -> None:
    """The disk may keep a later page and lose an earlier one."""
    log = opened(tmp_path)
    log.append(batch(1))
    log.sync()
    for number in (2, 3, 4):
        log.append(batch(number))
    log.close()
    (segment,) = segments(tmp_path)
    data = bytearray(segment.read_bytes())
    size = len(record(1, batch(1)))
    data[HEADER_BYTES + size : HEADER_BYTES + 2 * size] = bytes(size)
    segment.write_bytes(data)
    assert numbers(tmp_path) == [1]


def test_a_start_that_loses_power_in_its_first_header_takes_no_record_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes to a file that no reader needs, and none is touched before it is on the disk."""
    log = opened(tmp_path / "log")
    fill(log, 1, 30)
    log.close()

    def cut(_: int) -> None:
        raise OSError("the power is cut")

    for _ in range(3):
        again = WriteAheadLog(log.directory, segment_bytes=SEGMENT)
        again.replay(lambda _: None)
        with monkeypatch.context() as power:
            power.setattr(wal, "pack_header", lambda _: b"torn" * 16)
            power.setattr(os, "fdatasync", cut)
            with pytest.raises(OSError, match="the power is cut"):
                again.begin()
        again.close()
        assert numbers(log.directory) == [*range(1, 31)]


def test_a_missing_segment_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    log = opened(tmp_path / "log")
    fill(log, 1, 30)
    log.close()
    for gone in segments(log.directory)[:-1]:
        copy = tmp_path / "copy"
        shutil.copytree(log.directory, copy)
        (copy / gone.name).unlink()
        with pytest.raises(DamagedFilesError, match=r"is not whole: record .* restore a backup"):
            contents(copy)
        shutil.rmtree(copy)


def test_a_damaged_record_before_the_newest_segment_is_refused(tmp_path: Path) -> None:
    log = opened(tmp_path / "log")
    fill(log, 1, 30)
    log.close()
    path = segments(log.directory)[1]
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DamagedFilesError, match="is not whole"):
        contents(log.directory)


def test_older_segments_mean_nothing_once_a_newer_header_says_that_they_are_folded(
    tmp_path: Path,
) -> None:
    """However many of them a power cut left, and with whatever holes: reading some of them again
    would put old values in the place of newer ones."""
    log = opened(tmp_path / "log")
    fill(log, 1, 30)
    log.folded(30)
    kept = tmp_path / "kept"
    shutil.copytree(log.directory, kept)
    log.mark()
    fill(log, 31, 32)
    log.close()
    newest = segments(log.directory)[-1]
    for gone in segments(kept):
        left = tmp_path / "left"
        shutil.copytree(kept, left)
        (left / gone.name).unlink()
        shutil.copy(newest, left / "999")
        assert numbers(left) == [31, 32]
        shutil.rmtree(left)


def test_a_record_whose_body_is_written_apart_is_read_as_it_was_written(tmp_path: Path) -> None:
    large: list[Operation] = [(Op.PUT, b"large", b"v" * APART_BYTES), (Op.PUT, b"next", b"v")]
    log = opened(tmp_path)
    log.append(large)
    log.append(batch(2))
    log.sync()
    log.close()
    assert contents(tmp_path) == [*large, *batch(2)]


def test_a_record_larger_than_a_segment_has_one_of_its_own(tmp_path: Path) -> None:
    log = opened(tmp_path / "log")
    fill(log, 1, 1)
    log.append(batch(2, 5 * SEGMENT))
    fill(log, 3, 3)
    assert numbers(log.directory) == [1, 2, 3]
    log.folded(3)
    log.mark()
    fill(log, 4, 20)
    assert {path.stat().st_size for path in log.directory.iterdir()} == {SEGMENT}
    log.close()


def test_segments_of_a_newer_format_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(wal_format, "WAL_FORMAT", 3)
        log = opened(tmp_path / "log")
        fill(log, 1, 1)
        log.close()
    with pytest.raises(UnknownDirectoryFormatError, match="format 3 and this version reads 2; upg"):
        contents(log.directory)


def test_files_are_used_again_after_a_restart_and_strange_ones_removed(tmp_path: Path) -> None:
    log = opened(tmp_path / "log")
    fill(log, 1, 3)
    log.close()
    names = {path.name for path in log.directory.iterdir()}
    (log.directory / "notes").write_bytes(b"")
    (log.directory / "77").write_bytes(b"of another size")
    assert numbers(log.directory) == [1, 2, 3]
    again = opened(log.directory)
    assert {path.name for path in log.directory.iterdir()} == names
    again.close()


# --- syncs that somebody else makes --------------------------------------------------------------


def test_only_what_was_appended_before_the_sync_began_is_synced_by_it(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.append(batch(1))
    log.append(batch(2))
    begun = log.begin_sync()
    assert begun is not None
    log.append(batch(3))
    assert log.synced_number == 0, "begun, not ended"
    os.fdatasync(begun.descriptor)
    log.end_sync(begun.number)
    assert (log.synced_number, log.last_number) == (2, 3)
    again = log.begin_sync()
    assert again is not None
    log.end_sync(again.number)
    assert log.begin_sync() is None, "everything is synced"
    assert (log.syncs, log.syncs_apart) == (2, 2)
    log.close()


def test_a_sync_begun_before_the_segment_ended_takes_nothing_back(tmp_path: Path) -> None:
    """Meanwhile the log goes on in the next segments, and its own file is used again."""
    log = opened(tmp_path)
    log.append(batch(1))
    begun = log.begin_sync()
    assert begun is not None
    for number in range(2, 60):
        log.append(batch(number))
        log.folded(log.synced_number)
    synced = log.synced_number
    assert begun.number < synced < log.last_number, "each rotation synced the segment before"
    log.end_sync(begun.number)
    assert log.synced_number == synced
    log.close()


def test_a_sync_apart_has_a_description_of_the_file_of_its_own(tmp_path: Path) -> None:
    """Else of two syncs beside each other only one would hear of a page that was lost."""
    log = opened(tmp_path)
    synced: list[int] = []
    with pytest.MonkeyPatch.context() as watched:
        watched.setattr(os, "fdatasync", synced.append)
        for number in range(1, 40):  # over several segments
            log.append(batch(number))
            begun = log.begin_sync()
            assert begun is not None
            log.sync()
            assert os.path.samestat(os.fstat(begun.descriptor), os.fstat(synced[-1]))
            modes = [
                fcntl.fcntl(each, fcntl.F_GETFL) & os.O_ACCMODE
                for each in (begun.descriptor, synced[-1])
            ]
            assert modes == [os.O_RDONLY, os.O_RDWR], "not one description twice"
            log.folded(number)
    log.close()


# --- the next segment has no sync of its own -----------------------------------------------------


class _Rotated(NamedTuple):
    log: WriteAheadLog
    syncs: list[int]
    before: dict[str, bytes]
    """The files as they were before the record with which a new segment began."""


@pytest.fixture
def rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Rotated:
    """A log of which everything is folded but the last record: it began a segment, not synced."""
    log = opened(tmp_path / "log")
    for turn in range(6):  # spare files have an older use
        fill(log, 10 * turn + 1, 10 * turn + 10)
        log.folded(log.synced_number)
    syncs: list[int] = []
    monkeypatch.setattr(os, "fdatasync", syncs.append)
    while True:
        before = {path.name: path.read_bytes() for path in log.directory.iterdir()}
        newest = log._segments[-1]
        log.append(batch(log.last_number + 1))
        if log._segments[-1] is not newest:
            return _Rotated(log, syncs, before)
        log.sync()
        log.folded(log.synced_number)
        syncs.clear()


def test_a_segment_begins_without_a_sync_and_its_first_record_brings_it(rotated: _Rotated) -> None:
    log, syncs, before = rotated
    assert syncs == [], "nothing waited for the disk"
    assert {path.name for path in log.directory.iterdir()} == set(before), "no file is removed"
    assert len(log._segments) >= 2, "what is folded is kept until the header that says so is synced"
    spare = len(log._spare)
    log.sync()
    assert syncs == [log._segments[-1].descriptor]
    assert len(log._segments) == 1
    assert len(log._spare) > spare
    log.close()


def test_a_sync_of_the_segment_before_says_nothing_of_the_next_ones_header(
    rotated: _Rotated,
) -> None:
    log = rotated.log
    held = len(log._segments)
    log.end_sync(log.synced_number)
    assert len(log._segments) == held
    begun = log.begin_sync()
    assert begun is not None
    log.end_sync(begun.number)
    assert len(log._segments) == 1
    log.close()


@pytest.mark.parametrize("there", ["nothing", "header", "record", "half a record", "both"])
def test_of_a_new_segment_whose_sync_the_power_cut_any_part_may_be_there(
    rotated: _Rotated, tmp_path: Path, there: str
) -> None:
    log, _, before = rotated
    last = log.last_number
    (changed,) = (p for p in log.directory.iterdir() if p.read_bytes() != before[p.name])
    old, new = before[changed.name], changed.read_bytes()
    end = log._segments[-1].at
    log.close()
    middle = (HEADER_BYTES + end) // 2
    cut = {
        "nothing": old,
        "header": new[:HEADER_BYTES] + old[HEADER_BYTES:],
        "record": old[:HEADER_BYTES] + new[HEADER_BYTES:],
        "half a record": old[:HEADER_BYTES] + new[HEADER_BYTES:middle] + old[middle:],
        "both": new,
    }[there]
    assert old[:HEADER_BYTES] != new[:HEADER_BYTES]
    assert read_header(old[:HEADER_BYTES]) is not None, "the file was used before"
    changed.write_bytes(cut)
    found = numbers(log.directory)
    if there == "both":
        assert found == [last]
    else:
        assert last not in found
    assert found == sorted(found), "and no older record is read in the place of a newer one"
    again = opened(log.directory)
    fill(again, again.last_number + 1, again.last_number + 20)
    assert len(numbers(log.directory)) == 20
    again.close()


def test_what_was_folded_after_the_header_was_written_is_kept_with_it(tmp_path: Path) -> None:
    """The disk's newest header does not call it folded, so a reader begins there."""
    log = opened(tmp_path / "log")
    fill(log, 1, 30)
    log.folded(10)
    newest = log._segments[-1]
    while log._segments[-1] is newest:
        log.sync()
        log.append(batch(log.last_number + 1))
    log.folded(log.synced_number)
    log.sync()
    assert log._segments[0].header.first <= 11 <= log._segments[0].last
    assert {11, 12, log.last_number} <= set(numbers(log.directory))
    log.close()


def test_a_log_that_is_ended_has_its_last_header_on_the_disk(
    rotated: _Rotated,
) -> None:
    log, syncs, _ = rotated
    log.sync()
    log.folded(log.last_number)
    syncs.clear()
    log.mark()
    assert syncs == [log._segments[-1].descriptor]
    log.close()


@pytest.mark.parametrize("paused", [False, True])
def test_a_spare_file_goes_to_the_disk_in_parts_where_somebody_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paused: bool
) -> None:
    log = WriteAheadLog(tmp_path / "log", segment_bytes=1 << 20)
    log.replay(lambda _: None)
    log.begin()
    seen: list[str] = []
    monkeypatch.setattr(os, "fdatasync", lambda _: seen.append("sync"))
    if paused:
        log.prepare(lambda: seen.append("pause"))
    else:
        log.prepare()
    assert seen == ["sync", "pause"] * (4 if paused else 0)
    assert all(path.stat().st_size == 1 << 20 for path in log.directory.iterdir())
    log.close()


def test_a_closed_log_has_no_file_open(tmp_path: Path) -> None:
    open_files = len(os.listdir("/proc/self/fd"))
    log = opened(tmp_path)
    fill(log, 1, 60)
    log.folded(60)
    log.mark()
    log.close()
    opened(tmp_path).close()
    assert len(os.listdir("/proc/self/fd")) == open_files
