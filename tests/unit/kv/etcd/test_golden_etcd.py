"""The gateway against what the real etcd 3.5.1 answered: status, heads, bodies, chunks.

Every recorded conversation (tests/golden/README.md) is played over HTTP to a gateway of its own;
tests/golden/replay.py lists what differs on purpose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.golden.replay import DIFFERENT, NAMES, problems, requests


def test_enough_cases_are_played() -> None:
    assert requests() >= 650
    assert set(NAMES) >= {name for name, _ in DIFFERENT}


@pytest.mark.parametrize("name", NAMES)
def test_a_conversation_goes_as_with_etcd(serve: Callable[..., Any], name: str) -> None:
    with serve() as (port, _):
        assert problems(name, port) == []
