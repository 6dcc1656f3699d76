"""Silence is judged by what was heard before it; a freeze of our own is not theirs."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.cluster.phi import Health, PhiDetector, PhiOptions
from raftgroups.transport import NodeId

PEER = NodeId("peer")
LOSS = 0.05


def _steady(seconds: int = 200, interval_s: float = 1.0) -> tuple[PhiDetector, float]:
    detector, now_s = PhiDetector(), 0.0
    for _ in range(seconds):
        detector.heard(PEER, now_s)
        now_s += interval_s
    return detector, now_s - interval_s


def test_phi_is_the_logarithm_of_the_chance_of_silence() -> None:
    detector, last_s = _steady(5_000)
    mean_s = detector.mean_s(PEER)
    assert mean_s == pytest.approx(1.0, rel=0.01)
    for silent_s in (0.0, 1.0, 7.5):
        expected = -math.log10(math.exp(-silent_s / mean_s))
        assert detector.phi(PEER, last_s + silent_s) == pytest.approx(expected)


def test_the_three_states_follow_each_other() -> None:
    detector, last_s = _steady(5_000)
    healths = [detector.health(PEER, last_s + second) for second in range(40)]
    assert healths == sorted(healths)
    assert healths.index(Health.SUSPICIOUS) == 10
    assert healths.index(Health.DOWN) == 19


@given(st.floats(0.5, 9.0))
def test_the_ceilings_hold_however_slow_the_heartbeats_are(interval_s: float) -> None:
    detector, last_s = _steady(300, interval_s)
    assert detector.health(PEER, last_s + 0.1) is Health.ALIVE
    assert detector.health(PEER, last_s + 10.001) is not Health.ALIVE
    assert detector.health(PEER, last_s + 30.001) is Health.DOWN


def test_a_new_peer_is_given_time_and_an_unknown_one_is_not_waited_for() -> None:
    detector = PhiDetector()
    assert detector.health(PEER, 0.0) is Health.DOWN
    assert detector.phi(PEER, 0.0) == 0.0
    detector.heard(PEER, 0.0)
    assert detector.health(PEER, 9.0) is Health.ALIVE
    assert detector.health(PEER, 30.0) is Health.DOWN
    detector.forget(PEER)
    assert detector.health(PEER, 1.0) is Health.DOWN


def test_an_outage_does_not_teach_patience() -> None:
    detector, last_s = _steady()
    before_s = detector.mean_s(PEER)
    detector.heard(PEER, last_s + 3_600)
    assert detector.mean_s(PEER) == before_s
    detector.heard(PEER, last_s + 3_625)
    assert detector.mean_s(PEER) <= before_s + 10 / 200


def test_the_window_forgets() -> None:
    detector, now_s = PhiDetector(PhiOptions(window=50)), 0.0
    for interval_s in [5.0] * 100 + [1.0] * 100:
        detector.heard(PEER, now_s)
        now_s += interval_s
    assert detector.mean_s(PEER) < 1.15


def test_quick_heartbeats_do_not_make_it_impatient() -> None:
    detector, last_s = _steady(1_000, 0.01)
    assert detector.health(PEER, last_s + 9) is Health.ALIVE


def test_a_freeze_of_this_process_is_not_a_failure_of_all_others() -> None:
    detector, last_s = _steady()
    detector.tick(last_s)
    detector.tick(last_s + 1)
    detector.tick(last_s + 61)
    assert detector.pauses == 1
    assert detector.health(PEER, last_s + 61) is Health.ALIVE
    for second in range(62, 82):
        detector.tick(last_s + second)
    assert detector.health(PEER, last_s + 82) is Health.DOWN


@pytest.mark.slow
def test_false_alarms_at_five_percent_loss(rounds: int) -> None:
    """Heartbeats only: one a second, each lost with 5%. Counts alarms, and prints the rate with the
    interval that 95% confidence allows, beside what the arithmetic of the model gives."""
    hours, rng = 150 * rounds, random.Random(1)
    detector, alarms, longest_s, last_s = PhiDetector(), 0, 0, 0
    least_mean_s = math.inf
    for second in range(hours * 3_600):
        if rng.random() < LOSS:
            continue
        if second - last_s > 9:
            silent = detector.health(PEER, second - 1e-9)
            alarms += silent is Health.DOWN
        longest_s = max(longest_s, second - last_s)
        last_s = second
        detector.heard(PEER, float(second))
        if second % 3_600 == 0:
            least_mean_s = min(least_mean_s, detector.mean_s(PEER))
    down_after_s = 8 / math.log10(math.e) * max(1.0, min(least_mean_s, 1 / (1 - LOSS)))
    exact = 3_600 * (1 - LOSS) * LOSS ** (math.floor(down_after_s))
    upper = -math.log(0.05) / hours if alarms == 0 else math.nan
    print(
        f"{alarms} false alarms in {hours} node-hours (95% confidence: below {upper:.2g} an hour); "
        f"longest silence {longest_s} s, down after {down_after_s:.1f} s; "
        f"by the model's arithmetic {exact:.1g} an hour"
    )
    assert alarms == 0
    assert exact < 1e-4
