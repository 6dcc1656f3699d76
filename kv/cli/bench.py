"""`januskv bench WHAT`: one sub-command a measurement, each in a file of its own (bench_*.py)."""

from __future__ import annotations

import argparse

from kv.cli import (
    bench_engines,
    bench_leaves,
    bench_peers,
    bench_raft,
    bench_regimes,
    bench_watchers,
)

KINDS = {
    "engines": bench_engines,
    "leaves": bench_leaves,
    "peers": bench_peers,
    "raft": bench_raft,
    "regimes": bench_regimes,
    "watchers": bench_watchers,
}


class BenchCommand:
    name = "bench"
    help = "measure this machine: storage engines, Raft groups, both regimes, JanusKV beside etcd"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        chosen = parser.add_subparsers(dest="bench", required=True, metavar="WHAT")
        for name, kind in KINDS.items():
            kind.add_arguments(
                chosen.add_parser(name, help=kind.HELP, description=kind.DESCRIPTION)
            )

    def run(self, args: argparse.Namespace) -> int:
        code: int = KINDS[args.bench].run(args)
        return code
