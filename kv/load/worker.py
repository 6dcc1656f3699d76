"""The generator in processes of its own, so that it never shares an interpreter with its caller.

A child reads its load as JSON from standard input and writes its outcome as JSON to standard
output. With several processes the connections are shared out and the outcomes added up. Children
are ended with their caller: also when it is interrupted.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from kv.leash import environment
from kv.load.generator import Generator
from kv.load.plan import Load, Outcome
from storage.errors import JanusError

GRACE_S: Final = 60.0
"""For making the requests, connecting and the last answers."""
TICK_S: Final = 0.2

Waiting = Callable[[float], None]
"""Told, while a child works, how many seconds passed since it was last told."""


class GeneratorFailedError(JanusError):
    """A load generator ended without an outcome. The message has what it said."""

    code = "generator_failed"


def run(load: Load, processes: int, waiting: Waiting) -> Outcome:
    """Drive the load from so many processes (no more than there are connections)."""
    processes = min(processes, load.connections)
    shares = [load.connections // processes] * processes
    for at in range(load.connections % processes):
        shares[at] += 1
    with ExitStack() as stack:
        children = []
        for at, share in enumerate(shares):
            part = replace(load, connections=share, seed=load.seed + at)
            child = stack.enter_context(Child([*python("kv.load.worker")]))
            child.begin(json.dumps(part.as_json()))
            children.append(child)
        limit_s = load.warm_up_s + load.seconds + GRACE_S
        outcomes = [
            Outcome.from_json(json.loads(child.output(limit_s, waiting))) for child in children
        ]
    for other in outcomes[1:]:
        outcomes[0].merge(other)
    return outcomes[0]


class Child:
    """A program that is given a text and answers with one; ended on leaving."""

    def __init__(self, command: Sequence[str]) -> None:
        self._name = Path(command[0]).name
        self._text = ""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def begin(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.close()
        self._process.stdin = None

    def output(self, limit_s: float, waiting: Waiting) -> str:
        waited = 0.0
        while True:
            try:
                output, complaint = self._process.communicate(timeout=TICK_S)
                break
            except subprocess.TimeoutExpired:
                waited += TICK_S
                waiting(TICK_S)
                if waited > limit_s:
                    raise GeneratorFailedError(
                        f"the load generator {self._name} was not done after {waited:.0f} s"
                    ) from None
        if self._process.returncode != 0:
            said = complaint.strip().splitlines() or ["nothing said"]
            raise GeneratorFailedError(
                f"the load generator {self._name} ended with code "
                f"{self._process.returncode}: {said[-1]}"
            )
        return output


def python(module: str) -> list[str]:
    """A module of ours as a program."""
    return [sys.executable, "-P", "-m", module]


def main() -> int:
    load = Load.from_json(json.load(sys.stdin))
    if load.core is not None:
        os.sched_setaffinity(0, {load.core})
    try:
        outcome = Generator(load, random.Random(load.seed)).run()
    except JanusError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    json.dump(outcome.as_json(), sys.stdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
