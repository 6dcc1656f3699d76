"""`januskv bench peers`: JanusKV beside the real etcd, on this machine, under the same load.

Three nodes each, in turn, through the etcd v3 JSON gateway, which both speak. The measurement is
kv/peers/measuring.py; this file reads the call, writes down what was found and draws it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from kv.cli import chart, peers_table
from kv.cli.bench_shared import about
from kv.cli.command import whole_number
from kv.cli.peers_shared import add_surroundings, outputs, seconds, systems_of
from kv.cli.progress import Progress
from kv.load import wrk
from kv.load.plan import VALUE_MAX_BYTES, Operation
from kv.peers import endurance, summary
from kv.peers.cluster import System
from kv.peers.etcd import NATIVE_OFFERED, NATIVE_S, Etcd, Native, native, need
from kv.peers.measuring import ALL, LEADER, Plan, measure
from storage.errors import InvalidOptionError

HELP: Final = "JanusKV beside the real etcd 3.5.1: puts and linearizable gets, same load"
DESCRIPTION: Final = (
    "Start three JanusKV nodes and three etcd members in turn on the same disk, drive both through "
    "the etcd v3 JSON gateway with the same load generator, and print throughput, latencies and "
    "ratios. Ends with code 1 if a run had errors or its work was not real."
)
WORDS: Final = (summary.JANUSKV, summary.ETCD, *Operation)
TARGETS: Final = {"all": (ALL,), "leader": (LEADER,), "both": (ALL, LEADER)}
OUT: Final = Path("bench-results/peers.json")
CONNECTIONS_MAX: Final = 10_000
EXIT_NO_RESULT: Final = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = Plan()
    parser.add_argument(
        "--seconds",
        type=seconds,
        default=default.seconds,
        help=f"measured time of each load (default {default.seconds:g})",
    )
    parser.add_argument(
        "--warm-up",
        type=seconds,
        default=default.warm_up_s,
        metavar="SECONDS",
        help=f"load before that, not measured (default {default.warm_up_s:g})",
    )
    parser.add_argument(
        "--rounds",
        type=whole_number(1, 100),
        default=default.rounds,
        help=f"each system so often, in turn; figures are medians (default {default.rounds})",
    )
    parser.add_argument(
        "--connections",
        type=_numbers,
        default=list(default.connections),
        metavar="N,N,...",
        help="requests in flight, one a connection (default 1,16,64,256)",
    )
    parser.add_argument(
        "--keys",
        type=whole_number(1, 1_000_000),
        help=f"how many there are; requests draw among them (default {default.keys:,})",
    )
    parser.add_argument(
        "--value-bytes",
        type=whole_number(1, VALUE_MAX_BYTES),
        default=default.value_bytes,
        help=f"size of a value (default {default.value_bytes})",
    )
    parser.add_argument(
        "--to",
        choices=tuple(TARGETS),
        default="all",
        help="ask all nodes in turn, only the leader, or measure both ways (default all)",
    )
    parser.add_argument(
        "--only",
        type=_words,
        default=list(WORDS),
        metavar="WORD,...",
        help=f"a part of it: systems and operations among {', '.join(WORDS)}",
    )
    _add_how(parser, default)


def _add_how(parser: argparse.ArgumentParser, default: Plan) -> None:
    parser.add_argument(
        "--native",
        action=argparse.BooleanOptionalAction,
        help="also run `etcdctl check perf`, a minute of puts over etcd's own gRPC (default: only "
        "when --only, --seconds, --rounds and --connections are left as they are)",
    )
    parser.add_argument(
        "--native-load",
        choices=tuple(NATIVE_OFFERED),
        default="xl",
        help="its load: s, m, l, xl offer 150, 1,000, 8,000, 15,000 puts a second (default xl)",
    )
    parser.add_argument(
        "--generator",
        choices=("auto", "wrk", "own"),
        default="auto",
        help="wrk where it is installed, else our own (auto)",
    )
    parser.add_argument(
        "--processes",
        type=whole_number(1, 64),
        default=default.processes,
        help="processes of our own generator (default 1: two would starve the nodes of two cores)",
    )
    parser.add_argument(
        "--memory",
        type=seconds,
        metavar="SECONDS",
        help="instead: JanusKV alone with --keys keys (default 1,000,000) under puts and gets at "
        "once for so long, and whether the nodes' anonymous memory stands still",
    )
    add_surroundings(parser, OUT)


def _numbers(text: str) -> list[int]:
    return list(dict.fromkeys(whole_number(1, CONNECTIONS_MAX)(word) for word in text.split(",")))


def _words(text: str) -> list[str]:
    words = text.split(",")
    unknown = [word for word in words if word not in WORDS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(WORDS)}")
    return words


def run(args: argparse.Namespace) -> int:
    if args.memory:
        return _endure(args)
    plan, systems = plan_of(args), systems_of(args.only, args.januskv)
    with_native = wants_native(args)
    if with_native:
        need("etcdctl")
    out, picture = outputs(args, OUT)
    result, of_native = _measured(args, plan, systems, with_native)
    found = summary.rows(result.cells)
    document = {
        **about(),
        "plan": {
            "seconds": plan.seconds,
            "warm_up_s": plan.warm_up_s,
            "rounds": plan.rounds,
            "keys": plan.keys,
            "value_bytes": plan.value_bytes,
            "generator_processes": plan.processes,
        },
        "rows": [row.as_json() for row in found],
        "etcd_native": of_native.as_json() if of_native else None,
        **result.as_json(),
    }
    out.write_text(json.dumps(document, indent=2) + "\n")
    picture.write_text(draw(found, plan))
    if args.json:
        print(json.dumps(document, indent=2))
    else:
        print(peers_table.text(result, found, plan, of_native))
        print(f"\nwritten: {out}, {picture}")
    return EXIT_NO_RESULT if any(cell.problem for cell in result.cells) else 0


def _endure(args: argparse.Namespace) -> int:
    plan = endurance.Plan(
        keys=args.keys or endurance.Plan().keys, value_bytes=args.value_bytes, seconds=args.memory
    )
    (system,) = systems_of([summary.JANUSKV], args.januskv)
    out, _ = outputs(args, OUT)
    progress = Progress(round(plan.estimate_s() * 1_000))
    try:
        with tempfile.TemporaryDirectory(prefix="januskv-bench-", dir=args.dir) as scratch:
            found = endurance.measure(
                system, plan, Path(scratch), lambda s, what: progress.advance(round(s * 1e3), what)
            )
    finally:
        progress.finish()
    out.write_text(json.dumps({**about(), "memory": found.as_json()}, indent=2) + "\n")
    if args.json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        print("\n".join(peers_table.memory(found, plan)))
        print(f"\nwritten: {out}")
    return EXIT_NO_RESULT if found.problem or not found.holds else 0


def _measured(
    args: argparse.Namespace, plan: Plan, systems: Sequence[System], with_native: bool
) -> tuple[Any, Native | None]:
    estimate_s = plan.estimate_s(len(systems)) + (NATIVE_S if with_native else 0)
    progress = Progress(round(estimate_s * 1_000))

    def report(seconds: float, what: str) -> None:
        progress.advance(round(seconds * 1_000), what)

    try:
        with tempfile.TemporaryDirectory(prefix="januskv-bench-", dir=args.dir) as scratch:
            result = measure(systems, plan, Path(scratch), report)
            if not with_native:
                return result, None
            directory = Path(scratch, "native")
            directory.mkdir()
            with Etcd().running(directory) as nodes:
                return result, native(
                    nodes, args.native_load, lambda s: report(s, "etcdctl check perf")
                )
    finally:
        progress.finish()


def plan_of(args: argparse.Namespace) -> Plan:
    binary = wrk.wrk_binary() if args.generator != "own" else None
    if args.generator == "wrk" and binary is None:
        raise InvalidOptionError("--generator wrk: there is no wrk on the PATH; install it or own")
    operations = [word for word in Operation if word in args.only]
    return Plan(
        seconds=args.seconds,
        warm_up_s=args.warm_up,
        rounds=args.rounds,
        connections=args.connections,
        operations=operations or list(Operation),
        targets=TARGETS[args.to],
        keys=args.keys or Plan().keys,
        value_bytes=args.value_bytes,
        processes=args.processes,
        wrk=binary,
    )


def wants_native(args: argparse.Namespace) -> bool:
    if args.native is not None:
        return bool(args.native)
    default = Plan()
    wanted: bool = (
        args.only == list(WORDS)
        and args.seconds >= default.seconds
        and args.rounds >= default.rounds
        and args.connections == list(default.connections)
    )
    return wanted


def draw(found: Sequence[summary.Row], plan: Plan) -> str:
    panels = []
    for row in found:
        several = len(plan.targets) > 1
        where = f" at {'the leader' if row.target == LEADER else 'all nodes'}" if several else ""
        ratio = f", ratio {row.ratio:.1f}" if row.ratio is not None else ""
        panels.append(
            chart.Panel(
                f"{row.operation}, {peers_table.connections(row.connections)}{where}{ratio}",
                "requests a second, more is better",
                [
                    (name, figures.per_second, f"{figures.per_second:,.0f}")
                    for name, figures in row.figures.items()
                ],
            )
        )
    return chart.bars(
        "JanusKV beside etcd, through the JSON gateway",
        f"three nodes each on one machine, {plan.keys:,} keys, values of {plan.value_bytes} bytes, "
        f"every put synced, gets linearizable; medians of {plan.rounds} rounds",
        panels,
        columns=max(1, min(4, len(plan.connections))),
    )
