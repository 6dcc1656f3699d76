"""Settings that could never work are refused with a sentence."""

from __future__ import annotations

from typing import Any

import pytest

from raftgroups.config import HostConfig


def test_the_defaults_elect_well_under_two_seconds() -> None:
    config = HostConfig()
    assert config.election_timeout_s[1] <= 1.0
    assert config.canaries == frozenset()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"heartbeat_s": 0.2}, "above three times heartbeat_s 0.2"),
        ({"election_timeout_s": (0.3, 1.0)}, "above three times"),
        ({"election_timeout_s": (1.0, 0.5)}, "must rise"),
        ({"heartbeat_s": 0.0}, "heartbeat_s 0.0"),
        ({"canaries": frozenset({"no-such-bug"})}, "no such canary: no-such-bug"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        HostConfig(**settings)
