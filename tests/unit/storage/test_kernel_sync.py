"""The kernel's own syncs: what they do, what they say of failures, and where there are none."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage import kernel_sync
from storage.errors import KernelSyncUnavailableError
from storage.kernel_sync import NUMBERS, KernelSync, system_call

WAIT_S = 30.0
HEADERS = {
    "x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
    "aarch64": "/usr/include/asm-generic/unistd.h",
}


def unavailable() -> str | None:
    try:
        KernelSync().close()
    except KernelSyncUnavailableError as error:
        return str(error)
    return None


WHY_NOT = unavailable()
works = pytest.mark.skipif(WHY_NOT is not None, reason=f"the kernel does not sync here: {WHY_NOT}")


class Calls:
    """The real calls, but for some whose results are given, and with the outcome of a sync."""

    def __init__(self, **results: int) -> None:
        self._real = system_call()
        numbers = NUMBERS[platform.machine()]
        self._names = dict(zip(numbers, numbers._fields, strict=True))
        self.results = results
        self.outcome: int | None = None
        self.made: list[str] = []

    def __call__(self, number: ctypes.c_long, *arguments: Any) -> int:
        name = self._names[number.value]
        self.made.append(name)
        if name in self.results:
            return self.results[name]
        result = self._real(number, *arguments)
        if name == "getevents" and self.outcome is not None:
            struct.pack_into("=q", arguments[3], 16, self.outcome)
        return result


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"data")
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("architecture", HEADERS)
def test_the_numbers_are_the_kernels(architecture: str) -> None:
    header = Path(HEADERS[architecture])
    if not header.exists():
        pytest.skip(f"this machine has no {header} to compare with")
    found = {}
    for line in header.read_text().splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "#define" and words[1].startswith("__NR_io_"):
            found[words[1].removeprefix("__NR_io_")] = int(words[2])
    wanted = NUMBERS[architecture]._asdict()
    assert {name: found[name] for name in wanted} == wanted


@works
def test_a_sync_ends_well_and_says_so_once(file: int) -> None:
    kernel = KernelSync()
    for _ in range(3):
        kernel.submit(file)
        assert kernel.in_flight
        kernel.wait(WAIT_S)
        assert kernel.end() == 0
        assert not kernel.in_flight
        assert kernel.end() is None, "there is none"
    kernel.close()


@works
@pytest.mark.parametrize("kind", ["closed", "pipe"])
def test_what_cannot_be_synced_is_refused_and_nothing_is_begun(kind: str, file: int) -> None:
    kernel = KernelSync()
    reading, writing = os.pipe()
    if kind == "closed":
        os.close(reading)
    with pytest.raises(OSError, match=r"Bad file descriptor|Invalid argument") as refused:
        kernel.submit(reading)
    assert refused.value.errno == (errno.EBADF if kind == "closed" else errno.EINVAL)
    assert not kernel.in_flight
    kernel.submit(file)
    kernel.wait(WAIT_S)
    assert kernel.end() == 0, "the next one works"
    kernel.close()
    for descriptor in (writing, *([reading] if kind == "pipe" else [])):
        os.close(descriptor)


@works
@pytest.mark.parametrize(
    ("outcome", "found", "told"),
    [
        pytest.param(-errno.EIO, None, errno.EIO, id="the disk failed"),
        pytest.param(-errno.ENOSPC, None, errno.ENOSPC, id="the disk is full"),
        pytest.param(7, None, errno.EIO, id="no result of a sync"),
        pytest.param(None, 0, errno.EIO, id="no event"),
        pytest.param(None, -errno.EINVAL, errno.EINVAL, id="events cannot be had"),
    ],
)
def test_an_outcome_that_is_not_good_is_an_error(
    outcome: int | None, found: int | None, told: int, file: int
) -> None:
    calls = Calls()
    kernel = KernelSync(calls)
    kernel.submit(file)
    kernel.wait(WAIT_S)
    calls.outcome = outcome
    if found is not None:
        calls.results["getevents"] = found
    assert kernel.end() == told
    kernel.close()


@works
@pytest.mark.parametrize(
    ("call", "code", "why"),
    [
        ("setup", errno.ENOSYS, "io_setup: Function not implemented"),
        ("setup", errno.EPERM, "io_setup: Operation not permitted"),
        ("setup", errno.EAGAIN, "io_setup: fs.aio-max-nr is used up; raise it"),
        ("submit", errno.EINVAL, "io_submit: Invalid argument"),
    ],
)
def test_where_it_does_not_work_the_reason_is_told(call: str, code: int, why: str) -> None:
    open_files = len(os.listdir("/proc/self/fd"))
    calls = Calls(**{call: -code})
    with pytest.raises(KernelSyncUnavailableError) as refused:
        KernelSync(calls)
    assert str(refused.value) == why
    assert len(os.listdir("/proc/self/fd")) == open_files
    assert calls.made[-1] == ("setup" if call == "setup" else "destroy")


@works
def test_a_probe_that_fails_is_not_taken_for_one_that_works() -> None:
    calls = Calls()
    calls.outcome = -errno.EOPNOTSUPP
    with pytest.raises(KernelSyncUnavailableError, match="fdatasync: Operation not supported"):
        KernelSync(calls)
    assert calls.made[-1] == "destroy"


def test_other_machines_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(KernelSyncUnavailableError, match=r"not known for .* on riscv64"):
        KernelSync()


@works
def test_closing_waits_for_the_sync_in_flight_and_gives_everything_back(file: int) -> None:
    open_files = len(os.listdir("/proc/self/fd"))
    calls = Calls()
    kernel = KernelSync(calls)
    kernel.submit(file)
    kernel.close()
    kernel.close()
    assert calls.made[-2:] == ["submit", "destroy"]
    assert len(os.listdir("/proc/self/fd")) == open_files


@works
def test_a_sync_that_never_ends_is_no_reason_to_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_sync, "PROBE_S", 0.01)
    calls = Calls(submit=1)
    with pytest.raises(KernelSyncUnavailableError, match=r"did not end within 0\.01 s"):
        KernelSync(calls)
    assert calls.made == ["setup", "submit"]
