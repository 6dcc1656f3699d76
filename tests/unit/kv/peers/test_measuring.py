"""When a run is a result, and what the rounds say together."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from kv.cli.peers_table import text
from kv.load.plan import Operation, Outcome
from kv.peers.cells import Cell, Memory, Result
from kv.peers.gateway import Contents
from kv.peers.measuring import ALL, LEADER, Plan, problem_of
from kv.peers.summary import ETCD, JANUSKV, rows

PUT, GET = Operation.PUT, Operation.GET
OUTCOME = Outcome(answered=90, seconds=1.0, acknowledged=100)
BEFORE = Contents(keys=10, revision=5)


@pytest.mark.parametrize(
    ("operation", "outcome", "after", "says"),
    [
        (PUT, OUTCOME, Contents(10, 105), None),
        (PUT, OUTCOME, Contents(10, 104), "100 puts were acknowledged, but .* moved by 99"),
        (PUT, OUTCOME, Contents(10, 106), "moved by 101"),
        (PUT, replace(OUTCOME, unsettled=4), Contents(10, 109), None),
        (PUT, replace(OUTCOME, unsettled=4), Contents(10, 110), "moved by 105"),
        (PUT, OUTCOME, Contents(11, 105), "there were 10 keys, now 11"),
        (PUT, replace(OUTCOME, answered=0), Contents(10, 105), "nothing was answered"),
        (PUT, replace(OUTCOME, errors={"b": 1, "a": 2}), Contents(10, 105), "2 x a, 1 x b"),
        (GET, OUTCOME, Contents(10, 5), None),
        (GET, OUTCOME, Contents(10, 6), "moved by 1"),
    ],
)
def test_only_real_work_is_a_result(
    operation: Operation, outcome: Outcome, after: Contents, says: str | None
) -> None:
    problem = problem_of(operation, outcome, BEFORE, after)
    if says is None:
        assert problem is None
    else:
        assert problem is not None
        assert re.search(says, problem), problem


def cell(system: str, connections: int, per_second: float, **other: object) -> Cell:
    plain = Cell(
        system=system,
        operation=PUT,
        target=ALL,
        connections=connections,
        round=1,
        generator="own",
        per_second=per_second,
        p50_us=1_000,
        p99_us=2_000,
        errors={},
        problem=None,
        node_cpu_us=50.0,
        generator_cpu_share=0.2,
        other_cores=0.0,
        core_ms=10.0,
    )
    return replace(plain, **other)  # type: ignore[arg-type]


def test_medians_and_ratios() -> None:
    cells = [cell(JANUSKV, 64, rate) for rate in (900.0, 1_000.0, 5_000.0)]
    cells += [cell(ETCD, 64, rate) for rate in (390.0, 400.0, 410.0)]
    (row,) = rows(cells)
    assert row.figures[JANUSKV].per_second == 1_000
    assert row.ratio == 2.5
    assert list(row.wishes()) == [(True, "ratio 2"), (True, "p99 under 20 ms")]
    assert row.as_json()["ratio"] == 2.5


def test_a_round_without_a_result_is_left_out_and_shown() -> None:
    cells = [cell(JANUSKV, 64, 100.0, problem="1 x x"), cell(JANUSKV, 64, 900.0)]
    (row,) = rows([*cells, cell(ETCD, 64, 300.0)])
    ours = row.figures[JANUSKV]
    assert (ours.per_second, ours.good_rounds, ours.rounds) == (900.0, 1, 2)
    assert ours.problems == ("1 x x",)
    assert row.ratio == 3.0


def test_without_a_good_round_there_is_no_ratio_and_no_verdict() -> None:
    (row,) = rows([cell(JANUSKV, 64, 100.0, problem="x"), cell(ETCD, 64, 300.0)])
    assert row.ratio is None
    assert list(row.wishes()) == []
    (alone,) = rows([cell(ETCD, 64, 300.0)])
    assert list(alone.wishes()) == [], "etcd alone is judged by nothing"


def test_what_is_wished_for_can_be_missed() -> None:
    (one,) = rows([cell(JANUSKV, 1, 1.0, p50_us=1_001), cell(ETCD, 1, 1.0)])
    assert list(one.wishes()) == [(False, "p50 not above etcd's")]
    slow = [cell(JANUSKV, 64, 4.9, p99_us=10_000), cell(ETCD, 64, 1.0)]
    (get,) = rows([replace(it, operation=GET) for it in slow])
    assert list(get.wishes()) == [(False, "ratio 5"), (False, "p99 under 10 ms")]


def test_the_plan_counts_its_time() -> None:
    plan = Plan(seconds=2.0, warm_up_s=1.0, rounds=2, connections=(1, 4), targets=(ALL, LEADER))
    assert len(plan.cells) == 8
    assert plan.cells[0] == (GET, ALL, 1)
    assert plan.estimate_s(2) == 4 * 1.0 + 2 * 2 * (6.0 + 8 * 3.0)


def text_of(*cells: Cell) -> str:
    result = Result({JANUSKV: "JanusKV", ETCD: "etcd"}, cells=list(cells))
    result.memory = [Memory(system, 1, 1) for system in result.about]
    return text(result, rows(cells), Plan(rounds=3), None)


def test_a_row_tells_in_how_many_rounds_the_machine_was_not_quiet() -> None:
    calm = [cell(ETCD, 64, 300.0)] * 3
    once = [cell(JANUSKV, 64, 900.0, other_cores=busy) for busy in (0.1, 0.5, 0.3)]
    said = text_of(*once, *calm)
    assert "not quiet in 1 of 3 rounds: something else kept up to 0.5 cores busy" in said
    assert "NOT QUIET" not in said, "the median is of the others"
    mostly = [cell(JANUSKV, 64, 900.0, other_cores=busy) for busy in (0.1, 0.5, 0.4)]
    said = text_of(*mostly, *calm)
    assert "not quiet in 2 of 3 rounds" in said
    assert "NOT QUIET: something else kept up to 0.5 cores busy in most rounds" in said
    assert "not quiet" not in text_of(cell(JANUSKV, 64, 900.0), *calm).casefold()


def test_a_run_tells_that_its_cores_were_not_equally_fast() -> None:
    even = [cell(JANUSKV, 64, 900.0, core_ms=10.0), cell(ETCD, 64, 300.0, core_ms=12.4)]
    assert "UNEVEN" not in text_of(*even)
    uneven = [cell(JANUSKV, 64, 900.0, core_ms=10.0), cell(ETCD, 64, 300.0, core_ms=19.0)]
    assert "10.0 to 19.0 ms, so this machine was up to 1.9 times slower" in text_of(*uneven)
