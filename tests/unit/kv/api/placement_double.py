"""Operators' calls over a map in memory: the real service and rules; nobody moves anything."""

from __future__ import annotations

from typing import Any, cast

from kv.cluster.link_discovery import DiscoveryError
from kv.cluster.mail import NoAnswerError
from kv.leaderless.stand import Standing
from kv.placement.messages import GroupSummary, NodeSummary, Summary, Wish
from kv.placement.mover import Mover
from kv.placement.service import PlacementService
from raftgroups.meta.commands import Bootstrap, MetaAnswerBody, MetaCommand, NewShard, PutNode
from raftgroups.meta.records import KeyspaceOptions, NodeRecord
from raftgroups.meta.rules import execute
from raftgroups.meta.view import MetaView
from raftgroups.transport import NodeId


def record(name: str) -> NodeRecord:
    port = 7401 + 10 * ord(name[0])
    return NodeRecord(f"id-{name}", 7, name, ("10.0.0.1", port), f"http://10.0.0.1:{port - 1}")


class RingDouble:
    """kv/placement/service.py Ring."""

    def __init__(self) -> None:
        self.members: dict[str, Standing | None] = {}
        self.left: set[str] = set()

    def is_member(self, node: str) -> bool:
        return node in self.members

    def has_left(self, node: str) -> bool:
        return node in self.left

    async def standing_of(self, node: NodeId) -> Standing | None:
        return self.members.get(node)


class MapDouble:
    """A map in memory that decides by the real rules, at once. kv/placement/service.py Meta."""

    def __init__(self) -> None:
        self.view = MetaView()

    def execute(self, command: MetaCommand) -> MetaAnswerBody:
        self.view, answer = execute(self.view, command, 1_000)
        return answer

    async def propose(
        self, command: MetaCommand, deadline_s: float | None = None
    ) -> MetaAnswerBody:
        return self.execute(command)

    async def refresh(self) -> None:
        pass


class PlacementDouble(MapDouble):
    """Nodes a, b, c with a shard, and d without."""

    def __init__(self) -> None:
        super().__init__()
        self.away: set[str] = set()
        self.ring = RingDouble()
        self.wishes: list[Wish] = []
        self.plans = True
        self.refusal = ""
        """Of wishes."""
        founders = tuple((f"id-{name}", 7) for name in "abc")
        begin = Bootstrap(
            tuple(record(name) for name in "abc"),
            tuple(node for node, _ in founders),
            KeyspaceOptions(),
            (NewShard(b"", None, founders),),
            formed=True,
        )
        self.execute(begin)
        self.execute(PutNode(record("d")))
        self.service = PlacementService(
            node_id=NodeId("id-a"),
            meta=self,
            view=lambda: self.view,
            mover=cast(Mover, self),
            mail=self,
            link=self,
            ring=self.ring,
        )

    # --- what the service asks ----------------------------------------------------------------

    def summary(self) -> Summary | None:
        if not self.plans:
            return None
        return Summary(
            1,
            "id-a",
            True,
            0,
            (),
            (),
            tuple(NodeSummary(n, n not in self.away, False, 1, 0) for n in self.view.nodes),
            tuple(
                GroupSummary(s.shard, self._leader(s.shard), s.replicas, (), 3, 5)
                for s in self.view.shards.values()
            ),
            (),
        )

    def _leader(self, shard: int) -> str:
        transfers = [wish.node for wish in self.wishes if wish.kind == "transfer"]
        return transfers[-1] if transfers else "id-a"

    def wish(self, wish: Wish) -> str:
        if not self.refusal:
            self.wishes.append(wish)
        return self.refusal

    async def ask(self, peer: NodeId, kind: str, body: bytes, within_s: float) -> bytes:
        raise NoAnswerError("nobody is there")

    async def discover(self, address: tuple[str, int], timeout_s: float | None = None) -> Any:
        raise DiscoveryError(address, "unreachable", "nobody listens")
