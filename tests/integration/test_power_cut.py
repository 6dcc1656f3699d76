"""Durability of the real engines: images of what a power cut leaves, opened and compared.

What is recorded, how images are drawn and what is compared stands in chaos/powercut. An image that
breaks a promise stays in the test's temporary directory, beside a text of the recording.
"""

from __future__ import annotations

import random
from itertools import count, pairwise
from pathlib import Path
from typing import Final

import pytest

from chaos.powercut.campaign import (
    Report,
    Subject,
    choose_cuts,
    examine,
    promises_at,
    record,
    write_image,
)
from chaos.powercut.disk import Disk
from chaos.powercut.engines import (
    KERNEL_SYNCED,
    LEADERLESS_NODE,
    LMDB,
    LOGGED,
    ROCKSDB,
    STRONG_NODE,
)
from chaos.powercut.namespace import Entries
from chaos.powercut.recording import Acknowledge, Call, Create, Recording, Sync, Write
from chaos.powercut.workload import Workload
from chaos.powercut.writer import DATABASE
from storage.wal_format import APART_BYTES, RECORD_HEAD_BYTES

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.usefixtures("tracing")]

IMAGES: Final = {"lmdb": 500, "logged": 500, "kernel-synced": 500, "rocksdb": 150}
"""A round: an image of RocksDB costs some 20 ms, one of LMDB some 3."""
LARGE: Final = 7
"""The batch that has a value of another size than the others."""
CANARIES: Final = Path(__file__).with_name("broken_engines.py")
ROOMY: Final = Subject(
    "roomy", f"{Path(__file__).with_name('roomy_engine.py')}:roomy", LOGGED.volatile
)
every_subject = pytest.mark.parametrize(
    "subject", [LMDB, LOGGED, ROCKSDB, STRONG_NODE, LEADERLESS_NODE], ids=lambda s: s.name
)
every_engine = pytest.mark.parametrize("subject", [LMDB, LOGGED, ROCKSDB], ids=lambda s: s.name)


def canary(subject: Subject, name: str) -> Subject:
    return Subject(name, f"{CANARIES}:{name}", subject.volatile)


def says(call: Call, word: bytes) -> bool:
    return isinstance(call.effect, Acknowledge) and call.effect.text.startswith(word)


def record_seed(subject: Subject, seed: int, tmp_path: Path) -> tuple[Workload, Recording]:
    root = tmp_path / f"recorded-{seed}"
    root.mkdir()
    workload = Workload(seed, batches=100)
    return workload, record(subject, workload, root, checkpoint_every=40)


@every_engine
@pytest.mark.parametrize("rule", list(Entries), ids=str)
def test_what_was_acknowledged_survives(
    subject: Subject, rule: Entries, rounds: int, tmp_path: Path
) -> None:
    for seed in range(rounds):
        workload, recording = record_seed(subject, seed, tmp_path)
        assert promises_at(recording, recording.end) == {
            DATABASE: 100,
            "checkpoint-40": 40,
            "checkpoint-80": 80,
        }
        cuts = choose_cuts(recording, IMAGES[subject.name], random.Random(seed))
        report = examine(
            subject, workload, recording, cuts, tmp_path / f"images-{seed}", seed=seed, entries=rule
        )
        print(report)
        assert not report.findings, str(report)
        assert report.images == IMAGES[subject.name]


@every_subject
def test_a_power_cut_while_the_engine_is_created(
    subject: Subject, rounds: int, tmp_path: Path
) -> None:
    """A node that lost power in its first second starts again without help."""
    root = tmp_path / "recorded"
    root.mkdir()
    workload = Workload(0, batches=3)
    recording = record(subject, workload, root)
    dice = random.Random(0)
    cuts = sorted(dice.randint(0, recording.end) for _ in range(150 * rounds))
    for rule in Entries:
        scratch = tmp_path / f"images-{rule}"
        report = examine(subject, workload, recording, cuts, scratch, entries=rule)
        print(report)
        assert not report.findings, str(report)


@every_engine
def test_what_was_shown_after_a_kill_survives(
    subject: Subject, rounds: int, tmp_path: Path
) -> None:
    """kill -9, start again, kill -9, ..., power cut. A replica that read an entry after its restart
    counts it as its own, so the engine must not lose it any more."""
    for seed in range(rounds):
        dice = random.Random(seed)
        workload = Workload(seed, batches=40)
        root = tmp_path / f"recorded-{seed}"
        root.mkdir()
        # RocksDB opens within some 120 positions: the first kill comes later, the others any time.
        kills = (dice.randrange(150, 300), *(dice.randrange(10, 300) for _ in range(3)))
        recording = record(subject, workload, root, kills_after=kills)
        starts = [text for _, text in recording.acknowledgements() if text.startswith(b"opened")]
        assert len(starts) >= 2, "at least one kill came after the engine had been opened"
        cuts = choose_cuts(recording, IMAGES[subject.name], dice)
        report = examine(
            subject,
            workload,
            recording,
            cuts,
            tmp_path / f"images-{seed}",
            seed=seed,
            shown_is_kept=True,
        )
        print(kills, starts, report)
        assert not report.findings, str(report)


