"""kill -9 of a writing process in a loop: batches are atomic and recovery works.

It shows nothing about durability, since the page cache survives a kill: test_power_cut.py does.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

import pytest

from chaos.powercut.campaign import Subject
from chaos.powercut.crashloop import crash_loop
from chaos.powercut.engines import LMDB, ROCKSDB
from chaos.powercut.workload import Workload
from storage.system_clock import SystemClock

pytestmark = [pytest.mark.integration, pytest.mark.slow]

KILLS: Final = 20
CANARIES: Final = Path(__file__).with_name("broken_engines.py")


@pytest.mark.parametrize("subject", [LMDB, ROCKSDB], ids=lambda s: s.name)
def test_every_batch_is_whole_after_each_kill(
    subject: Subject, rounds: int, tmp_path: Path
) -> None:
    for seed in range(rounds):
        root = tmp_path / str(seed)
        root.mkdir()
        report = crash_loop(
            subject,
            Workload(seed, batches=1_000_000),
            root,
            kills=KILLS,
            dice=random.Random(seed),
            clock=SystemClock(),
        )
        print(report)
        assert not report.findings, str(report)
        assert report.kills == KILLS
        assert report.batches > KILLS, "the writers were killed before they wrote anything"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("lmdb_halves", "head is"),
        ("rocksdb_halves", "head is"),
        ("lmdb_late", "promised"),
        ("rocksdb_late", "promised"),
    ],
)
def test_an_engine_that_breaks_a_promise_is_caught(
    name: str, complaint: str, tmp_path: Path
) -> None:
    """A batch in two parts; a batch that is acknowledged before it is written."""
    subject = Subject(name, f"{CANARIES}:{name}")
    report = crash_loop(
        subject,
        Workload(1, batches=1_000_000),
        tmp_path,
        kills=100,
        dice=random.Random(1),
        clock=SystemClock(),
    )
    assert report.findings
    assert complaint in report.findings[0]
