"""`januskv bench regimes`: strong and leaderless side by side, whole and with a node down.

The measurement is kv/peers/regimes.py; this file reads the call and prints what was found.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Final

from kv.cli.bench_shared import about
from kv.cli.command import whole_number
from kv.cli.peers_shared import seconds
from kv.cli.progress import Progress
from kv.cli.show import table
from kv.load import wrk
from kv.load.plan import Operation
from kv.peers.regimes import (
    ENGINES,
    HEALTHY,
    LEADERLESS,
    ONE_DOWN,
    STRONG,
    WISHED,
    RegimeCell,
    RegimePlan,
    measure,
)
from storage.files import make_directory

HELP: Final = "the strong and the leaderless regime, whole and with a node down"
DESCRIPTION: Final = (
    "Start three nodes of each regime in turn, drive them over REST with the same load (puts of "
    "new keys, gets), kill one node and go on at half of what was measured. Leaderless: N=3, "
    "R=W=2, and an answer counts only if it names two replicas. Ends with code 1 if there was an "
    "error."
)
OUT: Final = Path("bench-results/regimes.json")
EXIT_NO_RESULT: Final = 1
_HEAD: Final = (
    *("ENGINE", "STATE", "OP", "CONNECTIONS", "STRONG/S", "P50", "P99", "LEADERLESS/S", "p50"),
    *("p99", "RATIO", "WISHED", "ERRORS"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = RegimePlan()
    parser.add_argument("--seconds", type=seconds, default=default.seconds)
    parser.add_argument("--warm-up", type=seconds, default=default.warm_up_s, metavar="SECONDS")
    parser.add_argument("--rounds", type=whole_number(1, 100), default=default.rounds)
    parser.add_argument(
        "--connections", type=_numbers, default=list(default.connections), metavar="N,N,..."
    )
    parser.add_argument(
        "--engines", type=_engines, default=list(ENGINES), metavar="NAME,...", help="lmdb, rocksdb"
    )
    parser.add_argument("--keys", type=whole_number(1, 1_000_000), default=default.keys)
    parser.add_argument(
        "--value-bytes", type=whole_number(1, 32 * 1024), default=default.value_bytes
    )
    parser.add_argument(
        "--generator",
        choices=("auto", "wrk", "own"),
        default="auto",
        help="wrk where it is installed, else our own (auto)",
    )
    parser.add_argument("--dir", type=Path, help="measure on this directory's disk")
    parser.add_argument("--out", type=Path, default=OUT, help=f"the JSON (default {OUT})")
    parser.add_argument("--json", action="store_true", help="print the JSON, not the table")


def _numbers(text: str) -> list[int]:
    return list(dict.fromkeys(whole_number(1, 10_000)(word) for word in text.split(",")))


def _engines(text: str) -> list[str]:
    words = text.split(",")
    for word in words:
        if word not in ENGINES:
            raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(ENGINES)}")
    return words


def run(args: argparse.Namespace) -> int:
    plan = RegimePlan(
        args.seconds,
        args.warm_up,
        args.rounds,
        args.connections,
        args.engines,
        args.keys,
        args.value_bytes,
        wrk.wrk_binary() if args.generator != "own" else None,
    )
    make_directory(args.out.parent, "write into")
    progress = Progress(round(plan.estimate_s() * 1_000))

    def report(seconds: float, what: str) -> None:
        progress.advance(round(seconds * 1_000), what)

    try:
        with tempfile.TemporaryDirectory(prefix="januskv-bench-", dir=args.dir) as scratch:
            cells = measure(plan, Path(scratch), report)
    finally:
        progress.finish()
    document = {**about(), "cells": [asdict(cell) for cell in cells]}
    args.out.write_text(json.dumps(document, indent=2) + "\n")
    if args.json:
        print(json.dumps(document, indent=2))
    else:
        print(text(cells, plan))
        print(f"\nwritten: {args.out}")
    return EXIT_NO_RESULT if any(cell.errors for cell in cells) else 0


def text(cells: Sequence[RegimeCell], plan: RegimePlan) -> str:
    rows = [
        _row(cells, engine, state, operation, connections)
        for engine in plan.engines
        for state in (HEALTHY, ONE_DOWN)
        for operation in (Operation.PUT, Operation.GET)
        for connections in plan.connections
    ]
    return table(
        _HEAD,
        rows,
        right="CONNECTIONS STRONG/S P50 P99 LEADERLESS/S p50 p99 RATIO WISHED",
    )


def _row(
    cells: Sequence[RegimeCell], engine: str, state: str, operation: Operation, connections: int
) -> tuple[object, ...]:
    chosen = {
        regime: [
            cell
            for cell in cells
            if (cell.regime, cell.engine, cell.state, cell.operation, cell.connections)
            == (regime, engine, state, operation, connections)
        ]
        for regime in (STRONG, LEADERLESS)
    }
    strong, leaderless = chosen[STRONG], chosen[LEADERLESS]
    rate, other = (median(cell.per_second for cell in each) for each in (strong, leaderless))
    healthy = state == HEALTHY
    errors = [
        f"{cell.regime}: {count} x {name}"
        for cell in (*strong, *leaderless)
        for name, count in cell.errors.items()
    ]
    return (
        engine,
        state,
        operation.value,
        connections,
        f"{rate:,.0f}",
        *_times(strong),
        f"{other:,.0f}",
        *_times(leaderless),
        f"{other / rate:.2f}" if healthy and rate else "",
        f"{WISHED[operation]:.2f}" if healthy else "",
        ", ".join(errors) or "none",
    )


def _times(cells: Sequence[RegimeCell]) -> tuple[str, str]:
    p50, p99 = (
        median(value) / 1000
        for value in zip(*((cell.p50_us, cell.p99_us) for cell in cells), strict=True)
    )
    return f"{p50:.1f} ms", f"{p99:.1f} ms"
