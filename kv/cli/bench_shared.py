"""What the measurements share: where they write, how a run is handed out, how figures are written.

Invariant: whatever happens, the scratch directory and the engines in it are gone afterwards.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

from storage.datadir import DataDirectory, RegimeName
from storage.engine import Engine
from storage.environment import open_engine
from storage.files import make_directory
from storage.system_clock import SystemClock


def add_common_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument(
        "--dir", type=Path, help="measure on this directory's disk (default: the temporary one)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("bench-results"),
        help=f"where {name}.json and {name}.svg go (default ./bench-results)",
    )
    parser.add_argument("--json", action="store_true", help="print the JSON, not the table")


class DataDirectories(ExitStack):
    """Opens engines as a node does: in a locked, stamped data directory each."""

    def engine(self, name: str, path: Path) -> Engine:
        directory = self.enter_context(DataDirectory.open(path, create=True))
        return open_engine(directory, RegimeName.STRONG, name, clock=SystemClock())


@contextmanager
def scratch_space(args: argparse.Namespace) -> Iterator[tuple[Path, DataDirectories]]:
    for directory in (args.out, args.dir):
        if directory is not None:
            make_directory(directory, "measure in" if directory is args.dir else "write into")
    with (
        tempfile.TemporaryDirectory(prefix="januskv-bench-", dir=args.dir) as scratch,
        DataDirectories() as directories,
    ):
        yield Path(scratch), directories


def about() -> dict[str, Any]:
    """What measured, for the head of a document."""
    return {"januskv": version("januskv"), "python": python_version()}


def hand_out(
    args: argparse.Namespace, name: str, document: dict[str, Any], text: str, picture: str
) -> None:
    (args.out / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    (args.out / f"{name}.svg").write_text(picture)
    if args.json:
        print(json.dumps(document, indent=2))
    else:
        print(text)
        print(f"\nwritten: {args.out / f'{name}.json'}, {args.out / f'{name}.svg'}")


def duration(microseconds: float) -> str:
    if microseconds < 1_000:
        return f"{microseconds:.1f} us"
    return f"{microseconds / 1_000:.2f} ms"


def size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
