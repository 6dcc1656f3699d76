"""fdatasync by the kernel's own workers (Linux AIO): the one door to these system calls.

    submit(descriptor)  io_submit of one IOCB_CMD_FDSYNC: the kernel takes the file and returns
    descriptor          an eventfd, readable once that sync has ended; a loop watches it
    end()               its outcome: 0, or the number of the error

What a thread of our own would cost is not the sync but the interpreter lock: it is let go and taken
twice a batch, each time from a loop that has much to do. For the same reason the calls go through
PyDLL, which keeps the lock: none of them blocks (io_submit queues work, io_getevents is asked with
no time to wait, and io_destroy only comes after the last sync).

Where it does not work (another system, a kernel without it, a sandbox that forbids the calls,
fs.aio-max-nr used up) the constructor says why: it makes one real sync of a file in memory first,
which takes the whole way. Errors at `submit` mean that nothing was begun.

One sync at a time. A process that ends waits in the kernel for the one in flight, as it would for
a thread inside of fdatasync. It knows nothing of engines, logs and loops.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import select
import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from storage.errors import KernelSyncUnavailableError

PROBE_S: Final = 5.0
"""How long the sync of a file in memory may take."""
_FDSYNC: Final = 3
_FLAG_RESFD: Final = 1
_REQUESTS: Final = 1
_IOCB: Final = struct.Struct("=QIiHhIQQqQII")
"""data, key, rw_flags, opcode, priority, descriptor, buffer, bytes, offset, 0, flags, eventfd; so
on a little-endian machine."""
_EVENT: Final = struct.Struct("=QQqq")
"""data, iocb, result, second result."""
_NO_TIME: Final = bytes(16)


class Numbers(NamedTuple):
    """Of the system calls."""

    setup: int
    destroy: int
    submit: int
    getevents: int


NUMBERS: Final = {"x86_64": Numbers(206, 207, 209, 208), "aarch64": Numbers(0, 1, 2, 4)}
"""By architecture. Their ABI is that of 64-bit processes."""

SystemCall = Callable[..., int]
"""The result, or an error's number below zero."""


def system_call() -> SystemCall:
    """That of the C library, with the interpreter lock kept."""
    call = ctypes.PyDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long

    def called(*arguments: Any) -> int:
        result: int = call(*arguments)
        return result if result >= 0 else -ctypes.get_errno()

    return called


class KernelSync:
    """Invariant: `_in_flight` from a submit that was taken until `end` has told its outcome."""

    def __init__(self, call: SystemCall | None = None) -> None:
        """Raises KernelSyncUnavailableError, with the reason."""
        numbers = NUMBERS.get(platform.machine())
        if numbers is None or not hasattr(os, "eventfd") or struct.calcsize("P") != 8:
            raise KernelSyncUnavailableError(
                f"not known for {platform.system()} on {platform.machine()}"
            )
        self._call = system_call() if call is None else call
        self._context = ctypes.c_ulong(0)
        self._number = 0
        self._in_flight = False
        self._check(
            "io_setup",
            self._call(
                ctypes.c_long(numbers.setup),
                ctypes.c_uint(_REQUESTS),
                ctypes.byref(self._context),
            ),
        )
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._iocb = ctypes.create_string_buffer(_IOCB.size)
        self._list = (ctypes.c_void_p * 1)(ctypes.addressof(self._iocb))
        self._event = ctypes.create_string_buffer(_EVENT.size)
        self._no_time = ctypes.create_string_buffer(_NO_TIME, len(_NO_TIME))
        one = ctypes.c_long(1)
        self._submit = (ctypes.c_long(numbers.submit), self._context, one, self._list)
        self._getevents = (
            *(ctypes.c_long(numbers.getevents), self._context, one, one),
            *(self._event, self._no_time),
        )
        self._destroy = (ctypes.c_long(numbers.destroy), self._context)
        self._closed = False
        try:
            self._probe()
        except BaseException:
            if not self._in_flight:
                self.close()
            raise

    def _probe(self) -> None:
        file = os.memfd_create("janus-probe", os.MFD_CLOEXEC)
        try:
            os.write(file, b"probe")
            self.submit(file)
            self.wait(PROBE_S)
            if (code := self.end()) is None:  # io_destroy would wait for what does not come
                raise KernelSyncUnavailableError(f"a sync did not end within {PROBE_S:g} s")
            self._check("fdatasync", -code)
        except OSError as error:
            raise KernelSyncUnavailableError(f"io_submit: {error.strerror}") from error
        finally:
            os.close(file)

    def _check(self, what: str, result: int) -> None:
        if result == -errno.EAGAIN:
            raise KernelSyncUnavailableError(f"{what}: fs.aio-max-nr is used up; raise it")
        if result < 0:
            raise KernelSyncUnavailableError(f"{what}: {os.strerror(-result)}")

    def submit(self, descriptor: int) -> None:
        """Begin an fdatasync. OSError: nothing was begun."""
        assert not self._in_flight, "one sync at a time"
        self._number += 1
        _IOCB.pack_into(
            self._iocb,
            0,
            *(self._number, 0, 0, _FDSYNC, 0, descriptor, 0, 0, 0, 0),
            *(_FLAG_RESFD, self.descriptor),
        )
        taken = self._call(*self._submit)
        if taken != 1:
            code = -taken if taken < 0 else errno.EAGAIN
            raise OSError(code, os.strerror(code))
        self._in_flight = True

    @property
    def in_flight(self) -> bool:
        return self._in_flight

    def wait(self, timeout_s: float | None = None) -> None:
        """Until the sync in flight has ended, with the interpreter lock let go. None: as long as
        it takes."""
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        poll.poll(None if timeout_s is None else timeout_s * 1000)

    def end(self) -> int | None:
        """None if none has ended, else 0 or the number of the error. An outcome that the kernel
        does not tell is an error too."""
        try:
            os.eventfd_read(self.descriptor)
        except BlockingIOError:
            return None
        self._in_flight = False
        found = self._call(*self._getevents)  # the event is there before the eventfd is told
        if found != 1:
            return -found if found < 0 else errno.EIO
        number, _, result, _ = _EVENT.unpack_from(self._event)
        if number != self._number or result > 0:
            return errno.EIO
        return -int(result)

    def close(self) -> None:
        """Waits for a sync in flight; its outcome is lost."""
        if self._closed:
            return
        self._closed = True
        if self._in_flight:
            self.wait()
        self._call(*self._destroy)
        os.close(self.descriptor)
