"""`januskv backup` and `januskv restore`: a data directory copied whole, and put back whole.

The directory must not be in use: a node that runs holds its lock (an online backup goes through
the node). Verification compares every byte with the manifest before anything is believed.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from kv.cli.progress import Progress
from raftgroups.identity import stand_alone
from raftgroups.transport import NodeId
from storage import checkpoint
from storage.datadir import DataDirectory, RegimeName
from storage.engine import Engine
from storage.environment import ENVIRONMENT_STAMP_NAME, engine_name_of, open_engine
from storage.errors import InvalidOptionError
from storage.restore import restore
from storage.system_clock import SystemClock

EXIT_NOT_WHOLE: Final = 1


class BytesDone:
    """Steps of a checkpoint on a progress bar; each step counts from the start."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._step = ""

    def __call__(self, step: str, done_bytes: int, all_bytes: int) -> None:
        if step != self._step or self._bar is None:
            self.finish()
            self._step, self._bar = step, Progress(all_bytes)
        self._bar.advance(done_bytes - self._bar.done, step)

    def finish(self) -> None:
        if self._bar is not None:
            self._bar.finish()


class BackupCommand:
    name = "backup"
    help = "copy a stopped node's data directory, or verify such a copy"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("target", type=Path, help="the backup: a new or empty directory")
        parser.add_argument("--data", type=Path, help="the data directory to copy")
        parser.add_argument(
            "--verify",
            action="store_true",
            help="only compare an existing backup with its manifest; exit code 1 if it differs",
        )

    def run(self, args: argparse.Namespace) -> int:
        if args.verify == (args.data is not None):
            raise InvalidOptionError("give either --data DIR to copy or --verify to compare")
        progress = BytesDone()
        return self._verify(args.target, progress) if args.verify else self._copy(args, progress)

    def _verify(self, target: Path, progress: BytesDone) -> int:
        problems = checkpoint.verify(target, progress)
        progress.finish()
        for problem in problems:
            print(problem)
        if problems:
            print(f"{target} is not whole; use another backup")
            return EXIT_NOT_WHOLE
        print(f"{target} is whole: {describe(checkpoint.read_manifest(target))}")
        return 0

    def _copy(self, args: argparse.Namespace, progress: BytesDone) -> int:
        checkpoint.check_target(args.target)
        clock = SystemClock()
        with ExitStack() as stack:
            directory = stack.enter_context(DataDirectory.open(args.data, create=False))
            engines: dict[RegimeName, Engine] = {}
            for regime in RegimeName:
                if (directory.environment_path(regime) / ENVIRONMENT_STAMP_NAME).exists():
                    name = engine_name_of(directory, regime)
                    engines[regime] = open_engine(directory, regime, name, clock=clock)
                    stack.callback(engines[regime].close)
            manifest = checkpoint.write_checkpoint(
                args.target, directory, engines, created_wall_s=clock.wall(), progress=progress
            )
        progress.finish()
        print(f"{args.target}: {describe(manifest)}")
        return 0


class RestoreCommand:
    name = "restore"
    help = "put a backup back as a data directory, after verifying every byte"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("backup", type=Path)
        parser.add_argument("--data", type=Path, required=True, help="a new or empty directory")
        parser.add_argument(
            "--node-id", help="make it the directory of another node (default: as backed up)"
        )
        parser.add_argument(
            "--alone",
            action="store_true",
            help="the cluster is gone: make this data a cluster of its own with this one node. "
            "Without it the node waits until its old cluster removes it and adds it again",
        )

    def run(self, args: argparse.Namespace) -> int:
        progress = BytesDone()
        manifest = restore(args.backup, args.data, node_id=args.node_id, progress=progress)
        progress.finish()
        print(f"{args.data}: {describe(manifest)}; the next start takes a new incarnation")
        if RegimeName.LEADERLESS in manifest.engines and not args.alone:
            print(
                "its leaderless data is left out at that start and the other nodes fill it, since "
                "keys may have been deleted since; if all nodes are restored together, start each "
                "once with leaderless.keep_restored = true instead"
            )
        if args.alone:
            groups = make_alone(args.data)
            print(f"a cluster of its own now ({groups} groups): januskv serve --data {args.data}")
        return 0


def make_alone(data: Path) -> int:
    """Its groups go on with this node as their only member."""
    clock = SystemClock()
    with DataDirectory.open(data, create=False) as directory:
        name = engine_name_of(directory, RegimeName.STRONG)
        engine = open_engine(directory, RegimeName.STRONG, name, clock=clock)
        try:
            identity = directory.identity
            groups = stand_alone(engine, NodeId(identity.node_id), identity.incarnation)
            directory.found_cluster(f"alone-{identity.node_id}-{identity.incarnation:x}")
            return len(groups)
        finally:
            engine.close()


def describe(manifest: checkpoint.Manifest) -> str:
    engines = ", ".join(f"{regime} on {name}" for regime, name in manifest.engines.items())
    return (
        f"{len(manifest.files)} files, {manifest.size_bytes} bytes ({engines or 'no data'}), "
        f"node {manifest.node_id}, taken {manifest.created_at}"
    )
