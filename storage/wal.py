"""The write-ahead log: batches appended to segment files, one fdatasync for what came together.

    log/3    header | record | record | ... | zeros, or an older use of the file

    append   the batch's record goes to the end of the newest segment (to the operating system)
    sync     it is on the disk: files are full of zeros before they are used, and are used again, so
             a sync has no metadata to write, where growing a file waits for the file system's
             journal and a B-tree for its pages and then its root
    folded   the owner says up to which record the tree has everything, synced
    rotate   a segment is full: the next one begins, in a spare file, with a new header, which says
             what is folded. It has no sync of its own: the one of its first record covers it, too,
             and only then segments that it makes meaningless become spare

Rules, on which recovery rests:
1. A segment is synced before its successor exists. So only the newest one can have a torn end; and
   what a later record calls synced is no torn end there either, but damage.
2. A segment is written over only once a newer header is on the disk that says that all its records
   are folded. So from the newest header's `folded` on no record is missing, and a reader never
   puts an old one in the place of a newer one that is in the tree. A file whose first record came
   to the disk without its new header is such a segment still, by the header that it has.
3. `folded` never passes what was synced. So reading the log again over the tree (its records say
   what is, not what changes) ends with a state that is at least as new as the tree's.
4. Each start leaves out a whole life's worth of numbers: an end that was never acknowledged and is
   still in a file cannot have the numbers that come next.
5. A record is synced only once an fdatasync of its segment has ended well that began after its
   append. One that somebody else makes (`begin_sync`, `end_sync`) has a file description of its
   own: the kernel tells a lost page to each description once, so two syncs of one description
   beside each other would hide it from one of them.

A file whose header is not whole is no segment; names mean nothing. For one thread at a time, but
for `prepare`. It knows batches as bytes and nothing of the tree.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple

from storage import files
from storage.engine import BegunSync, Operation
from storage.errors import DamagedFilesError, UnknownDirectoryFormatError
from storage.wal_format import (
    HEADER_BYTES,
    NewerSegmentError,
    SegmentHeader,
    is_damaged,
    pack_header,
    pack_record,
    read_header,
    read_operations,
    read_record,
)

SEGMENT_BYTES: Final = 4 * 1024 * 1024
SPARE_SEGMENTS: Final = 4
"""Files kept for later use; more of them are removed."""
LIFE: Final = 1 << 32
"""Numbers left out at each start (rule 4)."""
_ZEROS: Final = bytes(256 * 1024)
_REPAIR: Final = "restore a backup, or wipe the directory and let it be copied from a peer"

Replay = Callable[[Sequence[Operation]], None]


class _Found(NamedTuple):
    header: SegmentHeader
    path: Path


class _Spare(NamedTuple):
    path: Path
    descriptor: int
    apart: int
    """Another description of the file (rule 5)."""

    def close(self) -> None:
        os.close(self.descriptor)
        os.close(self.apart)


class _Segment:
    __slots__ = ("at", "descriptor", "file", "header", "last", "path")

    def __init__(self, spare: _Spare, header: SegmentHeader) -> None:
        self.file = spare
        self.path, self.descriptor = spare.path, spare.descriptor
        self.header = header
        self.at = HEADER_BYTES
        """Where the next record goes."""
        self.last = header.first - 1
        """The number of its last record."""


class WriteAheadLog:
    """Invariants: `last_number` >= `synced_number` >= `folded_number`; `_segments` is oldest first
    and the last one is written to; a file of `_spare` is full-sized, synced and no part of what a
    reader would need."""

    def __init__(self, directory: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.directory = directory
        self.last_number = 0
        self.synced_number = 0
        self.folded_number = 0
        self.syncs = 0
        self.syncs_apart = 0
        """Of these, how many somebody else made."""
        self._segment_bytes = segment_bytes
        self._segments: list[_Segment] = []
        self._spare: list[_Spare] = []
        self._needed: set[Path] = set()
        """Files that a reader needs until the first new header is on the disk."""
        self._newest = 0
        self._header_due = False
        """The newest segment's header may not be on the disk yet."""
        self._names = count()

    # --- opening -----------------------------------------------------------------------------

    def replay(self, take: Replay) -> None:
        """Give the operations of every record that may not be in the tree, in order. Changes
        nothing on the disk: call `begin` once all of it is in the tree, synced."""
        found = self._read_headers()
        if not found:
            return
        newest = found[-1]
        self._newest = newest.header.number
        needed = newest.header.folded + 1
        at = len(found) - 1
        while found[at].header.first > needed and at > 0:
            at -= 1
        number = min(needed, found[at].header.first)
        for segment in found[at:]:
            if segment.header.first > max(number, needed):
                raise self._gap(max(number, needed), segment.header.first)
            number = self._replay_segment(segment, take, needed)
            self._needed.add(segment.path)
        # A process that died may have left records that only the page cache has: what is put into
        # the tree now must not be lost from the log by a power cut (rule 3).
        files.sync_file(newest.path)
        self.last_number = number - 1

    def begin(self) -> None:
        """A new segment, which says that everything before it is folded."""
        files.make_directory(self.directory, "make the log in")
        paths = self._paths()
        self._names = count(
            1 + max((int(path.name) for path in paths if _is_name(path)), default=-1)
        )
        left = [path for path in paths if path in self._needed or not self._adopt(path)]
        files.sync_directory(self.directory)
        if self._newest:
            self.last_number += LIFE
        self.synced_number = self.folded_number = self.last_number
        self._begin_segment()
        self.sync()
        for path in left:
            if path not in self._needed or not self._adopt(path):
                path.unlink()
        self._needed.clear()
        if not self._spare:
            self.prepare()

    def _paths(self) -> list[Path]:
        return sorted(self.directory.iterdir()) if self.directory.exists() else []

    def _read_headers(self) -> list[_Found]:
        found = []
        for path in self._paths():
            try:
                with path.open("rb") as file:
                    header = read_header(file.read(HEADER_BYTES))
            except NewerSegmentError as error:
                raise UnknownDirectoryFormatError(
                    f"{path} cannot be read: {error}; upgrade JanusKV or name another directory"
                ) from error
            if header is not None:
                found.append(_Found(header, path))
        return sorted(found)

    def _replay_segment(self, segment: _Found, take: Replay, needed: int) -> int:
        """The number after its last record."""
        data = memoryview(segment.path.read_bytes())
        number, at = segment.header.first, HEADER_BYTES
        while (place := read_record(data, at, number)) is not None:
            begin, at = place
            if number >= needed:
                take(list(read_operations(data, begin)))
            number += 1
        if is_damaged(data, at, number):
            raise DamagedFilesError(
                f"the log in {self.directory} is not whole: record {number} in {segment.path.name} "
                f"was synced and is damaged; {_REPAIR}"
            )
        return number

    def _gap(self, wanted: int, found: int) -> DamagedFilesError:
        return DamagedFilesError(
            f"the log in {self.directory} is not whole: record {wanted} is missing and it goes on "
            f"with {found}; {_REPAIR}"
        )

    def _adopt(self, path: Path) -> bool:
        """Make it a spare file; False if it is not wanted."""
        if len(self._spare) >= SPARE_SEGMENTS or not _is_name(path):
            return False
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if os.fstat(descriptor).st_size != self._segment_bytes:
            os.close(descriptor)
            return False
        os.fsync(descriptor)
        self._spare.append(_spare(path, descriptor))
        return True

    # --- writing -----------------------------------------------------------------------------

    def append(self, operations: Sequence[Operation]) -> None:
        number = self.last_number + 1
        pieces = pack_record(number, operations, self.synced_number)
        segment = self._segments[-1]
        at = segment.at
        if at + sum(map(len, pieces)) > self._segment_bytes and at > HEADER_BYTES:
            segment = self._rotate()
            at = segment.at
        for piece in pieces:
            at = _write(segment.descriptor, piece, at)
        segment.at = at
        segment.last = self.last_number = number

    def sync(self) -> None:
        """Everything appended is on the disk."""
        if self._header_due or not self.all_synced:
            os.fdatasync(self._segments[-1].descriptor)
            if not self.all_synced:
                self.synced_number = self.last_number
                self.syncs += 1
            self._header_synced()

    @property
    def all_synced(self) -> bool:
        return self.synced_number == self.last_number

    def begin_sync(self) -> BegunSync | None:
        """What somebody else has to fdatasync for everything appended; None: it is all synced."""
        if self.all_synced:
            return None
        return BegunSync(self._segments[-1].file.apart, self.last_number)

    def end_sync(self, number: int) -> None:
        """That has ended well. Segments before the one of `number` were synced when they ended."""
        self.synced_number = max(self.synced_number, number)
        self.syncs += 1
        self.syncs_apart += 1
        if number >= self._segments[-1].header.first:
            self._header_synced()

    def _header_synced(self) -> None:
        """Of the newest segment: what it calls folded no reader needs any more."""
        if self._header_due:
            self._header_due = False
            folded = self._segments[-1].header.folded
            while self._segments[0].last <= folded and len(self._segments) > 1:
                self._retire(self._segments.pop(0))

    def folded(self, number: int) -> None:
        """The tree has every record up to this one, synced."""
        assert self.folded_number <= number <= self.synced_number
        self.folded_number = number

    def mark(self) -> None:
        """What is folded stands in the newest header, so that a reader need not read it again."""
        if self._segments[-1].header.folded != self.folded_number:
            self._rotate()
            self.sync()

    @property
    def size_bytes(self) -> int:
        """Of the files on the disk."""
        return self._segment_bytes * (len(self._segments) + len(self._spare))

    def close(self) -> None:
        for file in (*(segment.file for segment in self._segments), *self._spare):
            file.close()
        self._segments.clear()
        self._spare.clear()

    # --- segments ----------------------------------------------------------------------------

    @property
    def wants_spare(self) -> bool:
        return not self._spare

    def prepare(self, pause: Callable[[], object] | None = None) -> None:
        """Make a spare file. Another thread may do it beside all other calls, so that whoever
        appends need not wait for a file that grows, nor for the disk: with a pause behind each part
        these come there one by one."""
        self._spare.append(self._create(pause))

    def _rotate(self) -> _Segment:
        self.sync()
        self._begin_segment()
        return self._segments[-1]

    def _begin_segment(self) -> None:
        spare = self._spare.pop() if self._spare else self._create()
        self._newest += 1
        header = self._header()
        _write(spare.descriptor, pack_header(header), 0)
        self._header_due = True
        self._segments.append(_Segment(spare, header))

    def _header(self) -> SegmentHeader:
        return SegmentHeader(self._newest, self.last_number + 1, self.folded_number)

    def _create(self, pause: Callable[[], object] | None = None) -> _Spare:
        path = self.directory / str(next(self._names))
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            for at in range(0, self._segment_bytes, len(_ZEROS)):
                _write(descriptor, _ZEROS[: self._segment_bytes - at], at)
                if pause is not None:
                    os.fdatasync(descriptor)
                    pause()
            os.fsync(descriptor)
            files.sync_directory(self.directory)
        except BaseException:
            os.close(descriptor)
            raise
        return _spare(path, descriptor)

    def _retire(self, segment: _Segment) -> None:
        if len(self._spare) >= SPARE_SEGMENTS:
            segment.file.close()
            with suppress(FileNotFoundError):
                segment.path.unlink()
            return
        if segment.at > self._segment_bytes:
            os.ftruncate(segment.descriptor, self._segment_bytes)
        self._spare.append(segment.file)


def _spare(path: Path, descriptor: int) -> _Spare:
    """Takes the descriptor over."""
    try:
        return _Spare(path, descriptor, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except BaseException:
        os.close(descriptor)
        raise


def _is_name(path: Path) -> bool:
    return path.name.isdecimal() and path.is_file()


def _write(descriptor: int, data: bytes, at: int) -> int:
    """Where it ends."""
    end = at + len(data)
    at += os.pwrite(descriptor, data, at)
    while at < end:
        at += os.pwrite(descriptor, data[at - end :], at)
    return end
