"""What all tests share: hypothesis profiles and the number of rounds of slow tests."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", max_examples=50, derandomize=True, **_COMMON)
settings.register_profile("dev", max_examples=100, **_COMMON)
settings.register_profile("nightly", max_examples=2_000, **_COMMON)
PROFILE = os.environ.get("JANUSKV_TEST_PROFILE", "ci" if os.environ.get("CI") else "dev")
settings.load_profile(PROFILE)


@pytest.fixture
def rounds() -> int:
    """How often a `slow` test repeats itself: few in CI, many by night."""
    return {"ci": 1, "dev": 1, "nightly": 20}[PROFILE]
