"""`januskv chaos` from end to end: in CI a short mix of scenarios, by night all of them."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from chaos.command import chaos_command
from chaos.links import toxics_server
from chaos.raftcluster import wait_for
from chaos.running.results import HELD, STUCK, VIOLATED, Outcome
from chaos.running.runner import HISTORY_NAME, RUN_NAME, Plan, State, run
from chaos.scenarios.catalogue import all_scenarios

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.slow]

SHORT = ("kill-leader-strong-3", "power-cut-strong-3", "partition-leader-strong-3")
SHORT_MINUTES = 0.12
ALONE = """
name = "alone"
about = "One node and nothing else."
sizes = {strong = [1]}

[[load]]
kind = "register"
clients = 1
"""
SHORT_RATE = 2.0
"""Enough to see that it works, on a machine that does other things as well."""
SHORT_RECOVERY_S = 60.0
"""Likewise: what is fast enough is asked by night."""
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
        checks = replace(
            scenario.checks, minimum_rate=SHORT_RATE, answers_within_s=SHORT_RECOVERY_S
        )
        minutes, scenario = SHORT_MINUTES, replace(scenario, calm_s=1.0, checks=checks)
    with contextlib.ExitStack() as ending:
        # One of them through proxies that it did not start, as with a real toxiproxy.
        url = ending.enter_context(toxics_server(1)) if name == SHORT[-1] else None
        plan = Plan(scenario, mode, nodes, minutes, 1, tmp_path / name, url)
        outcome = run(plan, lambda state: None)
    assert outcome.violations == []
    assert outcome.verdict == HELD
    assert {span.kind for span in outcome.faults} == {fault.kind for fault in scenario.faults}
    assert (tmp_path / name / HISTORY_NAME).stat().st_size > 1_000


def command(arguments: Sequence[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    parser = argparse.ArgumentParser()
    chaos_command.add_arguments(parser)
    found = chaos_command.run(parser.parse_args(arguments))
    told = capsys.readouterr()
    assert found == code, told
    return told.out + told.err


def test_the_command_lists_refuses_and_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (entry,) = entry_points(group="januskv.commands", name="chaos")
    assert entry.load() is chaos_command
    assert "kill-leader" in command(["list"], 0, capsys)
    assert "lost-connections" in command(["list", "--menu"], 0, capsys)
    assert "did you mean kill-leader" in command(["run", "kill-leaders"], 2, capsys)
    assert "name one scenario, or give --all" in command(["run"], 2, capsys)
    nobody = ["--toxiproxy", "http://127.0.0.1:9", "--out", str(tmp_path / "out")]
    assert "no toxiproxy answers" in command(["run", "kill-leader", *nobody], 2, capsys)
    assert "holds no runs" in command(["report", str(tmp_path)], 2, capsys)
    for verdict in (HELD, VIOLATED, STUCK):
        folder = tmp_path / verdict
        folder.mkdir()
        outcome = Outcome("s", "a", "strong", 3, 1, 2.0, "0", verdict)
        (folder / RUN_NAME).write_text(outcome.to_json())
    assert command(["report", str(tmp_path)], 0, capsys).count("| strong, 3 |") == 3
    assert (tmp_path / "index.html").exists()
    told = command(["report", "--markdown", str(tmp_path), str(tmp_path / HELD)], 0, capsys)
    assert told.count("| strong, 3 |") == 1, "runs of one kind"
    assert "there is no run of " in told


def children_of(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(word) for task in tasks for word in task.read_text().split()]


def is_running(process: int) -> bool:
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX"
    return False


def test_a_killed_run_takes_its_nodes_with_it(tmp_path: Path) -> None:
    program = "from kv.cli.main import entry; entry()"
    scenario = tmp_path / "alone.toml"
    scenario.write_text(ALONE)
    words = ["chaos", "run", str(scenario), "--minutes", "1", "--out", str(tmp_path)]
    command = [sys.executable, "-P", "-c", program, *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as running:
        assert running.stderr is not None
        assert b"alone" in running.stderr.readline()  # the first progress: it serves
        started = children_of(running.pid)
        assert len(started) == 2, "proxies and a node"
        os.kill(started[-1], signal.SIGSTOP)
        running.kill()
    try:
        wait_for(lambda: not any(map(is_running, started)), "they end with the run")
    finally:
        for process in filter(is_running, started):
            os.kill(process, signal.SIGKILL)


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