@every_engine
def test_a_power_cut_during_the_recovery_from_a_power_cut(
    subject: Subject, rounds: int, tmp_path: Path
) -> None:
    """The second recording starts on an image of the first: the engine repairs it and goes on,
    and loses power again, mostly while it repairs."""
    workload, recording = record_seed(subject, 0, tmp_path)
    dice = random.Random(0)
    disk = Disk(recording)
    for index, cut in enumerate(choose_cuts(recording, 3 * rounds, dice)):
        disk.advance(cut)
        root = tmp_path / f"image-{index}"
        write_image(disk.draw(dice), root)
        promised = promises_at(recording, cut)[DATABASE]
        again = record(subject, workload, root)
        opened = next(position for position, text in again.acknowledgements())
        cuts = sorted(dice.randint(0, opened + 10) for _ in range(IMAGES[subject.name] // 5))
        scratch = tmp_path / f"images-{index}"
        report = examine(
            subject, workload, again, cuts, scratch, already=promised, shown_is_kept=True
        )
        print(cut, opened, report)
        assert not report.findings, str(report)


def test_what_was_acknowledged_by_a_sync_of_the_kernel_survives(
    rounds: int, tmp_path: Path
) -> None:
    """Cuts right before the end of each of these syncs was heard of, and behind what it lets the
    engine say."""
    for seed in range(rounds):
        workload, recording = record_seed(KERNEL_SYNCED, seed, tmp_path)
        counts = recording.call_counts
        # Its probes: one of each, at the start.
        assert counts["io_submit"] == counts["io_getevents"] > 20, "of 60 synced batches"
        ends = [
            call.left
            for call in recording.calls
            if isinstance(call.effect, Sync) and call.effect.by_kernel
        ]
        assert len(ends) == counts["io_submit"] - 1
        cuts = sorted(end + near for end in ends if end for near in (0, 2))
        report = examine(
            KERNEL_SYNCED, workload, recording, cuts, tmp_path / f"images-{seed}", seed=seed
        )
        print(report)
        assert not report.findings, str(report)
        assert report.images == len(cuts) > 40


def recorded_large_record(subject: Subject, tmp_path: Path) -> tuple[Workload, Recording, range]:
    """With a batch whose record the log writes in two parts, and the positions from the first of
    them to behind its acknowledgement."""
    drawn = (Workload(seed, LARGE + 2, large_max_bytes=100_000) for seed in count())
    workload = next(each for each in drawn if each.batch(LARGE).size_bytes > APART_BYTES)
    root = tmp_path / "recorded"
    root.mkdir()
    recording = record(subject, workload, root)
    calls = [call for call in recording.calls if isinstance(call.effect, Write)]
    writes = sorted(calls, key=lambda call: (call.thread, call.entered))  # others fold meanwhile
    (begun,) = [
        head.entered
        for head, body in pairwise(writes)
        if isinstance(head.effect, Write)
        and isinstance(body.effect, Write)
        and (head.effect.file, len(head.effect.data)) == (body.effect.file, RECORD_HEAD_BYTES)
        and body.effect.offset == head.effect.offset + RECORD_HEAD_BYTES
        and len(body.effect.data) > APART_BYTES
    ]
    promise = b"ack %d\n" % LARGE
    (promised,) = [at for at, text in recording.acknowledgements() if text == promise]
    return workload, recording, range(begun, promised + 3)


@pytest.mark.parametrize("subject", [LOGGED, ROOMY], ids=lambda s: s.name)
def test_a_record_of_the_log_that_is_written_in_two_parts_is_there_whole_or_not_at_all(
    subject: Subject, rounds: int, tmp_path: Path
) -> None:
    """At each call from its first to its acknowledgement. The segments of one of the logs are
    smaller than the record, so that the file grows; in the other's it is written over zeros."""
    workload, recording, positions = recorded_large_record(subject, tmp_path)
    cuts = [cut for cut in positions for _ in range(6 * rounds)]
    report = examine(subject, workload, recording, cuts, tmp_path / "images")
    print(report)
    assert not report.findings, str(report)
    assert report.images == len(cuts)


# --- canaries: each of these must be caught ------------------------------------------------------


def caught(subject: Subject, workload: Workload, recording: Recording, tmp_path: Path) -> Report:
    cuts = choose_cuts(recording, 200, random.Random(1))
    scratch = tmp_path / "images"
    return examine(subject, workload, recording, cuts, scratch, stop_after=1, keep=False)


@pytest.mark.parametrize(
    "subject",
    [canary(LMDB, "lmdb_nosync"), canary(ROCKSDB, "rocksdb_unsynced")],
    ids=lambda s: s.name,
)
def test_an_engine_that_does_not_sync_is_caught(subject: Subject, tmp_path: Path) -> None:
    report = caught(subject, *record_seed(subject, 1, tmp_path), tmp_path)
    assert report.findings


def test_a_new_log_over_an_unsynced_one_is_caught(tmp_path: Path) -> None:
    """What survives must be a prefix: RocksEngine syncs the old log first. Without that, cuts soon
    after a log was started show it."""
    subject = canary(ROCKSDB, "rocksdb_rotating")
    root = tmp_path / "recorded"
    root.mkdir()
    workload = Workload(1, batches=160)
    recording = record(subject, workload, root)
    started = [
        call.entered
        for call in recording.calls
        if isinstance(call.effect, Create) and call.effect.entry.name.endswith(".log")
    ]
    dice = random.Random(1)
    cuts = sorted(dice.choice(started) + dice.randint(2, 14) for _ in range(1_000))
    scratch = tmp_path / "images"
    report = examine(subject, workload, recording, cuts, scratch, stop_after=1, keep=False)
    print(report)
    assert report.findings


def test_a_log_that_believes_the_length_of_a_torn_record_is_caught(tmp_path: Path) -> None:
    subject = canary(LOGGED, "logged_believing")
    workload, recording, positions = recorded_large_record(subject, tmp_path)
    cuts = [cut for cut in positions for _ in range(8)]
    report = examine(
        subject, workload, recording, cuts, tmp_path / "images", stop_after=1, keep=False
    )
    assert report.findings


def test_a_sync_of_the_kernel_that_counts_before_it_has_ended_is_caught(tmp_path: Path) -> None:
    subject = canary(KERNEL_SYNCED, "kernel_synced_ahead")
    workload, recording = record_seed(subject, 1, tmp_path)
    assert recording.call_counts["io_getevents"] > 20, "they are heard of, but late"
    report = caught(subject, workload, recording, tmp_path)
    print(report)
    assert report.findings


@pytest.mark.parametrize("name", ["logged_fold_ahead", "logged_header_ahead"])
def test_a_log_that_breaks_a_rule_of_its_own_is_caught(name: str, tmp_path: Path) -> None:
    subject = canary(LOGGED, name)
    report = caught(subject, *record_seed(subject, 1, tmp_path), tmp_path)
    print(report)
    assert report.findings


def test_a_start_that_does_not_sync_what_it_read_is_caught(tmp_path: Path) -> None:
    """Killed between an append and its sync, started again, and then a power cut."""
    subject = canary(LOGGED, "logged_unsynced_start")
    for seed in range(40):
        dice = random.Random(seed)
        workload = Workload(seed, batches=40)
        root = tmp_path / f"recorded-{seed}"
        root.mkdir()
        kills = tuple(dice.randrange(30, 120) for _ in range(4))
        recording = record(subject, workload, root, kills_after=kills)
        starts = [at for at, text in recording.acknowledgements() if text.startswith(b"opened")]
        cuts = sorted(dice.choice(starts) + dice.randint(-12, 3) for _ in range(300))
        report = examine(
            subject,
            workload,
            recording,
            cuts,
            tmp_path / f"images-{seed}",
            stop_after=1,
            keep=False,
            shown_is_kept=True,
        )
        if report.findings:
            print(seed, report)
            return
    pytest.fail("none of 40 recordings showed it")


@every_engine
def test_a_machine_that_loses_every_sync_is_caught(subject: Subject, tmp_path: Path) -> None:
    workload, recording = record_seed(subject, 1, tmp_path)
    report = caught(subject, workload, recording.without_syncs(), tmp_path)
    assert report.findings


@every_engine
def test_one_lost_sync_is_caught(subject: Subject, tmp_path: Path) -> None:
    """The one that an acknowledgement in the middle of the run stands on: the writing thread's
    last sync of a file before it."""
    workload, recording = record_seed(subject, 1, tmp_path)
    acknowledged = [call for call in recording.calls if says(call, b"ack")]
    promise = acknowledged[len(acknowledged) // 2]
    directories = {
        call.effect.file
        for call in recording.calls
        if isinstance(call.effect, Create) and call.effect.directory
    }
    basis = [
        call
        for call in recording.calls
        if isinstance(call.effect, Sync)
        and call.effect.file not in directories
        and call.thread == promise.thread
        and call.entered < promise.entered
    ][-1]

    def lost(call: Call) -> bool:
        return call is basis

    cuts = [promise.entered + 1] * 200
    scratch = tmp_path / "images"
    report = examine(
        subject, workload, recording.without_syncs(lost), cuts, scratch, stop_after=1, keep=False
    )
    assert report.findings
    unharmed = examine(subject, workload, recording, cuts[:50], scratch)
    assert not unharmed.findings, str(unharmed)
