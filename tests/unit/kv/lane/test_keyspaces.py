"""Which keyspaces the lane serves, and what becomes of one that is another by now."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from kv.errors import KeyspaceNotFoundError
from kv.lane.keys import GET, NO_OPTIONS, calls_of_keyspace


class Spaces:
    """As much of an Api as matters here."""

    def __init__(self, regimes: dict[str, bool]) -> None:
        self.regimes = regimes

    def of_keyspace(self, name: str) -> Any:
        if name not in self.regimes:
            raise KeyspaceNotFoundError(f"there is no keyspace {name!a}")
        return SimpleNamespace(leaderless=object() if self.regimes[name] else None)


def calls(spaces: Spaces, name: str, forgotten: list[int]) -> Any:
    return calls_of_keyspace(cast(Any, spaces), name, lambda: forgotten.append(1))


def test_leaderless_and_unknown_ones_are_left_to_the_other_lane() -> None:
    spaces = Spaces({"strong": False, "ring": True})
    assert calls(spaces, "ring", []) is None
    assert calls(spaces, "none", []) is None
    assert calls(spaces, "strong", []) is not None


@pytest.mark.parametrize("now", [{}, {"strong": True}])
def test_one_that_is_gone_or_leaderless_by_now_is_forgotten(now: dict[str, bool]) -> None:
    spaces, forgotten = Spaces({"strong": False}), list[int]()
    found = calls(spaces, "strong", forgotten)
    spaces.regimes = now
    replies: list[int] = []
    found[GET](b"k", b"", NO_OPTIONS, lambda reply, *_: replies.append(reply.status))
    assert forgotten
    assert replies == [503 if now else 404]
