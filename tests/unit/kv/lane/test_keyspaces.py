"""Which keyspaces the lane serves, and what becomes of one that is another by now."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from kv.api.leaderless.options import Asked
from kv.errors import KeyspaceNotFoundError
from kv.lane.keys import GET, NO_OPTIONS, POST
from kv.lane.named_keys import calls_of_keyspace


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


def test_unknown_ones_are_left_to_the_other_lane() -> None:
    spaces = Spaces({"strong": False, "ring": True})
    assert calls(spaces, "none", []) is None
    strong, ring = (calls(spaces, name, []) for name in ("strong", "ring"))
    assert POST in strong.calls
    assert POST not in ring.calls, "there is no cas"
    assert strong.parse(GET, {}) == NO_OPTIONS
    assert isinstance(ring.parse(GET, {}), Asked)


@pytest.mark.parametrize("leaderless", [False, True])
@pytest.mark.parametrize("same_name", [False, True])
def test_one_that_is_gone_or_of_the_other_regime_by_now_is_forgotten(
    leaderless: bool, same_name: bool
) -> None:
    spaces, forgotten = Spaces({"one": leaderless}), list[int]()
    found = calls(spaces, "one", forgotten)
    spaces.regimes = {"one": not leaderless} if same_name else {}
    replies: list[int] = []
    options = found.parse(GET, {})
    found.calls[GET](b"k", b"", options, lambda reply, *_: replies.append(reply.status))
    assert forgotten
    assert replies == [503 if same_name else 404]
