"""The program under test: writes a workload's batches through an engine and says what is promised.

It goes on where the database stands, so it may be killed and started again. Each line that it
prints is one write to standard output, made after the promise came true:

    opened N       the engine is open and shows the first N batches
    ack N          write(sync=True) of batch N has returned
    checkpoint N   checkpoint() of the state after batch N has returned (DIRECTORY/checkpoint-N)
    closed         close() has returned
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Final

from chaos.powercut.opening import opener
from chaos.powercut.workload import HEAD_KEY, Workload
from storage.engine import Batch

DATABASE: Final = "db"


def main() -> None:
    arguments = _parse()
    workload = Workload(
        arguments.seed,
        arguments.batches,
        large_max_bytes=arguments.large_max_bytes,
    )
    directory: Path = arguments.directory
    engine = opener(arguments.open)(directory / DATABASE)
    with engine.snapshot() as snapshot:
        head = int(snapshot.get(HEAD_KEY) or b"0")
    say(f"opened {head}")
    for number in range(head + 1, workload.batches + 1):
        synced = workload.is_synced(number)
        engine.write(workload.batch(number), sync=synced)
        if synced:
            say(f"ack {number}")
        if arguments.checkpoint_every and number % arguments.checkpoint_every == 0:
            engine.checkpoint(directory / f"checkpoint-{number}")
            say(f"checkpoint {number}")
    engine.write(Batch(), sync=True)
    say(f"ack {workload.batches}")
    engine.close()
    say("closed")


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos.powercut.writer")
    parser.add_argument("--open", required=True, metavar="MODULE:FUNCTION")
    parser.add_argument("--directory", required=True, type=Path)
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--batches", required=True, type=int)
    parser.add_argument("--large-max-bytes", type=int, default=24_000)
    parser.add_argument("--checkpoint-every", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
