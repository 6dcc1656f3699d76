"""The write-ahead log: batches appended to segment files, one fdatasync for what came together.

    log/0000000000000007   header | record | record | ... | zeros, or an older use of the file

    append   the batch's record goes to the end of the newest segment (to the operating system)
    sync     it is on the disk: segments are written over, not grown, so there is no metadata to
             write with it, where a B-tree needs its pages and then its root
    folded   the owner says up to which record the tree has everything, synced
    rotate   a segment is full: the next one begins, and says in its header what is folded; segments
             that this makes meaningless are used again

Rules, on which recovery rests:
1. A segment is synced before its successor exists. So only the newest one can have a torn end.
2. A segment goes, or is written over, only once a newer header is on the disk that says that all
   its records are folded. So from the newest header's `folded` on no record is missing, and a
   reader never puts an old one in the place of a newer one that is in the tree.
3. `folded` never passes what was synced. So reading the log again over the tree (its records say
   what is, not what changes) ends with a state that is at least as new as the tree's.
4. A file is used again only by the process that wrote it. After a restart all of them go, because
   an end that was never acknowledged may carry numbers that come next.

Files that are not valid segments under their own name are remains of a rotation: they are removed.
For one thread at a time. It knows batches as bytes and nothing of the tree.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from storage import files
from storage.engine import Operation
from storage.errors import DamagedFilesError, UnknownDirectoryFormatError
from storage.wal_format import (
    HEADER_BYTES,
    NewerSegmentError,
    SegmentHeader,
    pack_header,
    pack_record,
    read_header,
    read_operations,
    read_record,
)

SEGMENT_BYTES: Final = 8 * 1024 * 1024
GROW_BYTES: Final = 256 * 1024
"""A new segment is filled with zeros in steps of this, ahead of what is appended."""
SPARE_SEGMENTS: Final = 2
_NAME_DIGITS: Final = 16
_REPAIR: Final = "restore a backup, or wipe the directory and let it be copied from a peer"

Replay = Callable[[Iterable[Operation]], None]


class _Segment:
    __slots__ = ("at", "descriptor", "header", "last", "path", "written")

    def __init__(self, path: Path, descriptor: int, header: SegmentHeader, *, written: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.header = header
        self.at = HEADER_BYTES
        """Where the next record goes."""
        self.written = written
        """Up to here the file has blocks with content."""
        self.last = header.first - 1
        """The number of its last record."""


class WriteAheadLog:
    """Invariants: `last_number` >= `synced_number` >= `folded_number`; `_segments` is oldest first
    and the last one is written to."""

    def __init__(self, directory: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.directory = directory
        self.last_number = 0
        self.synced_number = 0
        self.folded_number = 0
        self.syncs = 0
        self._segment_bytes = segment_bytes
        self._segments: list[_Segment] = []
        self._spare: list[_Segment] = []

    # --- opening -----------------------------------------------------------------------------

    def replay(self, take: Replay) -> None:
        """Give the operations of every record that may not be in the tree, in order. Changes
        nothing on the disk: call `begin` once all of it is in the tree, synced."""
        found = self._read_headers()
        if not found:
            return
        needed = found[-1].folded + 1
        at = len(found) - 1
        while found[at].first > needed and at > 0:
            at -= 1
        if found[at].first > needed:
            raise self._gap(needed, found[at].first)
        number = found[at].first
        for header in found[at:]:
            if header.first != number:
                raise self._gap(number, header.first)
            number = self._replay_segment(header, take, needed)
        # A process that died may have left records that only the page cache has: what is put into
        # the tree now must not be lost from the log by a power cut (rule 3).
        files.sync_file(self.directory / _name(found[-1].number))
        self.last_number = self.synced_number = self.folded_number = number - 1

    def begin(self) -> None:
        """A new segment, which says that everything before it is folded; older ones go."""
        old = self._names() if self.directory.exists() else []
        files.make_directory(self.directory, "make the log in")
        number = max([int(name, 16) for name in old if _is_name(name)], default=0) + 1
        self._segments.append(self._create(number))
        for name in old:
            (self.directory / name).unlink(missing_ok=True)

    def _names(self) -> list[str]:
        return sorted(entry.name for entry in self.directory.iterdir())

    def _read_headers(self) -> list[SegmentHeader]:
        found = []
        for name in self._names() if self.directory.exists() else []:
            path = self.directory / name
            try:
                with path.open("rb") as file:
                    header = read_header(file.read(HEADER_BYTES))
            except NewerSegmentError as error:
                raise UnknownDirectoryFormatError(
                    f"{path} cannot be read: {error}; upgrade JanusKV or name another directory"
                ) from error
            if header is not None and _name(header.number) == name:
                found.append(header)
        return found

    def _replay_segment(self, header: SegmentHeader, take: Replay, needed: int) -> int:
        """The number after its last record."""
        data = memoryview((self.directory / _name(header.number)).read_bytes())
        number, at = header.first, HEADER_BYTES
        while (place := read_record(data, at, number)) is not None:
            begin, at = place
            if number >= needed:
                take(read_operations(data, begin, at))
            number += 1
        return number

    def _gap(self, wanted: int, found: int) -> DamagedFilesError:
        return DamagedFilesError(
            f"the log in {self.directory} is not whole: record {wanted} is missing and it goes on "
            f"with {found}; {_REPAIR}"
        )

    # --- writing -----------------------------------------------------------------------------

    def append(self, operations: Sequence[Operation]) -> None:
        record = pack_record(self.last_number + 1, operations)
        segment = self._segments[-1]
        if segment.at + len(record) > self._segment_bytes and segment.at > HEADER_BYTES:
            segment = self._rotate()
        end = segment.at + len(record)
        if end > segment.written:
            ahead = min(max(self._segment_bytes - end, 0), GROW_BYTES)
            _write(segment.descriptor, record + bytes(ahead), segment.at)
            segment.written = end + ahead
        else:
            _write(segment.descriptor, record, segment.at)
        segment.at = end
        segment.last = self.last_number = self.last_number + 1

    def sync(self) -> None:
        """Everything appended is on the disk."""
        if self.synced_number != self.last_number:
            os.fdatasync(self._segments[-1].descriptor)
            self.synced_number = self.last_number
            self.syncs += 1

    def folded(self, number: int) -> None:
        """The tree has every record up to this one, synced."""
        assert self.folded_number <= number <= self.synced_number
        self.folded_number = number

    def mark(self) -> None:
        """What is folded stands in the newest header, so that a reader need not read it again."""
        if self._segments[-1].header.folded != self.folded_number:
            self._rotate()

    @property
    def size_bytes(self) -> int:
        """Of the files on the disk."""
        return sum(segment.written for segment in (*self._segments, *self._spare))

    def close(self) -> None:
        for segment in (*self._segments, *self._spare):
            os.close(segment.descriptor)
        self._segments.clear()
        self._spare.clear()

    # --- segments ----------------------------------------------------------------------------

    def _rotate(self) -> _Segment:
        self.sync()
        number = self._segments[-1].header.number + 1
        new = self._reuse(number) if self._spare else self._create(number)
        while self._segments and self._segments[0].last <= self.folded_number:
            self._retire(self._segments.pop(0))
        self._segments.append(new)
        return new

    def _header(self, number: int) -> SegmentHeader:
        return SegmentHeader(number, self.last_number + 1, self.folded_number)

    def _create(self, number: int) -> _Segment:
        header = self._header(number)
        path = self.directory / _name(number)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            _write(descriptor, pack_header(header), 0)
            os.fsync(descriptor)
            files.sync_directory(self.directory)
        except BaseException:
            os.close(descriptor)
            raise
        return _Segment(path, descriptor, header, written=HEADER_BYTES)

    def _reuse(self, number: int) -> _Segment:
        """The header comes first: a file whose header and name differ is no segment."""
        old = self._spare.pop()
        header = self._header(number)
        _write(old.descriptor, pack_header(header), 0)
        os.fdatasync(old.descriptor)
        path = self.directory / _name(number)
        old.path.rename(path)
        files.sync_directory(self.directory)
        return _Segment(path, old.descriptor, header, written=old.written)

    def _retire(self, segment: _Segment) -> None:
        if len(self._spare) < SPARE_SEGMENTS and segment.written <= self._segment_bytes:
            self._spare.append(segment)
            return
        os.close(segment.descriptor)
        with suppress(FileNotFoundError):
            segment.path.unlink()


def _name(number: int) -> str:
    return f"{number:0{_NAME_DIGITS}x}"


def _is_name(name: str) -> bool:
    return len(name) == _NAME_DIGITS and not set(name) - set("0123456789abcdef")


def _write(descriptor: int, data: bytes, at: int) -> None:
    done = os.pwrite(descriptor, data, at)
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], at + done)
