"""Syncs that the kernel's workers make (Linux AIO): the calls that begin them and tell their end.

    io_submit      an fdatasync or fsync of a file of the tree begins once the call is entered, if
                   it is taken: of N requests the kernel takes the first so many, and says how many
    io_getevents   gives back which have ended, and with what result

So such a sync is entered with the io_submit and left with the io_getevents that brings the result
0 (disk.py, rule 1). One whose event nobody fetches never counts, nor does a failed one: a program
that reads the kernel's ring itself seems to promise more than it keeps, never less.

Refused: any other request for a file of the tree. A request is known by its process, its context
and the address of its iocb, which the event names. Pure, but for the memory that it is given.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from chaos.powercut.errors import RecordingError
from chaos.powercut.recording import FileId, Sync

_IOCB: Final = struct.Struct("=16xHhI40x")
"""opcode, priority, descriptor"""
_EVENT: Final = struct.Struct("=8xQqq")
"""address of the iocb, result, second result"""
_SYNCS: Final = (2, 3)


class Memory(Protocol):
    """The part of a Tracee that is asked."""

    def memory(self, address: int, size: int) -> bytes: ...

    def process(self) -> int: ...


class Request(NamedTuple):
    process: int
    context: int
    iocb: int


@dataclass(frozen=True, slots=True)
class Begun:
    """These syncs are under way."""

    syncs: tuple[tuple[Request, Sync], ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """These requests have ended."""

    well: tuple[Request, ...]
    badly: tuple[Request, ...]


def submitted(
    tracee: Memory,
    arguments: Sequence[int],
    file_of: Callable[[int], FileId | None],
) -> Callable[[int | None], Begun | None] | None:
    """On entering io_submit. `file_of`: which file of the tree a descriptor is, if any."""
    context, count, array = arguments[:3]
    process = tracee.process()
    found: list[tuple[Request, Sync] | None] = []
    for (address,) in struct.iter_unpack("=Q", tracee.memory(array, 8 * count)):
        iocb = tracee.memory(address, _IOCB.size)
        if len(iocb) < _IOCB.size:
            break  # the kernel takes none from here on
        opcode, _, descriptor = _IOCB.unpack(iocb)
        file = file_of(descriptor)
        if file is None:
            found.append(None)
        elif opcode in _SYNCS:
            found.append((Request(process, context, address), Sync(file, by_kernel=True)))
        else:
            raise RecordingError(
                f"io_submit of a request of kind {opcode}: what goes through it cannot be seen; "
                "only syncs can"
            )
    if not any(found):
        return None

    def finish(result: int | None) -> Begun | None:
        taken = 0 if result is None else max(result, 0)
        return Begun(tuple(each for each in found[:taken] if each is not None))

    return finish


def events(tracee: Memory, arguments: Sequence[int]) -> Callable[[int | None], Ended | None]:
    """On entering io_getevents."""
    context, _, _, array = arguments[:4]
    process = tracee.process()

    def finish(result: int | None) -> Ended | None:
        if result is None or result <= 0:
            return None
        outcomes: dict[bool, list[Request]] = {True: [], False: []}
        for iocb, first, second in _EVENT.iter_unpack(tracee.memory(array, _EVENT.size * result)):
            outcomes[first == second == 0].append(Request(process, context, iocb))
        return Ended(tuple(outcomes[True]), tuple(outcomes[False]))

    return finish
