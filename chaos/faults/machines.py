"""Faults of a node's disk and clock, through the orders that nodes for tests take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from random import Random
from typing import Any

from chaos.faults.processes import start_again
from chaos.faults.stage import Stage
from chaos.scenarios.scenario import Fault

KIB = 1024


@contextmanager
def slow_disk(stage: Stage, fault: Fault, dice: Random) -> Iterator[str]:
    sync_ms = float(fault.options["sync_ms"])
    with _ordered(stage, fault, dice, {"do": "disk", "sync_s": sync_ms / 1e3}) as names:
        yield f"syncs {sync_ms:g} ms longer: {names}"


@contextmanager
def full_disk(stage: Stage, fault: Fault, dice: Random) -> Iterator[str]:
    free = int(float(fault.options["free_kb"]) * KIB)
    with _ordered(stage, fault, dice, {"do": "disk", "free_bytes": free}) as names:
        yield f"disk full: {names}"


@contextmanager
def broken_disk(stage: Stage, fault: Fault, dice: Random) -> Iterator[str]:
    """The node must end by itself: nothing may be acknowledged behind a failed sync."""
    names = stage.targets(fault.target, dice)
    with stage.claim(names):
        for name in names:
            stage.server(name).order({"do": "disk", "fail_sync": True})
        try:
            yield f"broken disk: {' '.join(names)}"
        finally:
            ended = []
            for name in names:
                if stage.server(name).running:  # it had nothing to write
                    stage.server(name).order({"do": "disk"})
                if not stage.server(name).running:
                    ended.append(name)
            start_again(stage, ended)


@contextmanager
def clock(stage: Stage, fault: Fault, dice: Random) -> Iterator[str]:
    offset_s, drift = float(fault.options["offset_s"]), float(fault.options["drift"])
    names = stage.targets(fault.target, dice)
    with stage.claim(names, down=False):
        for name in names:
            wrong = {"offset_s": dice.uniform(-offset_s, offset_s)}
            stage.server(name).order({"do": "clock", "drift": dice.uniform(-drift, drift), **wrong})
        try:
            yield f"clocks wrong: {' '.join(names)}"
        finally:
            for name in names:
                stage.server(name).order({"do": "clock"})


@contextmanager
def _ordered(stage: Stage, fault: Fault, dice: Random, order: Mapping[str, Any]) -> Iterator[str]:
    names = stage.targets(fault.target, dice)
    with stage.claim(names, down=False):
        for name in names:
            stage.server(name).order(order)
        try:
            yield " ".join(names)
        finally:
            for name in names:
                stage.server(name).order({"do": "disk"})
