"""What the measurements beside etcd share: which systems, where the results go."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from kv.peers.cluster import System
from kv.peers.etcd import Etcd
from kv.peers.janus import JanusKV
from kv.peers.summary import ETCD, JANUSKV
from storage.errors import InvalidOptionError
from storage.files import make_directory


def add_surroundings(parser: argparse.ArgumentParser, out: Path) -> None:
    parser.add_argument(
        "--januskv",
        type=shlex.split,
        default=[],
        metavar="COMMAND",
        help="the command that is JanusKV, to measure another version (default: this one)",
    )
    parser.add_argument(
        "--dir", type=Path, help="measure on this directory's disk (default: the temporary one)"
    )
    parser.add_argument("--out", type=Path, default=out, help=f"the JSON (default {out})")
    parser.add_argument("--chart", type=Path, help="the picture, SVG (default: beside the JSON)")
    parser.add_argument("--json", action="store_true", help="print the JSON, not the table")


def seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not 0.1 <= number <= 3_600:
        raise argparse.ArgumentTypeError(f"{text} is outside 0.1..3600")
    return number


def systems_of(words: Sequence[str | None], januskv: Sequence[str]) -> list[System]:
    """Those that are named; both if neither is."""
    named = [name for name in (JANUSKV, ETCD) if name in words]
    chosen = named or [JANUSKV, ETCD]
    return [JanusKV(januskv) if name == JANUSKV else Etcd() for name in chosen]


def outputs(args: argparse.Namespace, usual: Path) -> tuple[Path, Path]:
    """Where the results go; found out before minutes are spent."""
    out = args.out / usual.name if args.out.is_dir() else args.out
    picture = args.chart or out.with_suffix(".svg")
    if picture == out:
        raise InvalidOptionError(f"--out and --chart are the same file, {out}")
    for path in (out, picture):
        make_directory(path.parent, "write into")
    if args.dir is not None:
        make_directory(args.dir, "measure in")
    return out, picture
