"""A disk that can lose power: a recording is played into it, images are drawn from it. Pure.

The model, conservative but what Linux file systems do (ext4 in its default mode, XFS, btrfs):

1. fsync and fdatasync make durable what was written to that file by calls left before they were
   entered, and its length; they count once they are left. sync and syncfs do so for every file. A
   sync given to the kernel's workers is entered with its io_submit, and is left with the
   io_getevents that gives back its event with the result 0 (submitted.py).
2. A write through an O_DSYNC or O_SYNC descriptor makes its own sectors durable, with whatever was
   written to these sectors before, and the length that it needs; nothing else of the file.
3. sync_file_range and msync promise nothing and are no events (msync could matter only for a
   writable mapping, and the recorder refuses those).
4. A name is durable after a sync of its directory; under Entries.FILE_SYNC (the default) also after
   a sync of the file itself, because creating and syncing it commit the same journal. Renames are
   atomic. What an operation depends on is durable with it (namespace.py).
5. All else is undecided: any sector, any length, any name may be as old as its durable state, as
   new as the last call entered before the cut, or anything in between, each on its own
   (filestate.py, namespace.py). Calls under way at the cut are undecided too.
6. Sectors of 512 bytes are written whole or not at all; a sector that was never written reads as
   zeros, never as somebody's old data. The disk obeys flushes: what it called durable stays.
7. A volatile file (mapped shared and writable with the caller's leave: LMDB's lock table) may hold
   anything: nothing, zeros, noise.

Where ext4 promises more (a commit of the journal takes all earlier names with it; data before
length in ordered mode) the model does not count on it.

Draws: the dice pick a mood first (lose everything unsynced; keep everything; as of a moment in the
past; per file a mixture), then details. The mixture is drawn per file, so that one file may be far
ahead of another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from chaos.powercut.errors import RecordingError
from chaos.powercut.filestate import NEVER, PAGE_BYTES, SECTOR_BYTES, Dice, FileState, Mood
from chaos.powercut.namespace import Entries, Namespace, paths
from chaos.powercut.recording import (
    ROOT,
    Acknowledge,
    Call,
    Create,
    FileId,
    Link,
    Recording,
    Remove,
    Rename,
    Resize,
    Scribble,
    Sync,
    Write,
    Zero,
)

KEEP_CHOICES: Final = (0.0, 0.1, 0.5, 0.9, 1.0)


@dataclass(frozen=True, slots=True)
class Image:
    """The content of a directory after a power cut. Paths are relative, with slashes."""

    files: dict[str, bytes]
    directories: tuple[str, ...]
    """Parents stand before children."""
    mood: str
    """How it was drawn, for people."""


class Disk:
    """Play calls with `advance`, in order; draw images at any moment between."""

    def __init__(self, recording: Recording, entries: Entries = Entries.FILE_SYNC) -> None:
        self._stops = _stops(recording)
        self._next = 0
        self._names = Namespace(entries, recording.initial)
        self._files: dict[FileId, FileState] = {}
        self._directories: set[FileId] = {ROOT}
        for item in recording.initial:
            if item.content is None:
                self._directories.add(item.file)
            else:
                self._files[item.file] = FileState(item.content)

    def advance(self, position: int) -> None:
        """Let everything before this position happen: calls entered, and calls left."""
        while self._next < len(self._stops) and self._stops[self._next][0] < position:
            _, left, call = self._stops[self._next]
            self._next += 1
            if left:
                self._leave(call)
            else:
                self._enter(call)

    def _enter(self, call: Call) -> None:
        order = call.entered
        left = NEVER if call.left is None else call.left
        match call.effect:
            case Write() as write:
                self._file(write.file).write(order, left, write.offset, write.data)
            case Resize() as resize:
                self._file(resize.file).resize(order, left, resize.size)
            case Zero() as zero:
                self._file(zero.file).zero(order, left, zero.offset, zero.length)
            case Scribble() as scribble:
                self._file(scribble.file).volatile = True
            case Create() as create:
                if create.directory:
                    self._directories.add(create.file)
                else:
                    self._files[create.file] = FileState()
                self._names.change(order, left, create)
            case Link() | Remove() | Rename() as change:
                self._names.change(order, left, change)
            case Sync() | Acknowledge():
                pass  # counts when it is left, or not at all

    def _leave(self, call: Call) -> None:
        match call.effect:
            case Sync(file=None):
                for state in self._files.values():
                    state.sync(call.entered)
                self._names.sync_all(call.entered)
            case Sync(file=int() as file):
                if file in self._files:
                    self._files[file].sync(call.entered)
                self._names.sync(call.entered, file)
            case Write(synced=True) as write if write.data:
                end = write.offset + len(write.data)
                self._file(write.file).sync_range(call.entered, call.entered, write.offset, end)
                self._names.sync(call.entered, write.file)
            case _:
                pass

    def draw(self, dice: Dice) -> Image:
        """One image of the many that a power cut at this moment may leave."""
        tear = SECTOR_BYTES if dice.random() < 0.7 else PAGE_BYTES
        kind = dice.randrange(0, 8)
        if kind == 0:
            common, text = Mood(0.0, tear, as_of=-1), "everything unsynced is lost"
        elif kind == 1:
            common, text = Mood(1.0, tear, as_of=NEVER), "everything is kept"
        elif kind == 2:
            last = self._stops[self._next - 1][0] if self._next else 0
            moment = dice.randrange(0, last + 1)
            common, text = Mood(1.0, tear, as_of=moment), f"as of position {moment}"
        else:
            common, text = None, f"mixture torn at {tear}"
        names = self._names.draw(dice, common or _some_mood(dice, tear))
        contents: dict[FileId, bytes] = {}

        def content(file: FileId) -> bytes:
            if file not in contents:
                contents[file] = self._file(file).content(dice, common or _some_mood(dice, tear))
            return contents[file]

        found = paths(names)
        files = {path: content(file) for path, file in found.items() if file in self._files}
        return Image(files, self._directory_paths(found), text)

    def latest(self) -> Image:
        """What the machine sees without a power cut; volatile files are left out."""
        found = paths(self._names.latest())
        files = {
            path: self._files[file].latest()
            for path, file in found.items()
            if file in self._files and not self._files[file].volatile
        }
        return Image(files, self._directory_paths(found), "no power cut")

    def _directory_paths(self, found: dict[str, FileId]) -> tuple[str, ...]:
        return tuple(path for path, file in found.items() if file in self._directories)

    def _file(self, file: FileId) -> FileState:
        try:
            return self._files[file]
        except KeyError:
            raise RecordingError(
                f"the recording changes file {file} before it creates it; it is not complete"
            ) from None


def _some_mood(dice: Dice, tear_bytes: int) -> Mood:
    return Mood(KEEP_CHOICES[dice.randrange(0, len(KEEP_CHOICES))], tear_bytes)


def _stops(recording: Recording) -> list[tuple[int, bool, Call]]:
    """(position, left?, call) in order of position."""

    def all_stops() -> Iterator[tuple[int, bool, Call]]:
        for call in recording.calls:
            yield call.entered, False, call
            if call.left is not None:
                yield call.left, True, call

    return sorted(all_stops(), key=lambda stop: stop[0])
