"""What tests with real processes share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.powercut.recorder import tracing_unavailable
from chaos.servers import Servers


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


SHORT_QUEUE = "[limits]\nqueue_operations = 512\n"
"""So that a test can fill it, however slow the machine is."""


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    """Three nodes of their own, all serving. Their logs are shown where the test fails."""
    with contextlib.ExitStack() as ending:
        cluster = Servers(tmp_path)
        ending.callback(lambda: print(cluster.logs()))
        yield ending.enter_context(cluster)


@pytest.fixture(scope="module")
def shared_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """One cluster for the tests of a file: each leaves all nodes running, and keys of its own."""
    with contextlib.ExitStack() as ending:
        cluster = Servers(tmp_path_factory.mktemp("cluster"), extra=SHORT_QUEUE)
        ending.callback(lambda: print(cluster.logs()))
        yield ending.enter_context(cluster)
