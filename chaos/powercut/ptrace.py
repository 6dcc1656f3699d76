"""ptrace through ctypes: the few requests that the recorder needs, and a traced thread's memory.

PTRACE_GET_SYSCALL_INFO (Linux 5.3) gives a call's number, arguments and result in one form for
every architecture, so no register layout is known here. All requests for a traced process must come
from the thread that seized it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from dataclasses import dataclass
from typing import Final

from chaos.powercut.errors import RecordingError, TracingUnavailableError

_LISTEN: Final = 0x4208
_SEIZE: Final = 0x4206
_INTERRUPT: Final = 0x4207
_SYSCALL: Final = 24
_GET_SYSCALL_INFO: Final = 0x420E

# TRACESYSGOOD, FORK, VFORK, CLONE, EXEC, EXITKILL
_OPTIONS: Final = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x100000

EVENT_STOP: Final = 128
WALL: Final = 0x40000000
NO_OTHER_THREADS: Final = 0x20000000
"""waitpid only for the children and tracees of the calling thread (__WNOTHREAD)."""

_INFO: Final = struct.Struct("=B3xIQQ7Q")
_PATH_MAX: Final = 4096

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def _ptrace(request: int, tid: int, address: int = 0, data: int = 0) -> int:
    result: int = _libc.ptrace(request, tid, address, data)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def seize(pid: int) -> None:
    """Trace the process from now on, with all threads and children it will make."""
    try:
        _ptrace(_SEIZE, pid, 0, _OPTIONS)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS, errno.EIO, errno.EINVAL):
            raise
        raise TracingUnavailableError(
            f"this machine does not permit ptrace of a child process ({error.strerror}); allow it "
            "(a container needs a seccomp profile with ptrace or --cap-add SYS_PTRACE; "
            "kernel.yama.ptrace_scope must be below 3) and run again"
        ) from error


def interrupt(tid: int) -> None:
    _ptrace(_INTERRUPT, tid)


def resume(tid: int, signal: int = 0) -> None:
    """Go on to the next system call stop. A thread that was killed meanwhile is no error."""
    _ignore_dead(_SYSCALL, tid, signal)


def listen(tid: int) -> None:
    """Stay stopped by a job-control signal, but go on listening for the signal that ends it."""
    _ignore_dead(_LISTEN, tid, 0)


def _ignore_dead(request: int, tid: int, data: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        _ptrace(request, tid, 0, data)


@dataclass(frozen=True, slots=True)
class Entered:
    architecture: int
    number: int
    arguments: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Left:
    result: int


def system_call(tid: int) -> Entered | Left | None:
    """What a system call stop is about; None if the thread was killed meanwhile."""
    buffer = ctypes.create_string_buffer(_INFO.size + 64)
    try:
        _ptrace(_GET_SYSCALL_INFO, tid, len(buffer), ctypes.addressof(buffer))
    except ProcessLookupError:
        return None
    except OSError as error:
        raise TracingUnavailableError(
            f"PTRACE_GET_SYSCALL_INFO failed ({error.strerror}); it needs Linux 5.3 or newer"
        ) from error
    fields = _INFO.unpack_from(buffer.raw)
    operation, architecture = fields[0], fields[1]
    if operation == 1:
        return Entered(architecture, fields[4], fields[5:11])
    if operation == 2:
        return Left(fields[4] - (1 << 64) if fields[4] >> 63 else fields[4])
    raise RecordingError(f"a system call stop of kind {operation}, which should not occur")


class Tracee:
    """What can be asked about a stopped thread."""

    __slots__ = ("_proc", "tid")

    def __init__(self, tid: int) -> None:
        self.tid = tid
        self._proc = f"/proc/{tid}"

    def memory(self, address: int, size: int) -> bytes:
        """Short if the mapping ends before."""
        descriptor = os.open(f"{self._proc}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = []
            while size > 0:
                part = os.pread(descriptor, size, address)
                if not part:
                    break
                parts.append(part)
                address += len(part)
                size -= len(part)
            return b"".join(parts)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EFAULT):
                raise
            return b"".join(parts)
        finally:
            os.close(descriptor)

    def text(self, address: int) -> str:
        """A path given by address."""
        found = b""
        while b"\0" not in found and len(found) < _PATH_MAX:
            at = address + len(found)
            part = self.memory(at, 256 - at % 256)
            if not part:
                break
            found += part
        return os.fsdecode(found.split(b"\0", 1)[0])

    def vector(self, address: int, count: int) -> bytes:
        """The data of an array of struct iovec."""
        raw = self.memory(address, 16 * count)
        return b"".join(self.memory(base, size) for base, size in struct.iter_unpack("=QQ", raw))

    def process(self) -> int:
        """The id of the process that the thread is one of."""
        with open(f"{self._proc}/status", encoding="utf-8", errors="replace") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Tgid:"))

    def link(self, name: str) -> str:
        """Where /proc/TID/NAME points: cwd, fd/3."""
        return os.readlink(f"{self._proc}/{name}")

    def stat(self, descriptor: int) -> os.stat_result:
        return os.stat(f"{self._proc}/fd/{descriptor}")

    def position_and_flags(self, descriptor: int) -> tuple[int, int]:
        with open(f"{self._proc}/fdinfo/{descriptor}", encoding="ascii") as file:
            position = int(file.readline().split()[1])
            flags = int(file.readline().split()[1], 8)
        return position, flags

    def shared_mappings(self) -> list[tuple[int, int, str]]:
        """(start, end, path) of the shared mappings of files."""
        found = []
        with open(f"{self._proc}/maps", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                fields = line.split(maxsplit=5)
                if len(fields) == 6 and fields[1].endswith("s"):
                    start, end = (int(word, 16) for word in fields[0].split("-"))
                    found.append((start, end, fields[5].rstrip("\n")))
        return found
