"""Scenarios as values: the catalogue is sound, mistakes are named, a seed fixes the schedule."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from chaos.faults.table import TABLE as FAULT_TABLE
from chaos.scenarios.catalogue import all_scenarios, find_scenario
from chaos.scenarios.menu import FAULTS, LOADS, NEEDS_LEADER
from chaos.scenarios.parsing import BadScenarioError, parse_scenario
from chaos.scenarios.schedule import schedule
from chaos.workloads.table import TABLE as WORK_TABLE
from kv.config.reading import parse_config

SCENARIOS = all_scenarios()
HEAD = 'name = "x"\nabout = "y"\n[[load]]\nkind = "register"\n'


def test_the_menu_and_what_is_built_are_the_same() -> None:
    assert set(FAULTS) == set(FAULT_TABLE)
    assert set(LOADS) == set(WORK_TABLE)


def test_every_fault_and_every_load_is_in_some_scenario() -> None:
    faults = {fault.kind for scenario in SCENARIOS.values() for fault in scenario.faults}
    loads = {load.kind for scenario in SCENARIOS.values() for load in scenario.loads}
    assert faults == set(FAULTS)
    assert loads == set(LOADS)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_of_the_catalogue_is_sound(name: str) -> None:
    scenario = SCENARIOS[name]
    assert scenario.minutes == (5 if scenario.composed else 2)
    assert len(scenario.faults) >= (3 if scenario.composed else 1)
    for mode, sizes in scenario.sizes.items():
        for nodes in sizes:
            parse_config(scenario.settings_for(mode, nodes))
    for fault in scenario.faults:
        if fault.target in NEEDS_LEADER:
            assert scenario.modes == ("strong",)


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("seconds", [6.0, 24.0, 120.0])
def test_every_fault_has_its_turn_and_ends_in_time(name: str, seconds: float) -> None:
    scenario = SCENARIOS[name]
    steps = schedule(scenario, seconds, seed=3)
    assert {id(step.fault) for step in steps} == {id(fault) for fault in scenario.faults}
    assert all(step.at_s >= 0 and step.at_s + step.lasts_s <= seconds for step in steps)
    assert steps == schedule(scenario, seconds, seed=3)
    assert steps != schedule(scenario, seconds, seed=4)


def test_a_fault_does_not_overlap_itself() -> None:
    scenario = SCENARIOS["storm-everything"]
    for fault in scenario.faults:
        own = [step for step in schedule(scenario, 300, 1) if step.fault is fault]
        assert len(own) > 5
        for one, next_one in pairwise(own):
            assert one.at_s + one.lasts_s < next_one.at_s


def test_a_scenario_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(HEAD + '[[fault]]\nkind = "kill"\n[node.limits]\nqueue_operations = 64\n')
    scenario = find_scenario(str(path))
    assert scenario.faults[0].target == "leader"
    settings = parse_config(scenario.settings_for("strong", 5))
    assert settings.limits.queue_operations == 64
    assert settings.strong.replication == 5, "each node has a replica"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = ", "this is no TOML"),
        ('about = "y"', "name is missing"),
        (HEAD + '[[fault]]\nkind = "kil"', "there is no fault 'kil'; did you mean 'kill'"),
        (HEAD + '[[fault]]\nkind = "kill"\nlast_s = 3', "did you mean 'lasts_s'"),
        (HEAD + '[[fault]]\nkind = "kill"\ntarget = "lead"', "target is 'lead'; write one"),
        (HEAD + '[[fault]]\nkind = "kill"\nevery_s = "soon"', "every_s is 'soon'; write a number"),
        (HEAD + '[[fault]]\nkind = "kill"\nevery_s = -1', "every_s is -1; write 0.1 to 86400"),
        (HEAD + '[[fault]]\nkind = "partition"\nshape = "round"', "shape is 'round'; write one of"),
        (HEAD + '[[fault]]\nkind = "compact"\ntarget = "all"', "has no target; remove it"),
        (HEAD.replace("register", "registers"), "there is no load 'registers'; did you mean"),
        ('name = "x"\nabout = "y"', "no [[load]] works in this mode"),
        ('sizes = {fast = [3]}\n' + HEAD, "there is no mode 'fast'"),
        ('sizes = {strong = [30]}\n' + HEAD, "write numbers of nodes from 1 to 9"),
        ('sizes = {leaderless = [5]}\n' + HEAD, "no [[load]] works in this mode"),
        ('minute = 3\n' + HEAD, "minute is not known; did you mean 'minutes'"),
        ('fault = 3\n' + HEAD, "fault is no list of tables"),
        (
            'sizes = {strong = [1]}\n' + HEAD + '[[fault]]\nkind = "partition"',
            "partition needs at least 3 nodes",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_named(text: str, says: str) -> None:
    with pytest.raises(BadScenarioError) as caught:
        parse_scenario(text, "own.toml")
    assert says in str(caught.value)
    assert str(caught.value).startswith("own.toml")


def test_an_unknown_scenario_is_named_with_its_neighbour() -> None:
    with pytest.raises(BadScenarioError, match="did you mean kill-leader"):
        find_scenario("kill-leaders")
