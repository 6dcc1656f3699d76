"""Names between the page cache and the disk: directories, renames, removals. Pure.

Each change of names (create, link, remove, rename) is atomic: on the disk whole or not at all. What
is pending may reach the disk in another order than it happened, but never against its nature: a
change stays behind an earlier pending one that it depends on, which is one that touches the same
name or the same file, or made or emptied the directory it works in.

What makes a change durable (the rule is a parameter, Entries):
- a sync of a directory that it touches, always;
- FILE_SYNC, as ext4, XFS and btrfs behave: also a sync of the file that it names;
- DIRECTORY_SYNC, as POSIX promises: nothing else.
A change takes what it depends on with it; but under DIRECTORY_SYNC not the making of the directory
it works in: until that is durable too, all that the directory holds is out of reach.

An image keeps pending changes in one of two ways, drawn by dice: a prefix in time (what a journal
does), or, under FILE_SYNC, any subset that respects the dependencies. DIRECTORY_SYNC stands for a
file system that promises less of a sync but has a journal: names reach it in order. (RocksDB needs
one of the two. It syncs a new MANIFEST but not its name before it renames CURRENT to point there.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from chaos.powercut.filestate import Dice, Mood
from chaos.powercut.recording import (
    ROOT,
    Create,
    Entry,
    FileId,
    InitialFile,
    Link,
    NameChange,
    Remove,
    Rename,
)


class Entries(StrEnum):
    FILE_SYNC = "file-sync"
    DIRECTORY_SYNC = "directory-sync"


Names = dict[Entry, FileId]


@dataclass(frozen=True, slots=True)
class Pending:
    order: int
    left: int
    edits: tuple[tuple[Entry, FileId | None], ...]
    files: frozenset[FileId]
    """The files that are named or lose a name."""
    directories: frozenset[FileId] = field(default_factory=frozenset)
    """The directories that it works in."""

    def depends_on(self, earlier: Pending) -> bool:
        return (
            self.touches_what(earlier)
            or not self.directories.isdisjoint(earlier.files)
            or not self.files.isdisjoint(earlier.directories)
        )

    def touches_what(self, earlier: Pending) -> bool:
        mine = {entry for entry, _ in self.edits}
        return not self.files.isdisjoint(earlier.files) or not mine.isdisjoint(
            entry for entry, _ in earlier.edits
        )


class Namespace:
    def __init__(self, entries: Entries, initial: Iterable[InitialFile] = ()) -> None:
        self._rule = entries
        self.durable: Names = {item.entry: item.file for item in initial}
        self.pending: list[Pending] = []

    def change(self, order: int, left: int, change: NameChange) -> None:
        edits: tuple[tuple[Entry, FileId | None], ...]
        files = {change.file}
        match change:
            case Create() | Link():
                edits = ((change.entry, change.file),)
            case Remove():
                edits = ((change.entry, None),)
            case Rename():
                edits = ((change.source, None), (change.target, change.file))
                if change.replaced is not None:
                    files.add(change.replaced)
        directories = frozenset(entry.directory for entry, _ in edits)
        self.pending.append(Pending(order, left, edits, frozenset(files), directories))

    def sync(self, before: int, file: FileId) -> None:
        """The file or directory was synced: what is covered by the rule and was left before this
        position is durable, with all that it depends on."""
        self._settle(
            index
            for index, change in enumerate(self.pending)
            if change.left < before
            and (
                file in change.directories
                or (self._rule is Entries.FILE_SYNC and file in change.files)
            )
        )

    def sync_all(self, before: int) -> None:
        self._settle(i for i, change in enumerate(self.pending) if change.left < before)

    def _settle(self, indexes: Iterable[int]) -> None:
        settled = set(indexes)
        along = Pending.depends_on if self._rule is Entries.FILE_SYNC else Pending.touches_what
        for index in range(len(self.pending) - 1, -1, -1):
            if index in settled:
                settled.update(
                    earlier
                    for earlier in range(index)
                    if along(self.pending[index], self.pending[earlier])
                )
        for index in sorted(settled):
            _apply(self.durable, self.pending[index])
        self.pending = [c for i, c in enumerate(self.pending) if i not in settled]

    def draw(self, dice: Dice, mood: Mood) -> Names:
        """The names that a power cut at this moment may leave."""
        names = dict(self.durable)
        ordered = self._rule is Entries.DIRECTORY_SYNC or mood.as_of is not None
        if ordered or dice.random() < 0.5:
            taken = mood.taken([change.order for change in self.pending], dice)
            for change in self.pending[:taken]:
                _apply(names, change)
            return names
        lost: list[Pending] = []
        for change in self.pending:
            if any(change.depends_on(other) for other in lost) or dice.random() >= mood.keep:
                lost.append(change)
            else:
                _apply(names, change)
        return names

    def latest(self) -> Names:
        names = dict(self.durable)
        for change in self.pending:
            _apply(names, change)
        return names


def _apply(names: Names, change: Pending) -> None:
    for entry, file in change.edits:
        if file is None:
            names.pop(entry, None)
        else:
            names[entry] = file


def paths(names: Names) -> dict[str, FileId]:
    """Every name reachable from the root as a path with slashes, parents before children."""
    children: dict[FileId, list[tuple[str, FileId]]] = {}
    for entry, file in names.items():
        children.setdefault(entry.directory, []).append((entry.name, file))
    found: dict[str, FileId] = {}
    waiting = [("", ROOT)]
    while waiting:
        prefix, directory = waiting.pop()
        for name, file in sorted(children.get(directory, ())):
            found[prefix + name] = file
            waiting.append((f"{prefix}{name}/", file))
    return found
