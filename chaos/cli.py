"""The commands that chaos adds to `januskv`, found through the entry points "januskv.commands".

    januskv sim --seeds 0..500 --nodes 3       a range of seeds (the end is not included)
    januskv sim --seeds 0..300 --faults everything   shards, and a cluster that governs itself
    januskv sim --seed 17 --trace              one seed again, line by line
    januskv sim --canary no-write-barrier      a known bug is put back, and must be caught
    januskv sim --mode leaderless --seeds 0..500   storms over the leaderless regime
    ... --faults all,keyspaces                     keyspaces come and go in them

Exit codes: 0 all held (or the canary was caught), 1 a violation (or the canary was not caught),
2 bad arguments, 3 something got stuck.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from typing import Final

from chaos.sim import leaderless_runs, shards
from chaos.sim.canary import CANARIES, catch
from chaos.sim.faults import MENU
from chaos.sim.leaderless_canary import CANARIES as LEADERLESS
from chaos.sim.leaderless_runs import KEYSPACES
from chaos.sim.play import play_seed
from chaos.sim.runner import Progress, Summary, describe, run_seeds
from chaos.sim.settings import CALM_MIN_S, SimConfig
from chaos.sim.simulation import SeedResult

TRACE_LINES: Final = 40
LEADERLESS_S: Final = 20.0
"""Of storm; the calm after it takes what it takes."""
EVERYTHING: Final = "everything"
MIN_SECONDS: Final = CALM_MIN_S + 1.0


class UsageError(Exception):
    """Arguments that make no sense; printed as one line, exit code 2."""


class SimCommand:
    name = "sim"
    help = "simulate whole clusters under faults, by seed, and judge what they did"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--seeds", default=None, metavar="A..B", help="seeds A to B-1 (0..20)")
        parser.add_argument("--seed", type=int, metavar="N", help="one seed; the same as N..N+1")
        parser.add_argument(
            "--mode", choices=["strong", "leaderless"], default="strong",
            help="the regime; leaderless draws nodes and faults from the seed (strong)",
        )  # fmt: skip
        parser.add_argument("--nodes", type=int, default=3, metavar="M", help="nodes (3)")
        parser.add_argument("--groups", type=int, default=2, metavar="G", help="raft groups (2)")
        parser.add_argument(
            "--seconds", type=float, default=40.0, metavar="S", help="virtual seconds a seed (40)"
        )
        parser.add_argument(
            "--faults", default="all", metavar="LIST",
            help=f"comma-separated: {', '.join(sorted(MENU))}; or all of these, or none (all). "
            "Beside them, and then the groups are shards: splits, merges; bank (transactions over "
            "shards), leases (of keys in several shards, and a watch over all); and what an "
            "operator of a cluster that governs itself meets: moves (of replicas, disks lost, "
            "another number of copies), joins, drains (and removals), deaths (machines that never "
            f"come back; the silent are declared dead). Or {EVERYTHING}: all of all. Leaderless: "
            f"all, and {KEYSPACES}: some are made and dropped",
        )  # fmt: skip
        parser.add_argument(
            "--canary", metavar="NAME", choices=[*sorted(CANARIES), *sorted(LEADERLESS), "all"],
            help=f"put a known bug back; it must be caught: {', '.join(sorted(CANARIES))}; or all",
        )  # fmt: skip
        parser.add_argument(
            "--jobs", type=int, default=os.cpu_count() or 1, metavar="J", help="processes (cores)"
        )
        parser.add_argument("--trace", action="store_true", help="print everything that happens")

    def run(self, args: argparse.Namespace) -> int:
        try:
            config, seeds = _config(args)
        except UsageError as error:
            print(f"januskv sim: {error}", file=sys.stderr)
            return 2
        if args.mode == "leaderless":
            return _run_leaderless(args, seeds)
        if KEYSPACES in args.faults.split(","):
            print(f"januskv sim: {KEYSPACES} needs --mode leaderless", file=sys.stderr)
            return 2
        if args.canary in LEADERLESS:
            print(f"januskv sim: {args.canary} needs --mode leaderless", file=sys.stderr)
            return 2
        if args.canary:
            return _run_canaries(args.canary, args.jobs)
        if args.trace:
            return _run_traced(config, seeds)
        return _run_all(config, seeds, args.jobs)


sim_command: Final = SimCommand()


# --- arguments ---------------------------------------------------------------------------------


def _config(args: argparse.Namespace) -> tuple[SimConfig, range]:
    if args.seed is not None and args.seeds is not None:
        raise UsageError("give --seed or --seeds, not both")
    seeds = _seeds(args.seeds or "0..20") if args.seed is None else range(args.seed, args.seed + 1)
    for what, number, least in (
        ("--nodes", args.nodes, 1),
        ("--groups", args.groups, 1),
        ("--jobs", args.jobs, 1),
        ("--seconds", args.seconds, MIN_SECONDS),
    ):
        if number < least:
            raise UsageError(f"{what} must be at least {least:g}, and is {number:g}")
    if args.trace and len(seeds) > 1:
        raise UsageError("--trace prints one run: give it with --seed N")
    config = SimConfig(
        seed=seeds.start,
        nodes=args.nodes,
        groups=args.groups,
        seconds=args.seconds,
        faults=_faults(args.faults),
    )
    return config, seeds


def _seeds(text: str) -> range:
    first, dots, last = text.partition("..")
    try:
        seeds = range(int(first), int(last)) if dots else range(int(first), int(first) + 1)
    except ValueError:
        raise UsageError(f"--seeds takes A..B or one number, not {text!r}") from None
    if not seeds:
        raise UsageError(f"--seeds {text} holds no seed: A..B runs from A to B-1")
    return seeds


def _faults(text: str) -> frozenset[str]:
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    if names == {"none"}:
        return frozenset()
    if EVERYTHING in names:
        names = (names - {EVERYTHING}) | {"all"} | shards.FAULTS
    if "all" in names:
        names = (names - {"all"}) | frozenset(MENU)
    known = [*MENU, *sorted(shards.FAULTS), KEYSPACES, EVERYTHING]
    unknown = sorted(names - set(known))
    if unknown:
        raise UsageError(f"no such fault: {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def replay_command(config: SimConfig) -> str:
    """What to type to see this very run again."""
    has_menu = config.faults >= frozenset(MENU)
    rest = sorted(config.faults - frozenset(MENU) if has_menu else config.faults)
    faults = ",".join((["all"] if has_menu else []) + rest) or "none"
    if config.faults == frozenset(MENU) | shards.FAULTS:
        faults = EVERYTHING
    return (
        f"januskv sim --seed {config.seed} --nodes {config.nodes} --groups {config.groups} "
        f"--seconds {config.seconds:g} --faults {faults} --trace"
    )


# --- the three ways to run ---------------------------------------------------------------------


def _run_all(config: SimConfig, seeds: range, jobs: int) -> int:
    progress = Progress(len(seeds))

    def each(result: SeedResult, summary: Summary) -> bool:
        if not result.ok:
            progress.close()
            _print_failure(replace(config, seed=result.seed), result)
        elif len(seeds) == 1:
            print(f"trace hash {result.trace_hash}")
        progress.show(summary)
        return True

    summary = run_seeds(config, seeds, jobs=min(jobs, len(seeds)), each=each)
    progress.close()
    print(describe(summary))
    if summary.bad:
        print("bad seeds: " + " ".join(str(result.seed) for result in summary.bad))
    return summary.exit_code


def _run_leaderless(args: argparse.Namespace, seeds: range) -> int:
    seconds = min(args.seconds, LEADERLESS_S)
    if args.canary in CANARIES:
        print(f"januskv sim: {args.canary} is a canary of --mode strong", file=sys.stderr)
        return 2
    if args.canary:
        return leaderless_runs.run_canaries(args.canary, seconds=seconds)
    return leaderless_runs.run_all(
        seeds,
        seconds=seconds,
        jobs=min(args.jobs, len(seeds)),
        keyspaces=KEYSPACES in args.faults.split(","),
    )


def _run_traced(config: SimConfig, seeds: range) -> int:
    config = replace(config, seed=seeds.start)
    result = play_seed(config, sink=print)
    for violation in (*result.violations, *result.stuck):
        print(violation)
    print(f"seed {result.seed}: {_verdict(result)}")
    print(f"trace hash {result.trace_hash}")
    return 1 if result.violations else 3 if result.stuck else 0


def _run_canaries(name: str, jobs: int) -> int:
    missed = 0
    for canary in sorted(CANARIES) if name == "all" else [name]:
        verdict = catch(canary, jobs)
        print(verdict.text, flush=True)
        missed += not verdict.caught
    return 1 if missed else 0


def _verdict(result: SeedResult) -> str:
    if result.violations:
        return f"VIOLATED {result.violations[0].invariant}"
    return f"STUCK, {result.stuck[0].message}" if result.stuck else "all held"


def _print_failure(config: SimConfig, result: SeedResult) -> None:
    print(f"seed {result.seed}: {_verdict(result)}")
    for violation in (*result.violations[:3], *result.stuck[:3]):
        print(f"  {violation}".replace("\n", "\n  "))
    print(f"  last {min(TRACE_LINES, len(result.recent))} lines of its trace:")
    for line in result.recent[-TRACE_LINES:]:
        print(f"    {line[:160]}")
    print(f"  trace hash {result.trace_hash}")
    print(f"  replay: {replay_command(config)}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """`python -m chaos.cli sim ...`, for a clone in which `januskv` is not installed."""
    parser = argparse.ArgumentParser(prog="januskv")
    commands = parser.add_subparsers(dest="command", required=True)
    sim_command.add_arguments(commands.add_parser(sim_command.name, help=sim_command.help))
    return sim_command.run(parser.parse_args(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
