"""Linearizable, complete and equal on every node, while nodes are killed (chaos/registers.py).

By night five minutes with a kill of the leader every 20 s, and five crashes of the whole cluster;
in CI seconds of both.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from chaos.registers import Fault, Plan, Registers, Report, table
from chaos.servers import Servers

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def run(servers: Servers, plan: Plan) -> Report:
    report = asyncio.run(Registers(servers, plan, print).run())
    print(table(report))
    assert report.violations == []
    assert report.session_reads > 0
    assert report.revisions > plan.seconds
    return report


def test_the_leader_is_killed_again_and_again(servers: Servers, rounds: int) -> None:
    plan = Plan(12, 4.0, 0.5) if rounds == 1 else Plan(300, 20.0, 5.0)
    report = run(servers, plan)
    assert report.kills >= plan.seconds / plan.kill_every_s / 2
    assert report.watch_breaks > 0


def test_all_nodes_are_killed_at_once(servers: Servers, rounds: int) -> None:
    """Nothing acknowledged is lost: neither in the registers nor in the events."""
    plan = (
        Plan(4, 2.0, 0.0, fault=Fault.ALL) if rounds == 1 else Plan(60, 8.0, 0.0, fault=Fault.ALL)
    )
    report = run(servers, plan)
    assert report.kills >= (1 if rounds == 1 else 5)


def test_the_leader_is_frozen_again_and_again(servers: Servers, rounds: int) -> None:
    plan = (
        Plan(6, 3.0, 2.0, fault=Fault.FREEZE)
        if rounds == 1
        else Plan(120, 12.0, 5.0, fault=Fault.FREEZE)
    )
    assert run(servers, plan).kills >= 1


def test_a_lie_is_caught(servers: Servers) -> None:
    """The same run, with one acknowledgement that never was: each checker must see it."""
    registers = Registers(servers, Plan(1, 60.0, 0.0), print)
    judge = registers.judge

    def judge_with_a_lie(upto: int) -> None:
        record = registers.record
        registers.watchers[0].batches.pop(len(registers.watchers[0].batches) // 2)
        reads = [each for each in record.history.operations if each.kind == "read"]
        seen = Counter(each.observed for each in reads if each.observed)
        late = next(each for each in reversed(reads) if each.observed)
        late.observed = next(value for value in seen if value != late.observed)
        judge(upto)

    registers.judge = judge_with_a_lie  # type: ignore[method-assign]
    report = asyncio.run(registers.run())
    text = "\n".join(report.violations)
    assert "linearizability: no order" in text
    assert "was not told revision" in text
