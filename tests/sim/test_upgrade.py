"""Rolling upgrades in the simulation: what they come to, and that the judges see what is wrong.

The bug put back, a level that rises before all were heard, is canary level-before-all.
"""

from __future__ import annotations

import pytest

from chaos.sim.machine import NEWER_LEVEL, Action, Command
from chaos.sim.settings import SimConfig
from chaos.sim.simulation import SeedResult, run_seed
from chaos.sim.stage import KEY, Stage
from raftgroups.changes import Changes
from raftgroups.outcomes import ProposeResult

pytestmark = pytest.mark.sim


def upgraded(seed: int) -> SeedResult:
    return run_seed(SimConfig(seed=seed, seconds=24.0, faults=frozenset({"upgrade"})))


@pytest.mark.parametrize("seed", range(3))
def test_after_a_rolling_upgrade_every_group_has_risen(seed: int) -> None:
    result = upgraded(seed)
    assert result.ok, (result.violations, result.stuck)
    assert result.faults["upgrade"] > 0
    assert result.changes["level"] == 2


def test_a_group_that_does_not_rise_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Changes, "_raise_level", lambda changes: None)
    result = upgraded(0)
    assert "at feature level 1 and all members support 2" in result.stuck[0].message


def test_an_older_program_that_applies_a_newer_command_is_found() -> None:
    """Somebody proposes without asking Group.feature_level first."""
    stage = Stage(3, ())
    stage.cluster.start()
    leader = stage.formed()
    assert stage.group(leader).feature_level < NEWER_LEVEL
    results: list[ProposeResult] = []
    command = Command("newer", Action.WRITE, KEY, "v", level=NEWER_LEVEL)
    stage.group(leader).propose(command.encode(), results.append)
    stage.wait("it is applied", lambda: bool(stage.violations))
    assert stage.violations[0].invariant == "feature_levels"
    assert "supports level 1 and applied" in stage.violations[0].message


def test_a_newer_command_in_a_group_that_has_risen_is_fine() -> None:
    stage = Stage(3, ())
    for node in stage.nodes:
        assert node.upgrade()
    stage.cluster.start()
    leader = stage.formed()
    stage.wait("it rises", lambda: stage.group(leader).feature_level == NEWER_LEVEL)
    results: list[ProposeResult] = []
    command = Command("newer", Action.WRITE, KEY, "v", level=NEWER_LEVEL)
    stage.group(leader).propose(command.encode(), results.append)
    stage.wait("it is applied", lambda: bool(results))
    assert stage.violations == []
