"""Faults of processes: killed, frozen, without power, restarted in good order."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random

from chaos.faults.stage import Stage
from chaos.scenarios.scenario import Fault
from chaos.servers import CLOCK, POLL_S

BETWEEN_RESTARTS_S = 1.0
READY_S = 30.0


@contextmanager
def kill(stage: Stage, fault: Fault, dice: Random) -> Iterator[str]:
    names = stage.targets(fault.target, dice)
    with stage.claim(names):
        stage.servers.kill(*names)
        try:
            yield f"kill -9 {' '.join(names)}"
        finally:
            start_again(stage, names)


@contextmanager
def freeze(stage: Stage, fault: Fault, dice: Random) -> Iterator[str]:
    names = stage.targets(fault.target, dice)
    with stage.claim(names):
        for name in names:
            stage.server(name).signal(signal.SIGSTOP)
        try:
            yield f"frozen {' '.join(names)}"
        finally:
            for name in names:
                stage.server(name).signal(signal.SIGCONT)


@contextmanager
def power_cut(stage: Stage, fault: Fault, dice: Random) -> Iterator[str]:
    names = stage.targets(fault.target, dice)
    with stage.claim(names):
        for name in names:
            stage.server(name).order({"do": "power-cut"})
        for name in names:
            stage.servers.wait_ended(name)
        try:
            yield f"no power {' '.join(names)}"
        finally:
            start_again(stage, names)


@contextmanager
def rolling_restart(stage: Stage, fault: Fault, dice: Random) -> Iterator[str]:
    """Done when it is told: the nodes one after the other, the next one only when the last is ready
    again, as operators are told to do it (or has not become so for a while, cut off by others)."""
    for name in dice.sample(stage.names, len(stage.names)):
        if stage.over.is_set():
            break
        with stage.claim([name]):
            stage.servers.stop(name)
            start_again(stage, [name])
        end = CLOCK.monotonic() + READY_S
        while not (stage.over.is_set() or stage.servers.is_ready(name)):
            if CLOCK.monotonic() > end:
                break
            stage.over.wait(POLL_S)
        stage.over.wait(BETWEEN_RESTARTS_S)
    yield "rolling restart"


def start_again(stage: Stage, names: Sequence[str]) -> None:
    stage.servers.start(*names)
    stage.servers.wait_started(*names)
