"""The simulator itself, tried on a host that cannot be wrong unless it is told to lie."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chaos.sim.faults import MENU
from chaos.sim.simulation import SeedResult

pytestmark = pytest.mark.sim

Run = Callable[..., SeedResult]
OPERATORS = {"membership", "transfer", "snapshot", "newdisk", "upgrade"}
ALL = frozenset(MENU) - OPERATORS


@pytest.mark.parametrize("seed", range(4))
def test_an_honest_host_is_found_honest(oracle_run: Run, seed: int) -> None:
    result = oracle_run(seed, ALL)
    assert result.violations == []
    assert result.stuck == []
    assert result.results["write done"] > 10
    assert result.results["read done"] > 10
    assert sum(result.faults.values()) > 0


def test_the_same_seed_is_the_same_run(oracle_run: Run) -> None:
    one, two, other = oracle_run(5, ALL), oracle_run(5, ALL), oracle_run(6, ALL)
    assert one.trace_hash == two.trace_hash != other.trace_hash


@pytest.mark.parametrize(
    ("lie", "invariants"),
    [
        ("two leaders", {"election_safety"}),
        ("applied twice", {"applied_once"}),
        ("diverges", {"state_machine_safety"}),
        ("stale read", {"linearizability"}),
        ("refused but done", {"durability", "linearizability"}),
        ("loses writes", {"state_machine_safety", "leader_completeness", "linearizability"}),
    ],
)
def test_each_lie_is_found_by_who_should_find_it(
    oracle_run: Run, lie: str, invariants: set[str]
) -> None:
    results = [oracle_run(seed, frozenset({"slowsync"}), lie=lie) for seed in range(3)]
    found = {violation.invariant for result in results for violation in result.violations}
    assert found & invariants, found


def test_a_group_that_never_recovers_is_stuck(oracle_run: Run) -> None:
    result = oracle_run(1, ALL, lie="never recovers")
    assert result.violations == []
    assert "has not recovered" in result.stuck[0].message
