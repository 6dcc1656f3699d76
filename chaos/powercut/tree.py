"""The recorded directory as the running system sees it: which file is which number.

A file's identity is its device and inode number. An inode number may be used again after its file
is gone, so a creation always takes a new id, whatever the number was before.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from chaos.powercut.errors import RecordingError
from chaos.powercut.recording import ROOT, Entry, FileId, InitialFile


class Tree:
    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)
        self._prefix = self.root + "/"
        self._ids: dict[tuple[int, int], FileId] = {}
        self._last = ROOT
        self._ids[_identity(os.stat(self.root))] = ROOT
        self.initial = tuple(self._scan(self.root))

    def _scan(self, directory: str) -> Iterator[InitialFile]:
        for item in sorted(os.scandir(directory), key=lambda found: found.name):
            about = item.stat(follow_symlinks=False)
            if not (stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)):
                raise RecordingError(f"{item.path} is neither a file nor a directory")
            entry = self.entry(item.path)
            known = self._ids.get(_identity(about))
            if item.is_dir():
                yield InitialFile(self.add(item.path), entry, None)
                yield from self._scan(item.path)
            elif known is not None:
                raise RecordingError(f"{item.path} has a second name; record from plain files")
            else:
                yield InitialFile(self.add(item.path), entry, Path(item.path).read_bytes())

    def add(self, path: str) -> FileId:
        """A file that was just created."""
        self._last += 1
        self._ids[_identity(os.lstat(path))] = self._last
        return self._last

    def id_of(self, about: os.stat_result) -> FileId | None:
        """None: not a file of this tree."""
        return self._ids.get(_identity(about))

    def id_at(self, path: str) -> FileId | None:
        """None: no such file, or not of this tree."""
        try:
            return self.id_of(os.lstat(path))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def holds(self, path: str) -> bool:
        """Whether the resolved path is the root or below it."""
        return path == self.root or path.startswith(self._prefix)

    def entry(self, path: str) -> Entry:
        parent, name = os.path.split(path)
        directory = self._ids.get(_identity(os.stat(parent)))
        if directory is None:
            raise RecordingError(f"the directory of {path} was made by a call that was not seen")
        return Entry(directory, name)


def _identity(about: os.stat_result) -> tuple[int, int]:
    return about.st_dev, about.st_ino
