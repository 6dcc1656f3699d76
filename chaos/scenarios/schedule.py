"""When the faults of a scenario begin and how long they last, by seed. Values in, values out."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from chaos.scenarios.scenario import Fault, Scenario


@dataclass(frozen=True, slots=True)
class Step:
    """A fault at its moment. `seed` decides whom it hits and how."""

    fault: Fault
    at_s: float
    lasts_s: float
    seed: int


SHORT_FIRST: Final = 0.15
SHORT_LASTS: Final = 0.35
"""Shares of a short run, so that each fault of a scenario occurs in it."""


def schedule(scenario: Scenario, seconds: float, seed: int) -> tuple[Step, ...]:
    """When what begins, in order. Every fault occurs at least once, however short the run."""
    steps: list[Step] = []
    for number, fault in enumerate(scenario.faults):
        dice = Random(f"{seed} {number} {scenario.name}")
        at_s = min(fault.first_s * dice.uniform(0.8, 1.2), seconds * SHORT_FIRST)
        while True:
            lasts_s = min(fault.lasts_s * dice.uniform(0.7, 1.3), seconds * SHORT_LASTS)
            if at_s + lasts_s > seconds:
                break
            steps.append(Step(fault, at_s, lasts_s, dice.randrange(2**32)))
            at_s = max(at_s + lasts_s + 0.5, at_s + fault.every_s * dice.uniform(0.8, 1.2))
    return tuple(sorted(steps, key=lambda step: step.at_s))
