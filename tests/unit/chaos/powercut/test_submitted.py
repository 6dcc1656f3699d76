"""Syncs that the kernel's workers make: what their calls say, in hand-made memory."""

from __future__ import annotations

import struct

import pytest

from chaos.powercut.errors import RecordingError
from chaos.powercut.recording import Sync
from chaos.powercut.submitted import Begun, Ended, Request, events, submitted

FSYNC, FDSYNC, WRITE = 2, 3, 1
PROCESS, CONTEXT, ARRAY, IOCBS, EVENTS = 9, 0xC0, 1_000, 2_000, 3_000
FILES = {5: 50, 6: 60}
"""By descriptor; others are not of the tree."""


class Memory:
    def __init__(self, *parts: tuple[int, bytes]) -> None:
        self.parts = dict(parts)

    def memory(self, address: int, size: int) -> bytes:
        return self.parts.get(address, b"")[:size]

    def process(self) -> int:
        return PROCESS


def iocb(opcode: int, descriptor: int) -> bytes:
    return struct.pack("=QIiHhIQQqQII", 7, 0, 0, opcode, 0, descriptor, 0, 0, 0, 0, 1, 8)


def requests(*wanted: tuple[int, int]) -> Memory:
    addresses = [IOCBS + 64 * index for index in range(len(wanted))]
    return Memory(
        (ARRAY, struct.pack(f"={len(wanted)}Q", *addresses)),
        *((at, iocb(*each)) for at, each in zip(addresses, wanted, strict=True)),
    )


def begun(memory: Memory, count: int, result: int | None) -> Begun | None:
    finish = submitted(memory, (CONTEXT, count, ARRAY, 0, 0, 0), FILES.get)
    return None if finish is None else finish(result)


def request(index: int) -> Request:
    return Request(PROCESS, CONTEXT, IOCBS + 64 * index)


def test_syncs_of_files_of_the_tree_are_under_way() -> None:
    memory = requests((FDSYNC, 5), (FDSYNC, 99), (FSYNC, 6))
    assert begun(memory, 3, 3) == Begun(
        ((request(0), Sync(50, by_kernel=True)), (request(2), Sync(60, by_kernel=True)))
    )


@pytest.mark.parametrize(("result", "taken"), [(2, 2), (1, 1), (0, 0), (-22, 0), (None, 0)])
def test_only_what_the_kernel_took_is_under_way(result: int | None, taken: int) -> None:
    found = begun(requests((FDSYNC, 5), (FDSYNC, 6)), 2, result)
    assert found is not None
    assert [each for each, _ in found.syncs] == [request(0), request(1)][:taken]


def test_what_does_not_concern_the_tree_is_passed_over() -> None:
    assert begun(requests((WRITE, 99), (FDSYNC, 98)), 2, 2) is None


def test_a_write_to_a_file_of_the_tree_is_refused() -> None:
    with pytest.raises(RecordingError, match="a request of kind 1: what goes through it cannot be"):
        begun(requests((FDSYNC, 5), (WRITE, 6)), 2, 2)


def test_memory_that_is_not_there_ends_the_requests() -> None:
    memory = requests((FDSYNC, 5), (FDSYNC, 6))
    del memory.parts[IOCBS]
    assert begun(memory, 2, -14) is None


def event(index: int, first: int, second: int = 0) -> bytes:
    return struct.pack("=QQqq", 7, IOCBS + 64 * index, first, second)


def ended(result: int | None, *found: bytes) -> Ended | None:
    memory = Memory((EVENTS, b"".join(found)))
    return events(memory, (CONTEXT, 1, 8, EVENTS, 0, 0))(result)


def test_a_sync_has_ended_well_only_with_the_result_zero() -> None:
    found = ended(4, event(0, 0), event(1, -5), event(2, 1), event(3, 0, second=-5))
    assert found == Ended((request(0),), (request(1), request(2), request(3)))


@pytest.mark.parametrize("result", [0, -4, None])
def test_no_event_ends_nothing(result: int | None) -> None:
    assert ended(result, event(0, 0)) is None


def test_only_as_many_events_as_were_given_back_count() -> None:
    assert ended(1, event(0, 0), event(1, 0)) == Ended((request(0),), ())
