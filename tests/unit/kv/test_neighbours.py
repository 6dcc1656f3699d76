"""Who else is there, and where to dial them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kv.cluster.cards import Card
from kv.neighbours import Neighbours
from raftgroups.transport import NodeId

A, B = NodeId("a"), NodeId("b")
THERE, ROUND = ("127.0.0.1", 7411), ("127.0.0.1", 9000)


class Rig:
    def __init__(self, directory: Path, **routes: tuple[str, int]) -> None:
        self.dialed: dict[NodeId, tuple[str, int]] = {}
        self.handlers: dict[str, Any] = {}
        self.full: list[str] = []
        link = SimpleNamespace(set_peer=self.dialed.__setitem__, on_peer_change=lambda _: None)
        mail = SimpleNamespace(on=self.handlers.__setitem__, tell=lambda *_: True)
        self.neighbours = Neighbours(
            A,
            directory,
            cast(Any, link),
            cast(Any, mail),
            initial=(),
            names={THERE: "n2"},
            routes=routes,
            full=lambda names: setattr(self, "full", names),
        )


@pytest.mark.parametrize("label", ["127.0.0.1:7411", "n2", "second", "b"])
def test_a_route_is_found_by_address_configured_name_own_name_and_id(
    tmp_path: Path, label: str
) -> None:
    rig = Rig(tmp_path, **{label: ROUND})
    assert rig.neighbours.all == rig.neighbours.others == {}, "before it is opened"
    rig.neighbours.open(Card("a", "first", ("127.0.0.1", 7401), "", incarnation=5))
    rig.neighbours.learn({B: Card("b", "second", THERE, "")})
    assert rig.dialed == {B: ROUND}
    assert list(rig.neighbours.others) == [B]


def test_a_node_whose_card_says_too_little_has_no_record(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.neighbours.open(Card("a", "first", ("127.0.0.1", 7401), "", incarnation=5))
    rig.neighbours.learn({B: Card("b", "second", THERE, "")})
    own = rig.neighbours.record_of(A)
    assert own is not None
    assert (own.incarnation, own.name) == (5, "first")
    assert rig.neighbours.record_of(B) is None
    assert rig.neighbours.record_of(B, incarnation=7) is not None
    assert rig.dialed == {B: THERE}
