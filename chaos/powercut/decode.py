"""From a system call to what it does to the tree.

`Decoder.enter` looks at a call before the kernel runs it (buffers and descriptors are as they will
be used) and gives back how to finish: a function from the call's result to its effect, or None if
the call does not concern the tree. Descriptors are looked up in /proc at each call, so dup, fcntl,
close and exec need no bookkeeping.

Refused with a RecordingError, because their effect could not be seen: writable shared mappings of
files that are not declared volatile, io_uring, asynchronous I/O other than syncs (submitted.py),
and calls that move data inside the kernel into a file of the tree (copy_file_range, sendfile,
splice, reflinks).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection
from typing import Final

from chaos.powercut.errors import RecordingError
from chaos.powercut.ptrace import Entered, Tracee
from chaos.powercut.recording import (
    Acknowledge,
    Create,
    Effect,
    FileId,
    Link,
    Remove,
    Rename,
    Resize,
    Scribble,
    Sync,
    Write,
    Zero,
)
from chaos.powercut.submitted import Begun, Ended, events, submitted
from chaos.powercut.syscalls import BY_ARCHITECTURE
from chaos.powercut.tree import Tree

Finish = Callable[[int | None], Effect | Begun | Ended | None]
"""From the result (None: the call never returned) to the effect (None: it had none), or to syncs
that go on after the call, or have ended before it."""

_AT_FDCWD: Final = -100
_O_DSYNC: Final = os.O_DSYNC
_RWF_DSYNC: Final = 0x2 | 0x4
_RWF_APPEND: Final = 0x10
_PROT_WRITE: Final = 0x2
_MAP_TYPE: Final = 0xF
_MAP_SHARED: Final = (1, 3)
_FALLOC_KEEP_SIZE: Final = 0x1
_FALLOC_PUNCH_HOLE: Final = 0x2
_FALLOC_ZERO_RANGE: Final = 0x10
_CLONE_IOCTLS: Final = (0x40049409, 0x4020940D, 0xC0189436)
_RENAME_NOREPLACE: Final = 0x1
_AT_REMOVEDIR: Final = 0x200


class Decoder:
    def __init__(self, tree: Tree, output: os.stat_result, volatile: Collection[str]) -> None:
        self._tree = tree
        self._output = (output.st_dev, output.st_ino)
        self._volatile = volatile
        self._handlers: dict[str, Callable[[Tracee, tuple[int, ...]], Finish | None]] = {
            "open": lambda t, a: self._open(t, _AT_FDCWD, a[0], a[1]),
            "creat": lambda t, a: self._open(
                t, _AT_FDCWD, a[0], os.O_CREAT | os.O_TRUNC | os.O_WRONLY
            ),
            "openat": lambda t, a: self._open(t, a[0], a[1], a[2]),
            "openat2": lambda t, a: self._open(
                t, a[0], a[1], int.from_bytes(t.memory(a[2], 8), "little")
            ),
            "write": lambda t, a: self._write(t, a[0], lambda: t.memory(a[1], a[2]), None),
            "writev": lambda t, a: self._write(t, a[0], lambda: t.vector(a[1], a[2]), None),
            "pwrite64": lambda t, a: self._write(t, a[0], lambda: t.memory(a[1], a[2]), a[3]),
            "pwritev": lambda t, a: self._write(t, a[0], lambda: t.vector(a[1], a[2]), a[3]),
            "pwritev2": lambda t, a: self._write(
                t, a[0], lambda: t.vector(a[1], a[2]), None if _signed64(a[3]) == -1 else a[3], a[5]
            ),
            "fsync": lambda t, a: self._sync(t, a[0]),
            "fdatasync": lambda t, a: self._sync(t, a[0]),
            "sync": lambda t, a: _if_done(Sync(None)),
            "syncfs": lambda t, a: _if_done(Sync(None)),
            "truncate": lambda t, a: self._truncate_path(t, a[0], a[1]),
            "ftruncate": lambda t, a: self._truncate(self._file(t, a[0]), a[1]),
            "fallocate": lambda t, a: self._allocate(t, a[0], a[1], a[2], a[3]),
            "mkdir": lambda t, a: self._make_directory(t, _AT_FDCWD, a[0]),
            "mkdirat": lambda t, a: self._make_directory(t, a[0], a[1]),
            "unlink": lambda t, a: self._remove(t, _AT_FDCWD, a[0]),
            "rmdir": lambda t, a: self._remove(t, _AT_FDCWD, a[0]),
            "unlinkat": lambda t, a: self._remove(t, a[0], a[1]),
            "rename": lambda t, a: self._rename(t, _AT_FDCWD, a[0], _AT_FDCWD, a[1], 0),
            "renameat": lambda t, a: self._rename(t, a[0], a[1], a[2], a[3], 0),
            "renameat2": lambda t, a: self._rename(t, a[0], a[1], a[2], a[3], a[4]),
            "link": lambda t, a: self._link(t, _AT_FDCWD, a[0], _AT_FDCWD, a[1]),
            "linkat": lambda t, a: self._link(t, a[0], a[1], a[2], a[3]),
            "symlink": lambda t, a: self._refuse_path(t, "symlink", _AT_FDCWD, a[1]),
            "symlinkat": lambda t, a: self._refuse_path(t, "symlinkat", a[1], a[2]),
            "mknod": lambda t, a: self._refuse_path(t, "mknod", _AT_FDCWD, a[0]),
            "mknodat": lambda t, a: self._refuse_path(t, "mknodat", a[0], a[1]),
            "copy_file_range": lambda t, a: self._refuse_file(t, "copy_file_range", a[2]),
            "sendfile": lambda t, a: self._refuse_file(t, "sendfile", a[0]),
            "splice": lambda t, a: self._refuse_file(t, "splice", a[2]),
            "ioctl": self._ioctl,
            "mmap": lambda t, a: self._map(t, a[2], a[3], a[4]),
            "mprotect": lambda t, a: self._protect(t, a[0], a[1], a[2]),
            "pkey_mprotect": lambda t, a: self._protect(t, a[0], a[1], a[2]),
            "io_uring_setup": _refuse("io_uring_setup"),
            "io_submit": lambda t, a: submitted(t, a, lambda d: self._file_id(t, d)),
            "io_getevents": events,
            "io_pgetevents": _refuse("io_pgetevents"),
            "open_by_handle_at": _refuse("open_by_handle_at"),
            # No promise and no effect in the model: listed so that they are counted.
            "sync_file_range": lambda t, a: None,
            "msync": lambda t, a: None,
        }

    def name_of(self, call: Entered) -> str | None:
        """The call's name if it is one to look at."""
        try:
            return BY_ARCHITECTURE[call.architecture].get(call.number)
        except KeyError:
            raise RecordingError(
                f"a process of architecture {call.architecture:#x} (a 32-bit one?); only x86-64 "
                "and aarch64 are known"
            ) from None

    def enter(self, tid: int, name: str, arguments: tuple[int, ...]) -> Finish | None:
        return self._handlers[name](Tracee(tid), arguments)

    # --- where ---

    def _path(self, tracee: Tracee, directory: int, address: int) -> str | None:
        """The path with its directory resolved (not its last part); None if outside the tree."""
        given = tracee.text(address)
        if not given.startswith("/"):
            directory = _signed32(directory)
            base = "cwd" if directory == _AT_FDCWD else f"fd/{directory}"
            try:
                given = os.path.join(tracee.link(base), given)
            except FileNotFoundError:
                return None
        parent, name = os.path.split(given.rstrip("/"))
        path = os.path.join(os.path.realpath(parent), name)
        return path if self._tree.holds(path) else None

    def _file(self, tracee: Tracee, descriptor: int) -> tuple[FileId, os.stat_result] | None:
        try:
            about = tracee.stat(_signed32(descriptor))
        except OSError:
            return None  # not an open descriptor: the call will fail
        file = self._tree.id_of(about)
        return None if file is None else (file, about)

    def _file_id(self, tracee: Tracee, descriptor: int) -> FileId | None:
        found = self._file(tracee, descriptor)
        return None if found is None else found[0]

    # --- data ---

    def _write(
        self,
        tracee: Tracee,
        descriptor: int,
        data: Callable[[], bytes],
        offset: int | None,
        flags: int = 0,
    ) -> Finish | None:
        descriptor = _signed32(descriptor)
        try:
            about = tracee.stat(descriptor)
        except OSError:
            return None
        if (about.st_dev, about.st_ino) == self._output:
            text = data()
            return lambda result: Acknowledge(text)
        file = self._tree.id_of(about)
        if file is None or not stat.S_ISREG(about.st_mode):
            return None
        position, open_flags = tracee.position_and_flags(descriptor)
        if open_flags & os.O_APPEND or flags & _RWF_APPEND:
            at = about.st_size
        else:
            at = position if offset is None else offset
        whole = data()
        synced = bool(open_flags & _O_DSYNC or flags & _RWF_DSYNC)
        known: FileId = file

        def finish(result: int | None) -> Effect | None:
            written = len(whole) if result is None else result
            if written <= 0:
                return None
            return Write(known, at, whole[:written], synced)

        return finish

    def _sync(self, tracee: Tracee, descriptor: int) -> Finish | None:
        found = self._file(tracee, descriptor)
        return None if found is None else _if_done(Sync(found[0]))

    def _truncate(self, found: tuple[FileId, os.stat_result] | None, size: int) -> Finish | None:
        return None if found is None else _if_done(Resize(found[0], size))

    def _truncate_path(self, tracee: Tracee, address: int, size: int) -> Finish | None:
        path = self._path(tracee, _AT_FDCWD, address)
        file = None if path is None else self._tree.id_at(path)
        return None if file is None else _if_done(Resize(file, size))

    def _allocate(
        self, tracee: Tracee, descriptor: int, mode: int, offset: int, length: int
    ) -> Finish | None:
        found = self._file(tracee, descriptor)
        if found is None:
            return None
        file, about = found
        if mode & ~(_FALLOC_KEEP_SIZE | _FALLOC_PUNCH_HOLE | _FALLOC_ZERO_RANGE):
            raise RecordingError(f"fallocate with mode {mode:#x} is not modelled")
        if mode & (_FALLOC_PUNCH_HOLE | _FALLOC_ZERO_RANGE):
            end = min(offset + length, about.st_size)
            if not mode & _FALLOC_KEEP_SIZE and offset + length > about.st_size:
                raise RecordingError("fallocate that zeroes and grows in one is not modelled")
            return _if_done(Zero(file, offset, end - offset)) if end > offset else None
        if mode & _FALLOC_KEEP_SIZE or offset + length <= about.st_size:
            return None
        return _if_done(Resize(file, offset + length))

    # --- names ---

    def _open(self, tracee: Tracee, directory: int, address: int, flags: int) -> Finish | None:
        if not flags & (os.O_CREAT | os.O_TRUNC):
            return None
        path = self._path(tracee, directory, address)
        if path is None:
            return None
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise RecordingError(f"{path}: O_TMPFILE is not modelled")
        try:
            before = os.stat(path)
        except FileNotFoundError:
            known_path = path

            def created(result: int | None) -> Effect | None:
                if not _done(result) or not os.path.exists(known_path):
                    return None
                return Create(self._tree.add(known_path), self._tree.entry(known_path))

            return created
        file = self._tree.id_of(before)
        if file is None or not flags & os.O_TRUNC or before.st_size == 0:
            return None
        return _if_done(Resize(file, 0))

    def _make_directory(self, tracee: Tracee, directory: int, address: int) -> Finish | None:
        path = self._path(tracee, directory, address)
        if path is None or os.path.lexists(path):
            return None
        known_path = path

        def finish(result: int | None) -> Effect | None:
            if not _done(result) or not os.path.isdir(known_path):
                return None
            entry = self._tree.entry(known_path)
            return Create(self._tree.add(known_path), entry, directory=True)

        return finish

    def _remove(self, tracee: Tracee, directory: int, address: int) -> Finish | None:
        path = self._path(tracee, directory, address)
        file = None if path is None else self._tree.id_at(path)
        if path is None or file is None:
            return None
        return _if_done(Remove(file, self._tree.entry(path)))

    def _rename(
        self,
        tracee: Tracee,
        old_directory: int,
        old_address: int,
        new_directory: int,
        new_address: int,
        flags: int,
    ) -> Finish | None:
        source = self._path(tracee, old_directory, old_address)
        target = self._path(tracee, new_directory, new_address)
        if source is None and target is None:
            return None
        if source is None or target is None:
            raise RecordingError(f"a rename across the edge of the tree: {source} to {target}")
        if flags & ~_RENAME_NOREPLACE:
            raise RecordingError(f"renameat2 with flags {flags:#x} is not modelled")
        file, replaced = self._tree.id_at(source), self._tree.id_at(target)
        if file is None or file == replaced:
            return None
        entries = self._tree.entry(source), self._tree.entry(target)
        return _if_done(Rename(file, *entries, replaced))

    def _link(
        self,
        tracee: Tracee,
        old_directory: int,
        old_address: int,
        new_directory: int,
        new_address: int,
    ) -> Finish | None:
        target = self._path(tracee, new_directory, new_address)
        if target is None:
            return None
        source = self._path(tracee, old_directory, old_address)
        file = None if source is None else self._tree.id_at(source)
        if file is None:
            raise RecordingError(f"{target} was linked from outside the recorded directory")
        return _if_done(Link(file, self._tree.entry(target)))

    # --- what cannot be seen ---

    def _map(self, tracee: Tracee, protection: int, flags: int, descriptor: int) -> Finish | None:
        if not protection & _PROT_WRITE or flags & _MAP_TYPE not in _MAP_SHARED:
            return None
        descriptor = _signed32(descriptor)
        found = None if descriptor < 0 else self._file(tracee, descriptor)
        if found is None:
            return None
        path = tracee.link(f"fd/{descriptor}")
        self._check_volatile(path)
        return _if_mapped(Scribble(found[0]))

    def _protect(self, tracee: Tracee, start: int, length: int, protection: int) -> Finish | None:
        if protection & _PROT_WRITE:
            for first, end, path in tracee.shared_mappings():
                if first < start + length and start < end and self._tree.holds(path):
                    self._check_volatile(path)
        return None

    def _check_volatile(self, path: str) -> None:
        if os.path.basename(path) not in self._volatile:
            raise RecordingError(
                f"{path} is mapped shared and writable: what is written through the mapping cannot "
                "be seen; open the engine without such a mapping, or declare the file volatile if "
                "its content means nothing after a restart"
            )

    def _ioctl(self, tracee: Tracee, arguments: tuple[int, ...]) -> Finish | None:
        if arguments[1] & 0xFFFFFFFF in _CLONE_IOCTLS:
            return self._refuse_file(tracee, "ioctl(FICLONE)", arguments[0])
        return None

    def _refuse_file(self, tracee: Tracee, name: str, descriptor: int) -> Finish | None:
        if self._file(tracee, descriptor) is not None:
            path = tracee.link(f"fd/{_signed32(descriptor)}")
            raise RecordingError(f"{name} writes to {path} inside the kernel: its data is not seen")
        return None

    def _refuse_path(
        self, tracee: Tracee, name: str, directory: int, address: int
    ) -> Finish | None:
        path = self._path(tracee, directory, address)
        if path is not None:
            raise RecordingError(f"{name} made {path}, which is not modelled")
        return None


def _refuse(name: str) -> Callable[[Tracee, tuple[int, ...]], Finish | None]:
    def handler(tracee: Tracee, arguments: tuple[int, ...]) -> Finish | None:
        raise RecordingError(f"the process calls {name}: what goes through it cannot be seen")

    return handler


def _done(result: int | None) -> bool:
    return result is None or result >= 0


def _if_done(effect: Effect) -> Finish:
    return lambda result: effect if _done(result) else None


def _if_mapped(effect: Effect) -> Finish:
    """mmap gives an address, or a small negative number."""
    return lambda result: None if result is not None and -4096 < result < 0 else effect


def _signed32(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def _signed64(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
