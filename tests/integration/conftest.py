"""What tests with real processes share."""

from __future__ import annotations

import os

import pytest

from chaos.powercut.recorder import tracing_unavailable


@pytest.fixture(scope="session")
def tracing() -> None:
    """The test records system calls. Where the machine does not allow it, it is skipped with the
    reason; in CI that is a failure, because a check that CI skips does not exist."""
    reason = tracing_unavailable()
    if reason is None:
        return
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(f"CI must be able to record system calls: {reason}")
    pytest.skip(reason)
