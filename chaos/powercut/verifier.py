"""Opens databases that a power cut or a kill left behind, and tells what they hold.

A process of its own, because a damaged file may end the process that maps it. It reads one request
a line from standard input and answers one line, both JSON:

    {"path": "...", "go_on": true}  ->  {"head": 12, "problem": null}

`head` is the number of batches that the database shows. With `go_on` it also writes the next batch,
closes, opens again and compares, so that a database that opens but can no longer be used is found.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from chaos.powercut.opening import Opener, opener
from chaos.powercut.workload import States, Workload, head_of
from storage.engine import iterate
from storage.errors import JanusError


def main() -> None:
    parser = argparse.ArgumentParser(prog="chaos.powercut.verifier")
    parser.add_argument("--open", required=True, metavar="MODULE:FUNCTION")
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--batches", required=True, type=int)
    parser.add_argument("--large-max-bytes", type=int, default=24_000)
    arguments = parser.parse_args()
    workload = Workload(
        arguments.seed, arguments.batches + 1, large_max_bytes=arguments.large_max_bytes
    )
    states = States(workload)
    open_engine = opener(arguments.open)
    for line in sys.stdin:
        request = json.loads(line)
        path = Path(request["path"])
        answer = verify(open_engine, path, workload, states, go_on=request["go_on"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def verify(
    open_engine: Opener,
    path: Path,
    workload: Workload,
    states: States,
    *,
    go_on: bool,
) -> dict[str, Any]:
    head = -1
    try:
        found = read_all(open_engine, path)
        head = head_of(found)
        problem = states.difference(found)
        if problem is None and go_on:
            write_next(open_engine, path, workload, head + 1)
            again = read_all(open_engine, path)
            if again != states[head + 1]:
                problem = f"after one more batch and a restart: {states.difference(again)}"
    except JanusError as error:
        problem = f"{type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001  whatever an engine raises on a damaged file is its verdict
        problem = f"unexpected {type(error).__name__}: {error}"
    return {"head": head, "problem": problem}


def read_all(open_engine: Opener, path: Path) -> dict[bytes, bytes]:
    engine = open_engine(path)
    try:
        with engine.snapshot() as snapshot:
            return dict(iterate(snapshot))
    finally:
        engine.close()


def write_next(open_engine: Opener, path: Path, workload: Workload, number: int) -> None:
    engine = open_engine(path)
    try:
        engine.write(workload.batch(number), sync=True)
    finally:
        engine.close()


if __name__ == "__main__":
    main()
