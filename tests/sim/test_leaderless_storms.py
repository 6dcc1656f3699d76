"""Storms over the leaderless regime, and known bugs that they must notice."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from chaos.cli import main
from chaos.sim.leaderless_canary import CANARIES, STRICT
from chaos.sim.leaderless_runs import run_storm
from chaos.sim.leaderless_schedules import SCHEDULES
from chaos.sim.leaderless_storm import storm
from kv.leaderless.replica import Replica

WAITING = "waiting-copy-not-sent"
RARE = {*SCHEDULES, "answered-before-sync", WAITING}
"""Canaries that take more seeds than a run of all tests has time for, or have a test or a schedule
of their own."""


@pytest.mark.parametrize("seed", range(4))
def test_no_acknowledged_write_is_lost_and_the_owners_become_equal(seed: int) -> None:
    workload = storm(seed)
    workload.check()
    assert sum(attempt.acknowledged for attempt in workload.attempts.values()) > 20


@pytest.mark.parametrize("seed", range(8))
def test_members_come_and_go_in_a_storm(seed: int) -> None:
    result = run_storm(seed)
    assert result.violation == ""
    assert result.counts["acknowledged"] > 50


@pytest.mark.parametrize("canary", [None, WAITING])
def test_copies_whose_hints_nobody_replays_come_to_their_owners(canary: str | None) -> None:
    """Such seeds are the only ones that see a copy which waits for its hint for ever."""
    result = run_storm(5, hints=False, canary=canary)
    assert bool(result.violation) == (canary is not None), result.violation
    assert result.counts["hints replayed"] == 0


def test_keyspaces_are_made_and_dropped_in_a_storm() -> None:
    result = run_storm(3, keyspaces=True)
    assert result.violation == ""
    assert result.counts["strict reads"] > 50
    assert result.faults["keyspace dropped"] > 0


def test_rows_of_a_dropped_keyspace_that_stay_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replica, "erase", lambda replica, number: replica.dropped.add(number))
    assert "still has rows" in run_storm(4, keyspaces=True).violation


@pytest.mark.slow
def test_many_storms(rounds: int) -> None:
    for seed in range(1000, 1000 + 10 * rounds):
        assert run_storm(seed).violation == "", f"seed {seed}"


def test_the_same_seed_is_the_same_run() -> None:
    first, second = (run_storm(3, seconds=5.0) for _ in range(2))
    assert first.trace_hash == second.trace_hash


@pytest.mark.parametrize("canary", [None, *sorted(STRICT)])
def test_a_strict_read_that_misses_what_was_acknowledged_is_caught(canary: str | None) -> None:
    violation = run_storm(5, keyspaces=True, canary=canary).violation
    assert ("read [] of" in violation) == (canary is not None), violation


@pytest.mark.parametrize("canary", sorted(CANARIES.keys() - RARE - STRICT))
def test_a_known_bug_is_caught(canary: str) -> None:
    assert any(run_storm(seed, canary=canary).violation for seed in range(12))


def test_the_command_runs_storms_and_refuses_what_belongs_to_the_other_mode(
    capsys: pytest.CaptureFixture[str],
) -> None:
    call = ["sim", "--mode", "leaderless", "--seeds", "0..1", "--seconds", "14"]
    assert main([*call, "--faults", "all,keyspaces"]) == 0
    assert "violations" in capsys.readouterr().out
    assert main(["sim", "--canary", "hint-dropped"]) == 2
    assert main(["sim", "--mode", "leaderless", "--canary", "no-write-barrier"]) == 2


def test_no_run_depends_on_the_order_of_sets() -> None:
    """Strings hash differently in each process; a seed must not notice."""
    script = (
        "from chaos.sim.leaderless_runs import run_storm; "
        "print(run_storm(5, seconds=6.0).trace_hash)"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(hashes) == 1
