"""`januskv chaos`: real processes, real sockets, real disks, broken on purpose and judged.

    januskv chaos list [--menu]                the scenarios, or what a scenario may be made of
    januskv chaos run SCENARIO|FILE.toml       one of them; --all runs all and can be resumed
    januskv chaos report DIR...                the pages of the runs in directories, and their table

Results on standard output, progress on standard error. Exit codes: 0 all held, 1 something did not,
2 bad arguments, 3 something got stuck, 130 stopped.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from chaos.links import NoProxiesError
from chaos.report.pages import write_index, write_page
from chaos.report.table import markdown_table, missing, newest, totals_line
from chaos.running.progress import ProgressLine
from chaos.running.results import HELD, STUCK, Outcome, summary_line
from chaos.running.runner import RUN_NAME, Plan, run
from chaos.scenarios.catalogue import all_scenarios, find_scenario
from chaos.scenarios.menu import FAULTS, LOADS, Option
from chaos.scenarios.parsing import BadScenarioError
from chaos.scenarios.scenario import Scenario
from kv.config.sections import MODES

OUT: Final = "januskv-chaos"
EXIT_VIOLATED: Final = 1
EXIT_USAGE: Final = 2
EXIT_STUCK: Final = 3
EXIT_STOPPED: Final = 130


class ChaosCommand:
    name = "chaos"
    help = "break a real cluster on purpose, under load, and judge what it answers"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="list | run | report")
        listing = actions.add_parser("list", help="the scenarios")
        listing.add_argument(
            "--menu", action="store_true", help="the faults and loads that a scenario may name"
        )
        running = actions.add_parser("run", help="run a scenario, or all")
        running.add_argument("scenario", nargs="?", help="a name of the list, or a TOML file")
        running.add_argument("--all", action="store_true", help="every scenario in every size")
        running.add_argument("--minutes", type=float, metavar="M", help="of load (the scenario's)")
        running.add_argument("--seed", type=int, default=1, metavar="S", help="(1)")
        running.add_argument("--mode", choices=MODES, help="(the scenario's first)")
        running.add_argument("--nodes", type=int, metavar="N", help="(the scenario's first size)")
        running.add_argument("--out", type=Path, default=Path(OUT), metavar="DIR", help=f"({OUT})")
        running.add_argument(
            "--toxiproxy", default=os.environ.get("TOXIPROXY_URL"), metavar="URL",
            help="a real toxiproxy on this machine (TOXIPROXY_URL; else one of ours is started)",
        )  # fmt: skip
        reporting = actions.add_parser("report", help="write the pages of the runs in a directory")
        reporting.add_argument("directories", type=Path, nargs="+", metavar="DIR")
        reporting.add_argument(
            "--markdown", action="store_true",
            help="only the table; of several runs of one kind the newest counts",
        )  # fmt: skip

    def run(self, args: argparse.Namespace) -> int:
        try:
            if args.action == "list":
                print(menu() if args.menu else listing())
                return 0
            if args.action == "report":
                return table(args.directories) if args.markdown else report(args.directories)
            plans = plans_of(args)
            before = signal.signal(signal.SIGTERM, _stop)
            try:
                return run_all(plans)
            finally:
                signal.signal(signal.SIGTERM, before)
        except KeyboardInterrupt:
            print("januskv chaos: stopped; what was not finished is no result", file=sys.stderr)
            return EXIT_STOPPED
        except (BadScenarioError, NoProxiesError) as error:
            print(f"januskv chaos: {error}", file=sys.stderr)
            return EXIT_USAGE


chaos_command: Final = ChaosCommand()


def _stop(number: int, frame: object) -> None:
    """As ctrl-C: every process that was started is ended on the way out."""
    raise KeyboardInterrupt


# --- what to run ---------------------------------------------------------------------------------


def plans_of(args: argparse.Namespace) -> list[Plan]:
    if args.all == (args.scenario is not None):
        raise BadScenarioError("name one scenario, or give --all")
    if args.minutes is not None and not 0.05 <= args.minutes <= 24 * 60:
        raise BadScenarioError("--minutes: write 0.05 to 1440")
    scenarios = all_scenarios().values() if args.all else [find_scenario(args.scenario)]
    plans = []
    for scenario in scenarios:
        for mode, nodes in _sizes(scenario, args):
            minutes = scenario.minutes if args.minutes is None else args.minutes
            directory = args.out / f"{scenario.name}-{mode}-{nodes}"
            plans.append(Plan(scenario, mode, nodes, minutes, args.seed, directory, args.toxiproxy))
    if not plans:
        raise BadScenarioError(f"no scenario has mode {args.mode}")
    return plans


def _sizes(scenario: Scenario, args: argparse.Namespace) -> Iterator[tuple[str, int]]:
    if args.all:
        for mode, sizes in scenario.sizes.items():
            if args.mode in (None, mode):
                yield from ((mode, nodes) for nodes in sizes if args.nodes in (None, nodes))
        return
    mode = args.mode or scenario.modes[0]
    if mode not in scenario.sizes:
        modes = ", ".join(scenario.modes)
        raise BadScenarioError(f"{scenario.name} is not for mode {mode}, only for {modes}")
    yield mode, args.nodes or scenario.sizes[mode][0]


def run_all(plans: list[Plan]) -> int:
    outcomes = []
    for plan in plans:
        before = _held_before(plan) if len(plans) > 1 else None
        if before is not None:
            print(f"{summary_line(before)} (before)", flush=True)
            outcomes.append(before)
            continue
        line = ProgressLine()
        outcome = run(plan, line.show)
        line.clear()
        outcomes.append(outcome)
        print(summary_line(outcome), flush=True)
        for violation in outcome.violations:
            print(violation, file=sys.stderr, flush=True)
        page = write_page(plan.directory, outcome)
        print(f"  {page}", flush=True)
    if len(plans) > 1:
        print(write_index(plans[0].directory.parent, outcomes))
    if any(each.verdict == STUCK for each in outcomes):
        return EXIT_STUCK
    return 0 if all(each.verdict == HELD for each in outcomes) else EXIT_VIOLATED


def _held_before(plan: Plan) -> Outcome | None:
    """The outcome of the same run, if it was done already and all held."""
    found = read_outcome(plan.directory)
    if found is None or found.verdict != HELD:
        return None
    same = (found.seed, found.minutes) == (plan.seed, plan.minutes)
    return found if same else None


def read_outcome(directory: Path) -> Outcome | None:
    try:
        return Outcome.from_json((directory / RUN_NAME).read_text())
    except (OSError, ValueError, KeyError, TypeError):
        return None


# --- list and report -----------------------------------------------------------------------------


def listing() -> str:
    lines = []
    for scenario in all_scenarios().values():
        sizes = "; ".join(
            f"{mode} {'/'.join(map(str, numbers))}" for mode, numbers in scenario.sizes.items()
        )
        lines.append(f"{scenario.name:<22} {scenario.minutes:g} min  {sizes:<26} {scenario.about}")
    return "\n".join(lines)


def menu() -> str:
    lines = ["FAULTS"]
    for name, kind in FAULTS.items():
        lines.append(f"  {name:<18} {kind.help}")
        if kind.targets:
            lines.append(f"  {'':<18} target: {', '.join(kind.targets)}")
        lines += _options(kind.options)
    lines.append("LOADS")
    for name, load in LOADS.items():
        lines.append(f"  {name:<18} {load.help} ({', '.join(load.modes)})")
        lines += _options(load.options)
    return "\n".join(lines)


def _options(options: Mapping[str, Option]) -> list[str]:
    return [
        f"  {'':<18} {name} = {option.default!r}: {option.help}" for name, option in options.items()
    ]


def report(directories: Sequence[Path]) -> int:
    for directory in directories:
        found = runs_in(directory)
        for folder, outcome in found:
            print(write_page(folder, outcome))
        outcomes = [outcome for _, outcome in found]
        print(write_index(directory, outcomes))
        print(markdown_table(outcomes))
    return 0


def table(directories: Sequence[Path]) -> int:
    outcomes = newest(outcome for each in directories for _, outcome in runs_in(each))
    print(f"{totals_line(outcomes)}\n\n{markdown_table(outcomes)}")
    absent = missing(outcomes, all_scenarios())
    if absent:
        print(f"januskv chaos: there is no run of {', '.join(absent)}", file=sys.stderr)
    return 0


def runs_in(directory: Path) -> list[tuple[Path, Outcome]]:
    """At least one."""
    found = []
    for folder in sorted(each.parent for each in directory.glob(f"**/{RUN_NAME}")):
        outcome = read_outcome(folder)
        if outcome is None:
            print(f"januskv chaos: {folder / RUN_NAME} is damaged", file=sys.stderr)
        else:
            found.append((folder, outcome))
    if not found:
        raise BadScenarioError(f"{directory} holds no runs; name what --out was")
    return found
