"""Storms over the leaderless regime, and known bugs that they must notice."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from chaos.sim.leaderless_storm import storm
from kv.leaderless import replica as replica_module
from kv.leaderless.frames import Reply, Status
from kv.leaderless.handoff import Handoff
from kv.leaderless.replica import Replica
from raftgroups.transport import NodeId
from storage.engine import Batch
from storage.hints import Hint
from storage.versions import StorageCanary, Turn


@pytest.mark.parametrize("seed", range(12))
def test_no_acknowledged_write_is_lost_and_the_owners_become_equal(seed: int) -> None:
    workload = storm(seed)
    workload.check()
    assert sum(attempt.acknowledged for attempt in workload.attempts.values()) > 20


@pytest.mark.slow
def test_many_storms(rounds: int) -> None:
    for seed in range(100, 100 + 25 * rounds):
        storm(seed, nodes=3 + seed % 3).check()


def test_the_same_seed_is_the_same_run() -> None:
    first, second = storm(3, seconds=5.0), storm(3, seconds=5.0)
    assert first.cluster.world.trace_hash() == second.cluster.world.trace_hash()


# --- canaries --------------------------------------------------------------------------------


def assert_caught(seeds: range) -> None:
    for seed in seeds:
        try:
            storm(seed).check()
        except AssertionError:
            return
    raise AssertionError(f"no storm of {seeds} noticed")


def test_a_hint_that_is_dropped_instead_of_sent_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its last hint a stand-in gives up its copy as well."""

    def drop(handoff: Handoff, target: NodeId, run: Any, hint: Hint) -> None:
        run.under_way += 1
        stored = Reply(0, Status.STORED, b"")
        handoff._parts.scheduler.call_soon(handoff._told, target, hint, stored)

    monkeypatch.setattr(Handoff, "_send", drop)
    assert_caught(range(12))


def test_an_epoch_counter_that_is_not_kept_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = frozenset({StorageCanary.EPOCH_NOT_KEPT})
    monkeypatch.setattr(replica_module, "Turn", partial(Turn, canaries=broken))
    assert_caught(range(12))


def test_answers_before_the_sync_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = Replica.prepare

    def hasty(replica: Replica, batch: Batch) -> None:
        prepare(replica, batch)
        answers, replica._answers = replica._answers, []
        for change, answer in answers:
            change.finish(answer)

    monkeypatch.setattr(Replica, "prepare", hasty)
    assert_caught(range(12))
