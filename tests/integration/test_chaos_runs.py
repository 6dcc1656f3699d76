"""`januskv chaos` from end to end: in CI a short mix of scenarios, by night all of them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.links import toxics_server
from chaos.running.results import HELD, STUCK, VIOLATED, Outcome
from chaos.running.runner import HISTORY_NAME, RUN_NAME, Plan, State, run
from chaos.scenarios.catalogue import all_scenarios
from kv.load.worker import environment

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.slow]

SHORT = ("kill-leader-strong-3", "power-cut-strong-3", "partition-leader-strong-3")
SHORT_MINUTES = 0.12
ALL = [
    (scenario, mode, nodes)
    for scenario in all_scenarios().values()
    for mode, sizes in scenario.sizes.items()
    for nodes in sizes
]
IDS = [f"{scenario.name}-{mode}-{nodes}" for scenario, mode, nodes in ALL]


@pytest.mark.parametrize("name", IDS)
def test_a_scenario_holds(name: str, rounds: int, tmp_path: Path) -> None:
    scenario, mode, nodes = ALL[IDS.index(name)]
    minutes = scenario.minutes
    if rounds == 1:
        if name not in SHORT:
            pytest.skip("by night; CI runs a short mix")
        minutes, scenario = SHORT_MINUTES, replace(scenario, calm_s=1.0)
    with contextlib.ExitStack() as ending:
        # One of them through proxies that it did not start, as with a real toxiproxy.
        url = ending.enter_context(toxics_server(1)) if name == SHORT[-1] else None
        plan = Plan(scenario, mode, nodes, minutes, 1, tmp_path / name, url)
        outcome = run(plan, lambda state: None)
    assert outcome.violations == []
    assert outcome.verdict == HELD
    assert {span.kind for span in outcome.faults} == {fault.kind for fault in scenario.faults}
    assert (tmp_path / name / HISTORY_NAME).stat().st_size > 1_000


def command(arguments: Sequence[str], code: int) -> str:
    call = [sys.executable, "-P", "-c", "from kv.cli.main import entry; entry()", "chaos"]
    done = subprocess.run(
        [*call, *arguments], capture_output=True, text=True, timeout=120, env=environment()
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_command_lists_refuses_and_reports(tmp_path: Path) -> None:
    assert "kill-leader" in command(["list"], 0)
    assert "lost-connections" in command(["list", "--menu"], 0)
    assert "did you mean kill-leader" in command(["run", "kill-leaders"], 2)
    assert "name one scenario, or give --all" in command(["run"], 2)
    assert "no toxiproxy answers" in command(
        ["run", "kill-leader", "--toxiproxy", "http://127.0.0.1:9", "--out", str(tmp_path)], 2
    )
    assert "holds no runs" in command(["report", str(tmp_path)], 2)
    for verdict in (HELD, VIOLATED, STUCK):
        folder = tmp_path / verdict
        folder.mkdir()
        outcome = Outcome("s", "a", "strong", 3, 1, 2.0, "0", verdict)
        (folder / RUN_NAME).write_text(outcome.to_json())
    told = command(["report", str(tmp_path)], 0)
    assert told.count("| s (strong) |") == 3
    assert (tmp_path / "index.html").exists()


def test_a_node_that_ends_by_itself_fails_the_run(tmp_path: Path) -> None:
    """The gate that no checker of answers replaces: the cluster hides the loss of one node."""
    scenario = replace(all_scenarios()["kill-leader"], faults=(), calm_s=0.5)
    killed = []

    def kill_one(state: State) -> None:
        if not killed and state.elapsed_s > 1:
            killed.append("n1")
            state.servers.kill("n1")

    plan = Plan(scenario, "strong", 3, 0.06, 1, tmp_path / "run")
    outcome = run(plan, kill_one)
    assert outcome.verdict == VIOLATED
    assert "n1 ended with code -9" in "\n".join(outcome.violations)
