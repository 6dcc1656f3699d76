"""Leases and merged watches on nodes that serve, under all faults; the whole is
`januskv sim --faults all,splits,merges,moves,bank,leases`."""

from __future__ import annotations

from chaos.sim.faults import MENU
from chaos.sim.play import play_seed
from chaos.sim.settings import SimConfig


def test_leases_end_everywhere_and_a_watch_tells_everything_once() -> None:
    faults = frozenset(MENU) | {"splits", "merges", "moves", "leases"}
    result = play_seed(SimConfig(seed=9, seconds=22.0, faults=faults))
    assert result.ok, [str(each) for each in (*result.violations, *result.stuck)]
    assert result.changes["splits"] + result.changes["merges"]
    assert result.changes["connection of the watch"] > 1
    assert sum(count for name, count in result.results.items() if name.startswith("lease ")) > 3
