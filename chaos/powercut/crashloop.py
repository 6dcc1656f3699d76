"""kill -9 of a writing process, again and again, on one directory.

    start the writer -> read some lines, and a moment more -> kill -9 -> read the rest of the pipe
          ^                                                                        |
          +------ the next writer goes on where the database stands <------ open it and compare

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
LINES_MAX: Final = 20
LAST_WINDOW_S: Final = 0.01
"""A batch or two."""


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
) -> CrashReport:
    """A writer lives for a random number of acknowledgements and a random moment more, or, some of
    the time, for a moment so short that it is killed while it starts or opens its engine."""
    report = CrashReport(subject.name)
    command = writer_command(subject.open_text, root, workload)
    with Verifier(subject.open_text, workload) as verifier:
        while report.kills < kills and not report.findings:
            if dice.random() < EARLY_KILL_CHANCE:
                wanted, then_s = 0, dice.uniform(0, EARLY_WINDOW_S)
            else:
                wanted, then_s = dice.randint(1, LINES_MAX), dice.uniform(0, LAST_WINDOW_S)
            lines = _write_and_kill(command, wanted, then_s, clock)
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


def _write_and_kill(command: list[str], wanted: int, then_s: float, clock: Clock) -> list[str]:
    """The whole lines that the writer printed before it was killed, `then_s` after the last that
    was wanted."""
    writer = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment()
    )
    try:
        assert writer.stdout is not None
        pipe = writer.stdout.fileno()
        read = _read_for(pipe, START_TIMEOUT_S, clock, lines=wanted)
        read += _read_for(pipe, then_s, clock)
    finally:
        writer.kill()
        rest, _ = writer.communicate()
    return (read + rest).decode().split("\n")[:-1]


def _read_for(pipe: int, limit_s: float, clock: Clock, lines: int | None = None) -> bytes:
    """What comes out of the pipe until its end, the limit, or so many lines."""
    deadline = clock.monotonic() + limit_s
    read = b""
    while lines is None or read.count(b"\n") < lines:
        left_s = deadline - clock.monotonic()
        if left_s <= 0 or not select.select([pipe], [], [], left_s)[0]:
            break
        part = os.read(pipe, 65_536)
        if not part:
            break
        read += part
    return read
