"""What a measured system is: something that starts three nodes in a directory and ends them.

Invariant: whatever happens, every process that was started has ended when the context is left, or
the program that measures is gone, however it ended. Each cluster's processes are in a session of
their own, so that a node whose parent died is found too.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Final, Protocol

from kv import leash
from storage.clock import Clock
from storage.errors import JanusError
from storage.system_clock import SystemClock

NODES: Final = 3
START_MAX_S: Final = 60.0
STOP_MAX_S: Final = 30.0
POLL_S: Final = 0.05
LOG_LINES: Final = 3
PORTS_FROM: Final = 10_000
OUTGOING_FROM: Final = 32_768
"""What Linux does where it is not told otherwise."""
HOST: Final = "127.0.0.1"


class ClusterFailedError(JanusError):
    """A cluster did not start, or ended while it was measured. The message has its last words."""

    code = "cluster_failed"


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    host: str
    port: int
    pid: int


class System(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str:
        """Version and how it was started, for the head of a report."""
        ...

    def running(self, directory: Path) -> AbstractContextManager[Sequence[Node]]:
        """Three nodes that serve, with their data in this empty directory."""
        ...


@contextmanager
def program(
    command: Sequence[str], log: Path, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program with its output in a file; asked to end on leaving, then made to."""
    with log.open("wb") as output:
        process = leash.start_program(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_MAX_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            _kill_session(process.pid)
            process.wait()


def _kill_session(leader: int) -> None:
    """What is left of it. The group has the leader's id as long as one of it lives, and that id is
    not given away before; when none lives there is nothing to do."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def wait_until(
    ready: Callable[[], bool],
    what: str,
    programs: Sequence[tuple[subprocess.Popen[bytes], Path]],
    clock: Clock | None = None,
) -> None:
    """Poll until ready; an error with the program's last words if one ended or time is over."""
    clock = clock or SystemClock()
    deadline = clock.monotonic() + START_MAX_S
    while not ready():
        for process, log in programs:
            if process.poll() is not None:
                raise ClusterFailedError(
                    f"{what} ended with code {process.returncode}: {last_words(log)}"
                )
        if clock.monotonic() > deadline:
            words = last_words(programs[0][1])
            raise ClusterFailedError(f"{what} did not serve within {START_MAX_S:.0f} s: {words}")
        sleep(POLL_S)


def last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return " | ".join(lines[-LOG_LINES:]) or "it said nothing"


def free_ports(offsets: Sequence[int]) -> int:
    """A base such that base + each offset is free on the loopback now. Below the range from which
    the system takes ports for outgoing connections: one of those would come in between."""
    dice = random.SystemRandom()
    for _ in range(200):
        base = dice.randrange(PORTS_FROM, _outgoing_from() - max(offsets))
        if all(_is_free(base + offset) for offset in offsets):
            return base
    raise ClusterFailedError("found no free ports on 127.0.0.1 for three nodes")


def _outgoing_from() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return OUTGOING_FROM
    return first if first > 2 * PORTS_FROM else OUTGOING_FROM


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
