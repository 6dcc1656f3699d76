"""`python -m chaos.gossip`, in small."""

from __future__ import annotations

import math

import pytest

from chaos.gossip import _upper, false_alarms, main, rounds_to_all


def test_a_change_reaches_all_in_rounds_that_grow_as_the_logarithm() -> None:
    few = [rounds_to_all(16, seed, loss=0.05) for seed in range(5)]
    many = [rounds_to_all(128, seed, loss=0.05) for seed in range(5)]
    assert max(many) <= 3 * math.log2(128)
    assert sum(many) / 5 - sum(few) / 5 <= 2 * (math.log2(128) - math.log2(16))


def test_alarms_are_counted_and_bounded() -> None:
    quiet = false_alarms(100_000, 1, loss=0.05)
    assert quiet.alarms == 0
    assert quiet.silences > 3
    assert quiet.upper_per_hour == pytest.approx(3.0 / 100_000, rel=0.01)
    # Where half of all heartbeats are lost, it is wrong now and then, and says so.
    noisy = false_alarms(200, 1, loss=0.6)
    assert noisy.alarms > 0
    assert noisy.upper_per_hour > noisy.alarms / 200


def test_the_bound_is_that_of_a_poisson_number() -> None:
    assert _upper(0) == pytest.approx(-math.log(0.05))
    assert _upper(1) == pytest.approx(5.572, abs=0.01)


def test_the_command_prints_a_chart(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--nodes", "30", "--seeds", "1", "--hours", "100000"]) == 0
    shown = capsys.readouterr().out
    assert "rounds / log2(nodes)" in shown
    assert "95% confidence" in shown
