"""Who makes a leaderless keyspace is answered when it can be written to."""

from __future__ import annotations

from typing import Any, cast

import pytest

from kv.cluster.mail import NoAnswerError
from kv.leaderless import serving
from kv.leaderless.serving import GRACE_S, WITHIN_S, Serving
from storage.clock import ManualClock

NODES = ("a", "b", "c")


class Nodes:
    """As much of a Mail as matters: the others' answers, `late` rounds late; None: away."""

    def __init__(self, clock: ManualClock, late: dict[str, int | None]) -> None:
        self.clock = clock
        self.late = late
        self.asked = 0
        self.handler: Any = None

    def on(self, kind: str, handler: Any) -> None:
        self.handler = handler

    async def ask(self, peer: str, kind: str, body: bytes, within_s: float) -> bytes:
        self.asked += 1
        self.clock.advance(0.1)
        late = self.late[peer]
        if late is None:
            raise NoAnswerError(f"{peer} is away")
        self.late[peer] = late - 1
        return b"" if late else b"\x01"


@pytest.mark.parametrize(
    ("late", "served", "within"),
    [
        ({"b": 0, "c": 0}, 3, (0.0, 0.5)),
        ({"b": 2, "c": 1}, 3, (0.3, 0.9)),
        ({"b": 1, "c": None}, 2, (GRACE_S, GRACE_S + 0.5)),
        ({"b": None, "c": None}, 1, (WITHIN_S, WITHIN_S + 0.5)),
    ],
)
async def test_all_are_waited_for_a_moment_and_enough_of_them_longer(
    monkeypatch: pytest.MonkeyPatch,
    late: dict[str, int | None],
    served: int,
    within: tuple[float, float],
) -> None:
    monkeypatch.setattr(serving, "LOOK_S", 0.0)
    clock = ManualClock()
    nodes = Nodes(clock, dict(late))
    asking = Serving(cast(Any, nodes), lambda: "a", clock, lambda number: number == 7)
    begun_s = clock.monotonic()
    assert await asking.count(7, NODES, 2) == served
    assert within[0] <= clock.monotonic() - begun_s <= within[1]


def test_a_node_says_what_it_serves() -> None:
    clock = ManualClock()
    nodes = Nodes(clock, {})
    Serving(cast(Any, nodes), lambda: "a", clock, lambda number: number == 7)
    answers = [nodes.handler("b", number.to_bytes(4, "big")) for number in (7, 8)]
    assert answers == [b"\x01", b""]
