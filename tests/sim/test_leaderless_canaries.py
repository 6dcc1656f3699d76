"""Schedules made for one known bug each, where storms would need too many seeds to meet it."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.sim.leaderless import LeaderlessCluster, LeaderlessMachine
from chaos.sim.leaderless_canary import put_back
from chaos.sim.leaderless_storm import held, live, values
from kv.leaderless.keyspace import Wish
from kv.leaderless.put_core import Written
from kv.leaderless.rules import Write


def put(
    cluster: LeaderlessCluster, machine: LeaderlessMachine, value: bytes, context: Any = None
) -> Written:
    answers: list[Any] = []
    live(machine).coordinator.put(1, b"k", Write(value, context), answers.append, Wish(nodes=1))
    cluster.run(3.0)
    (answer,) = answers
    assert isinstance(answer, Written), answer
    return answer


@pytest.mark.parametrize("canary", [None, "fold-over-gap"])
def test_a_clock_is_not_rounded_up_over_a_write_that_its_author_never_saw(
    canary: str | None,
) -> None:
    """Two blind writes at one node, which is then cut off; the author of the second goes on
    elsewhere. What he was answered with names the second dot of an actor and not its first: who
    takes it for both drops the first write, which was acknowledged, when it arrives."""
    with put_back(canary):
        cluster = LeaderlessCluster(1, 3)
        alone, *others = cluster.machines
        cluster.partition([alone], others)
        cluster.run(10.0)
        put(cluster, alone, b"first")
        second = put(cluster, alone, b"second")
        put(cluster, others[0], b"third", second.context)
        cluster.calm()
        found = [values(held(machine, b"k")) for machine in cluster.machines]
    assert found == 3 * [[b"first", b"third"] if canary is None else [b"third"]]
