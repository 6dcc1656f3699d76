"""Records a workload, draws images of it and lets the engine open them.

What is promised at a cut, and checked of every image:
- it opens, and shows the state after some prefix of the batches (no partial batch, no wrong value);
- the prefix holds every batch acknowledged before the cut;
- if asked (`shown_is_kept`), also everything that an engine showed when it was opened before the
  cut: what a process has once read after a restart must not vanish in the next power cut;
- each checkpoint reported before the cut opens and holds at least the batch it was made after.

An image is named by (cut, image seed): the same recording, cut and seed give the same image.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from chaos.powercut.children import Verifier, environment, writer_command
from chaos.powercut.disk import Disk, Image
from chaos.powercut.errors import RecordingError
from chaos.powercut.namespace import Entries
from chaos.powercut.recorder import Recorder, Run
from chaos.powercut.recording import Recording, Sync
from chaos.powercut.workload import Workload
from chaos.powercut.writer import DATABASE

CHECKPOINT_CHANCE: Final = 0.2
"""Of each image's checkpoints, how many are opened."""
GO_ON_CHANCE: Final = 0.25
"""Of the opened databases, how many are also written to and opened again."""

MEMORY_BYTES: Final = 48 * 1024 * 1024
"""An image and what an engine adds to it fit into this many times over."""


@dataclass(frozen=True, slots=True)
class Subject:
    """An engine under test."""

    name: str
    open_text: str
    """See opening.py."""
    volatile: frozenset[str] = frozenset()
    """Names of files whose content means nothing after a restart."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A promise that an image broke."""

    cut: int
    image_seed: str
    mood: str
    database: str
    promised: int
    head: int
    problem: str

    def __str__(self) -> str:
        return (
            f"cut {self.cut}, image seed {self.image_seed!r} ({self.mood}), {self.database}: "
            f"{self.problem} (promised up to batch {self.promised}, shown up to {self.head})"
        )


@dataclass(slots=True)
class Report:
    subject: str
    images: int = 0
    databases: int = 0
    """Directories opened: databases and checkpoints."""
    findings: list[Finding] = field(default_factory=list)

    def __str__(self) -> str:
        head = f"{self.subject}: {self.images} images, {len(self.findings)} broke a promise"
        return "\n  ".join([head, *map(str, self.findings)])


def record(
    subject: Subject,
    workload: Workload,
    root: Path,
    *,
    checkpoint_every: int = 0,
    kills_after: tuple[int, ...] = (),
) -> Recording:
    """Run the writer to its end under the recorder; with `kills_after`, first kill it after so many
    positions, and start it again each time. Positions count on from run to run."""
    recorder = Recorder(root, volatile=subject.volatile)
    command = writer_command(subject.open_text, root, workload, checkpoint_every=checkpoint_every)
    for kill_after in kills_after:
        kill_at = recorder.position + kill_after
        recorder.run(command, environment=environment(), kill_at=kill_at)
    run = recorder.run(command, environment=environment())
    _check_run(subject, run)
    return recorder.check()


def _check_run(subject: Subject, run: Run) -> None:
    if run.exit_code != 0:
        raise RecordingError(
            f"the writer of {subject.name} ended with exit code {run.exit_code}:\n{run.errors}"
        )


def choose_cuts(recording: Recording, count: int, dice: random.Random) -> list[int]:
    """Sorted cuts: a third right after an acknowledgement was begun, when most is promised; a third
    right before a sync is left, when most is undecided; a third anywhere."""
    promises = [position + 1 for position, _ in recording.acknowledgements()]
    syncs = [call.left for call in recording.calls if isinstance(call.effect, Sync) and call.left]
    anywhere = range(recording.end + 1)
    return sorted(
        dice.choice(dice.choice([promises or anywhere, syncs or anywhere, anywhere]))
        for _ in range(count)
    )


def promises_at(
    recording: Recording, cut: int, *, shown_is_kept: bool = False, already: int = 0
) -> dict[str, int]:
    """Directory -> the last batch that it must show. `already`: what the database had promised
    before the recording began."""
    least = {DATABASE: already}
    for position, text in recording.acknowledgements():
        if position >= cut:
            break
        word, _, number = text.decode().strip().partition(" ")
        if word == "ack" or (word == "opened" and shown_is_kept):
            least[DATABASE] = max(least[DATABASE], int(number))
        elif word == "checkpoint":
            least[f"checkpoint-{number}"] = int(number)
    return least


def examine(
    subject: Subject,
    workload: Workload,
    recording: Recording,
    cuts: list[int],
    scratch: Path,
    *,
    seed: int = 0,
    entries: Entries = Entries.FILE_SYNC,
    shown_is_kept: bool = False,
    already: int = 0,
    stop_after: int = 5,
    keep: bool = True,
) -> Report:
    """Draw one image for each of the sorted cuts and check it. Stops after some findings, since
    one cause shows often; the images of findings are left in `scratch` if `keep`."""
    report = Report(subject.name)
    disk = Disk(recording, entries)
    with (
        tempfile.TemporaryDirectory(dir=_quick_directory()) as quick,
        Verifier(subject.open_text, workload) as verifier,
    ):
        directory = Path(quick) / "image"
        for index, cut in enumerate(cuts):
            disk.advance(cut)
            image_seed = f"{seed}:{index}"
            dice = random.Random(image_seed)
            image = disk.draw(dice)
            least = promises_at(recording, cut, shown_is_kept=shown_is_kept, already=already)
            report.images += 1
            broken = False
            for database, promised in least.items():
                if database != DATABASE and dice.random() >= CHECKPOINT_CHANCE:
                    continue
                write_image(image, directory)
                verdict = verifier.verify(directory / database, go_on=dice.random() < GO_ON_CHANCE)
                report.databases += 1
                problem = verdict.problem
                if problem is None and verdict.head < promised:
                    problem = "a promised batch is lost"
                if problem is not None:
                    broken = True
                    report.findings.append(
                        Finding(
                            cut, image_seed, image.mood, database, promised, verdict.head, problem
                        )
                    )
            if broken and keep:
                kept = scratch / f"image-{index}"
                write_image(image, kept)
                (kept / "recording.txt").write_text(recording.describe(0, cut))
            if len(report.findings) >= stop_after:
                break
    return report


def _quick_directory() -> str | None:
    """Images need no disk, and in memory the engines' own syncs cost nothing."""
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > MEMORY_BYTES:
        return str(memory)
    return None


def write_image(image: Image, directory: Path) -> None:
    """Make the directory hold the image and nothing else."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for path in image.directories:
        (directory / path).mkdir()
    for path, content in image.files.items():
        (directory / path).write_bytes(content)
