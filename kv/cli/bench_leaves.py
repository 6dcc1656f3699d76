"""`januskv bench leaves`: the share of a leaderless put that its Merkle leaves cost.

The measurement is kv/peers/leaves.py; this file reads the call and prints what was found.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Final

from kv.cli.bench_shared import DataDirectories, about
from kv.cli.command import whole_number
from kv.cli.peers_shared import seconds
from kv.cli.show import table
from kv.peers.leaves import NEW, OLD, LeafCost, leaf_cost, put_costs, replaced_us
from kv.peers.regimes import ENGINES
from storage.files import make_directory

HELP: Final = "the share of a leaderless put that incremental Merkle leaves cost"
DESCRIPTION: Final = (
    "Measure a leaf's processor time on a replica, with and without it in turns, for new keys and "
    "for old ones, and a whole put's "
    "on three leaderless nodes. Ends with code 1 if the share is not below 10 %, or a put failed."
)
OUT: Final = Path("bench-results/leaves.json")
WISHED: Final = 0.10
EXIT_MISSED: Final = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", choices=ENGINES, default="rocksdb")
    parser.add_argument("--seconds", type=seconds, default=4.0)
    parser.add_argument(
        "--turns", type=whole_number(10, 100_000), default=400, help="of 64 copies, each way"
    )
    parser.add_argument("--dir", type=Path, help="measure on this directory's disk")
    parser.add_argument("--out", type=Path, default=OUT, help=f"the JSON (default {OUT})")
    parser.add_argument("--json", action="store_true", help="print the JSON, not the table")


def run(args: argparse.Namespace) -> int:
    make_directory(args.out.parent, "write into")
    with tempfile.TemporaryDirectory(prefix="januskv-bench-", dir=args.dir) as scratch:
        with DataDirectories() as directories:
            engine = directories.engine(args.engine, Path(scratch) / "copies")
            copies = {
                keys: leaf_cost(engine, turns=args.turns, fresh=keys == NEW) for keys in (NEW, OLD)
            }
        nodes = Path(scratch) / "nodes"
        nodes.mkdir()
        puts = put_costs(nodes, args.engine, (64, 256), args.seconds, lambda _: None)
    costs = [
        LeafCost(
            keys, count, *copies[keys], replaced_us(put_us, copies[NEW][1], copies[keys][1]), errors
        )
        for keys in copies
        for count, put_us, errors in puts
    ]
    document = {**about(), "costs": [{**asdict(cost), "share": cost.share} for cost in costs]}
    args.out.write_text(json.dumps(document, indent=2) + "\n")
    if args.json:
        print(json.dumps(document, indent=2))
    else:
        print(text(costs))
        print(f"\nwritten: {args.out}")
    good = all(cost.share < WISHED and not cost.errors for cost in costs)
    return 0 if good else EXIT_MISSED


def text(costs: list[LeafCost]) -> str:
    rows = [
        (
            cost.keys,
            cost.connections,
            f"{cost.leaf_us:.1f} us",
            f"{cost.copy_us:.1f} us",
            f"{cost.put_us:.0f} us",
            f"{100 * cost.share:.1f} %",
            f"{100 * WISHED:.0f} %",
            ", ".join(f"{count} x {name}" for name, count in cost.errors.items()) or "none",
        )
        for cost in costs
    ]
    head = ("KEYS", "CONNECTIONS", "LEAF", "COPY", "PUT", "THREE LEAVES", "WISHED BELOW", "ERRORS")
    return table(head, rows, right=" ".join(head[1:2]))
