"""Faults of links: cut, late, reset, narrow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from random import Random

from chaos.faults.shapes import cut_pairs
from chaos.faults.stage import Stage
from chaos.links import Pair
from chaos.scenarios.scenario import Fault

SWIZZLE_S = 0.4
RESET_S = 1.0
SLICE_BYTES = 512
_tags = count(1)


def _tag(fault: Fault) -> str:
    return f"{fault.kind}-{next(_tags)}"


@contextmanager
def partition(stage: Stage, fault: Fault, dice: Random) -> Iterator[str]:
    shape, tag = str(fault.options["shape"]), _tag(fault)
    targets = stage.targets(fault.target, dice)
    pairs = cut_pairs(shape, stage.names, targets, dice)
    how = str(fault.options["how"])
    refuse = how == "refuse" or (how == "either" and dice.random() < 0.3)
    try:
        if shape == "swizzle":
            yield from _swizzle(stage, tag, pairs, dice)
        else:
            stage.links.cut(tag, pairs, refuse=refuse)
            whom = f" {' '.join(targets)}" if shape in ("apart", "one-way", "deaf") else ""
            yield f"partition {shape}{whom}"
    finally:
        stage.links.heal(tag)


def _swizzle(stage: Stage, tag: str, pairs: Sequence[Pair], dice: Random) -> Iterator[str]:
    both = sorted({(min(a, b), max(a, b)) for a, b in pairs})
    dice.shuffle(both)
    for a, b in both:
        stage.links.cut(tag, [(a, b), (b, a)], refuse=False)
        stage.over.wait(SWIZZLE_S)
    yield f"swizzle of {len(both)} links"
    dice.shuffle(both)
    for pair in both:
        stage.links.heal_pair(tag, pair)
        stage.over.wait(SWIZZLE_S)


@contextmanager
def latency(stage: Stage, fault: Fault, dice: Random) -> Iterator[str]:
    late, jitter = int(fault.options["latency_ms"]), int(fault.options["jitter_ms"])
    attributes = {"latency": late, "jitter": min(jitter, late)}
    with _spoiled(stage, fault, dice, "latency", attributes) as where:
        yield f"{late} ms late: {where}"


@contextmanager
def slow_links(stage: Stage, fault: Fault, dice: Random) -> Iterator[str]:
    rate = int(fault.options["rate_kb"])
    with _spoiled(stage, fault, dice, "bandwidth", {"rate": rate}) as where:
        yield f"{rate} KiB/s: {where}"


@contextmanager
def lost_connections(stage: Stage, fault: Fault, dice: Random) -> Iterator[str]:
    """Each connection that the toxic takes hold of lives for a moment, then it is reset."""
    share = float(fault.options["share"])
    attributes = {"timeout": int(RESET_S * 1000)}
    with _spoiled(stage, fault, dice, "reset_peer", attributes, share) as where:
        yield f"connections reset: {where}"


@contextmanager
def _spoiled(
    stage: Stage,
    fault: Fault,
    dice: Random,
    kind: str,
    attributes: dict[str, int],
    share: float = 1.0,
) -> Iterator[str]:
    tag, where = _tag(fault), str(fault.options["where"])
    names = stage.targets(fault.target, dice)
    pairs = stage.pairs(names) if where in ("peers", "both") else set()
    doors = names if where in ("clients", "both") else []
    try:
        stage.links.spoil(tag, pairs, doors, kind, attributes, share)
        yield f"{where} of {' '.join(names)}"
    finally:
        stage.links.heal(tag)
