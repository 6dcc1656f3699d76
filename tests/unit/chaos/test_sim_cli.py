"""`januskv sim`: arguments, exit codes, what a failure prints."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from importlib.metadata import EntryPoint

import pytest

from chaos import cli
from chaos.checkers.violation import Violation
from chaos.sim import runner
from chaos.sim.canary import CANARIES, CanaryVerdict
from chaos.sim.faults import MENU
from chaos.sim.patches import PATCHED
from chaos.sim.runner import Progress, Summary, describe
from chaos.sim.settings import SimConfig
from chaos.sim.shard_node import SHARD_CANARIES
from chaos.sim.simulation import SeedResult
from raftgroups import config as raft_config

Main = Callable[..., int]


def result(seed: int, *, violated: bool = False, stuck: bool = False) -> SeedResult:
    made = SeedResult(seed, trace_hash=f"hash{seed}", virtual_s=40.0, events=100)
    made.cpu_s = 120.0 / 180.0
    made.results = {"write done": 10}
    made.faults = {"crash": 1}
    made.recent = ["1.0 something happened"]
    if violated:
        made.violations.append(Violation("election_safety", "two leaders", ("evidence",)))
    if stuck:
        made.stuck.append(Violation("liveness", "group 1 has not recovered"))
    return made


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> dict[int, SeedResult]:
    """What each seed gives; all others are good."""
    given: dict[int, SeedResult] = {}

    def run_seed(config: SimConfig, **_: object) -> SeedResult:
        return given.get(config.seed) or result(config.seed)

    monkeypatch.setattr(runner, "play_seed", run_seed)
    monkeypatch.setattr(cli, "play_seed", run_seed)
    return given


def sim(*arguments: str) -> int:
    return cli.main(["sim", "--jobs", "1", *arguments])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", "5..5"], "holds no seed"),
        (["--seeds", "a..b"], "not 'a..b'"),
        (["--seeds", "0..5", "--seed", "1"], "not both"),
        (["--faults", "crash,earthquake"], "no such fault: earthquake"),
        (["--nodes", "0"], "--nodes must be at least 1"),
        (["--seconds", "5"], "--seconds must be at least"),
        (["--seeds", "0..5", "--trace"], "--seed N"),
    ],
)
def test_bad_arguments_exit_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sim(*arguments) == 2
    assert words in capsys.readouterr().err


def test_an_unknown_canary_exits_2() -> None:
    with pytest.raises(SystemExit, match="2"):
        sim("--canary", "none-such")


def test_all_held(outcomes: dict[int, SeedResult], capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("--seeds", "0..3") == 0
    out, err = capsys.readouterr()
    assert "seeds" in out
    assert "write done" in out
    assert "\r" not in err, "no bar unless on a terminal"
    assert "3/3 seeds" in err


def test_a_violation_exits_1_and_says_how_to_see_it_again(
    outcomes: dict[int, SeedResult], capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes[1], outcomes[2] = result(1, violated=True), result(2, stuck=True)
    assert sim("--seeds", "0..4", "--nodes", "5", "--faults", "crash,reset") == 1
    out = capsys.readouterr().out
    for words in (
        "seed 1: VIOLATED election_safety",
        "something happened",
        "replay: januskv sim --seed 1 --nodes 5 --groups 2 --seconds 40 --faults crash,reset",
        "trace hash hash1",
        "bad seeds: 1 2",
    ):
        assert words in out


def test_stuck_exits_3(outcomes: dict[int, SeedResult]) -> None:
    outcomes[2] = result(2, stuck=True)
    assert sim("--seeds", "0..4") == 3
    assert sim("--seed", "2", "--trace") == 3
    assert sim("--seed", "1", "--trace") == 0


def test_one_seed_prints_its_trace_hash(
    outcomes: dict[int, SeedResult], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sim("--seed", "9") == 0
    assert "trace hash hash9" in capsys.readouterr().out


def test_replay_names_all_faults_as_all() -> None:
    assert "--faults all " in cli.replay_command(SimConfig(seed=1, faults=frozenset(MENU)))
    assert "--faults none " in cli.replay_command(SimConfig(seed=1))


@pytest.mark.parametrize(("caught", "code"), [(True, 0), (False, 1)])
def test_a_canary_must_be_caught(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caught: bool,
    code: int,
) -> None:
    def catch(name: str, jobs: int) -> CanaryVerdict:
        return CanaryVerdict(name, caught, 4, f"{name}: caught at seed 4")

    monkeypatch.setattr(cli, "catch", catch)
    assert sim("--canary", "no-write-barrier") == code
    assert "no-write-barrier: caught at seed 4" in capsys.readouterr().out
    assert sim("--canary", "all") == code
    assert len(capsys.readouterr().out.splitlines()) == len(CANARIES)


def test_every_known_bug_of_raftgroups_has_a_hunt() -> None:
    elsewhere = {"accept-overlap", "birth-without-base"}  # unit/raftgroups/lineage has them
    assert set(CANARIES) | elsewhere == set(raft_config.CANARIES) | SHARD_CANARIES | set(PATCHED)


def test_the_bar_is_drawn_on_a_terminal_and_taken_away() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    progress = Progress(2, terminal)
    summary = Summary()
    for seed in range(2):
        summary.add(result(seed))
        summary.wall_s += 1.0
        progress.show(summary)
    progress.close()
    assert "[############            ] 1/2 seeds" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[2K")


def test_the_summary_counts() -> None:
    summary = Summary(jobs=2, wall_s=2.0)
    for seed in range(3):
        summary.add(result(seed, violated=seed == 1, stuck=seed > 0))
    text = describe(summary)
    assert (summary.violated, summary.stuck, summary.exit_code) == (1, 1, 1)
    assert "60 times faster, a core" in text
    assert "crash 3" in text


def test_the_command_is_found_as_the_entry_point_says() -> None:
    command = EntryPoint("sim", "chaos.cli:sim_command", "januskv.commands").load()
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.name == "sim"
    assert parser.parse_args(["--seeds", "0..2"]).seeds == "0..2"
