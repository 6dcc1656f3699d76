"""Schedules made for one known bug each, where storms would need too many seeds to meet it.

    fold-over-gap   Two blind writes at one node, which is cut off; the author of the second goes on
                    elsewhere. What he was answered with names the second dot of an actor and not
                    its first: who takes it for both drops the first write, which was acknowledged,
                    when it arrives.

Each gives what was violated; empty if nothing was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from chaos.sim.leaderless import LeaderlessCluster, LeaderlessMachine
from chaos.sim.leaderless_storm import held, live, values
from kv.leaderless.dvv import Context
from kv.leaderless.keyspace import Wish
from kv.leaderless.put_core import Written
from kv.leaderless.rules import Write
from storage.errors import JanusError

KEY: Final = b"k"


def _put(
    cluster: LeaderlessCluster,
    machine: LeaderlessMachine,
    value: bytes,
    context: Context | None = None,
) -> Written:
    answers: list[Written | JanusError] = []
    live(machine).coordinator.put(1, KEY, Write(value, context), answers.append, Wish(nodes=1))
    cluster.run(3.0)
    (answer,) = answers
    assert isinstance(answer, Written), answer
    return answer


def fold_over_gap() -> str:
    cluster = LeaderlessCluster(1, 3)
    alone, *others = cluster.machines
    cluster.partition([alone], others)
    cluster.run(10.0)
    _put(cluster, alone, b"first")
    second = _put(cluster, alone, b"second")
    _put(cluster, others[0], b"third", second.context)
    cluster.calm()
    for machine in cluster.machines:
        found = values(held(machine, KEY))
        if found != [b"first", b"third"]:
            return f"first and third were acknowledged and not replaced; {machine.node}: {found}"
    return ""


SCHEDULES: Final[dict[str, Callable[[], str]]] = {"fold-over-gap": fold_over_gap}
"""By the canary that they are made for."""
