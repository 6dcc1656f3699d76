"""Each known bug, put back, is caught; and the directed schedules accuse nobody innocent."""

from __future__ import annotations

import pytest

from chaos.sim.canary import CANARIES, catch
from chaos.sim.directed import SCRIPTS
from chaos.sim.patches import PATCHED, SERVED

pytestmark = pytest.mark.sim


LONG = PATCHED.keys() - {"no-txn-locks", "locks-not-read-back", "dead-not-declared", *SERVED}
"""Not every seed shows them: `januskv sim --canary NAME` looks for one that does."""


@pytest.mark.parametrize("canary", sorted(CANARIES - LONG))
def test_caught(canary: str) -> None:
    verdict = catch(canary, jobs=1)
    assert verdict.caught, verdict.text


@pytest.mark.parametrize("canary", sorted(SCRIPTS))
@pytest.mark.parametrize("seed", range(2, 5))
def test_a_script_works_with_other_dice(canary: str, seed: int) -> None:
    script = SCRIPTS[canary]
    assert script((), seed) == []
    assert script({canary}, seed) != []
