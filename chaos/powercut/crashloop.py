"""kill -9 of a writing process, again and again, on one directory.

    start the writer -> read its lines for a random time -> kill -9 -> read the rest of the pipe
          ^                                                                    |
          +---- the next writer goes on where the database stands <--- open it and compare

After each kill the database must open and show the state after a prefix of the batches, with every
batch whose acknowledgement had reached the pipe. What was shown once must be shown again.

This shows that batches are atomic and that recovery works. It shows nothing about durability: the
page cache survives a kill. That is campaign.py's task.
"""

from __future__ import annotations

import os
import random
import select
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from chaos.powercut.campaign import Subject
from chaos.powercut.children import Verifier, environment, writer_command
from chaos.powercut.workload import Workload
from chaos.powercut.writer import DATABASE
from storage.clock import Clock

START_TIMEOUT_S: Final = 60.0
EARLY_KILL_CHANCE: Final = 0.2
EARLY_WINDOW_S: Final = 0.3
"""Long enough for a writer to start and open its engine."""


@dataclass(slots=True)
class CrashReport:
    subject: str
    kills: int = 0
    early_kills: int = 0
    """Kills before the writer had said that its engine is open."""
    batches: int = 0
    """The last batch that the database showed."""
    findings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        head = (
            f"{self.subject}: {self.kills} kills ({self.early_kills} while opening), "
            f"{self.batches} batches, {len(self.findings)} broken promises"
        )
        return "\n  ".join([head, *self.findings])


def crash_loop(
    subject: Subject,
    workload: Workload,
    root: Path,
    *,
    kills: int,
    dice: random.Random,
    clock: Clock,
    window_s: float = 0.06,
) -> CrashReport:
    """`window_s`: the longest time that a writer lives after it opened its engine."""
    report = CrashReport(subject.name)
    command = writer_command(subject.open_text, root, workload)
    with Verifier(subject.open_text, workload) as verifier:
        while report.kills < kills and not report.findings:
            early = dice.random() < EARLY_KILL_CHANCE
            lines = _write_and_kill(
                command, early, dice.uniform(0, EARLY_WINDOW_S if early else window_s), clock
            )
            report.kills += 1
            report.early_kills += not any(line.startswith("opened") for line in lines)
            promised = max(report.batches, *(_promise(line) for line in lines), 0)
            verdict = verifier.verify(root / DATABASE, go_on=False)
            if verdict.problem is not None:
                report.findings.append(f"kill {report.kills}: {verdict.problem}")
            elif verdict.head < promised:
                report.findings.append(
                    f"kill {report.kills}: batches up to {promised} were promised, "
                    f"but only those up to {verdict.head} are there"
                )
            report.batches = max(report.batches, verdict.head)
    return report


def _promise(line: str) -> int:
    word, _, number = line.partition(" ")
    return int(number) if word in ("ack", "opened") else 0


def _write_and_kill(command: list[str], early: bool, life_s: float, clock: Clock) -> list[str]:
    """The whole lines that the writer printed before it was killed."""
    writer = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment()
    )
    try:
        assert writer.stdout is not None
        pipe = writer.stdout.fileno()
        read = b""
        if not early:
            read += _read_for(pipe, START_TIMEOUT_S, clock, until=b"\n")
        read += _read_for(pipe, life_s, clock)
    finally:
        writer.kill()
        rest, _ = writer.communicate()
    return (read + rest).decode().split("\n")[:-1]


def _read_for(pipe: int, limit_s: float, clock: Clock, until: bytes | None = None) -> bytes:
    """What comes out of the pipe until its end, the limit, or a byte that is waited for."""
    deadline = clock.monotonic() + limit_s
    read = b""
    while until is None or until not in read:
        left_s = deadline - clock.monotonic()
        if left_s <= 0 or not select.select([pipe], [], [], left_s)[0]:
            break
        part = os.read(pipe, 65_536)
        if not part:
            break
        read += part
    return read
