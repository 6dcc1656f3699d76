"""What operators ask about nodes and replicas, on any node: looked up, proposed, wished.

Nodes and shards are the map's; what is under way is asked of the node that plans, over the mail.
Whatever is asked for is checked before anything is done. Nobody waits here for replicas to move:
that is watched (`summary`), and goes on whether who asked for it stays or leaves.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import ClassVar, Final, Protocol

import msgspec

from kv.cluster.link_discovery import DiscoveryError
from kv.cluster.link_handshake import Peer
from kv.cluster.mail import NoAnswerError
from kv.errors import UnavailableError
from kv.looks import Looks
from kv.placement.messages import Summary, Wish, decode_summary, encode
from kv.placement.mover import SUMMARY, WISH, Mover
from kv.placement.observed import MOVE, MOVING
from kv.placement.plan import META_GROUP
from raftgroups.meta.commands import (
    BeginOperation,
    MetaAnswerBody,
    MetaCommand,
    RemoveNode,
    SetNodeState,
)
from raftgroups.meta.records import (
    KeyspaceState,
    NodeRecord,
    NodeState,
    OperationRecord,
    Regime,
    ShardRecord,
    ShardState,
)
from raftgroups.meta.refusals import NodeInUseError, UnknownNodeError, UnknownShardError
from raftgroups.meta.view import MetaView
from raftgroups.transport import NodeId
from storage.errors import InvalidRequestError

ANSWER_WITHIN_S: Final = 1.0
POLL_S: Final = 0.05
ADD_S: Final = 5.0
TRANSFER_S: Final = 5.0
LEAVE_S: Final = 3.0
"""What a node has said for the last time about its ring takes as long to reach all, at most."""
WISH_AGAIN: Final = 10
"""Looks between two tries of what was refused for the moment, or lost."""
Address = tuple[str, int]


class TooFewNodesError(InvalidRequestError):
    code: ClassVar[str] = "too_few_nodes"


class MajorityLostError(InvalidRequestError):
    """A node is declared dead that a shard needs for the majority of its replicas."""

    code: ClassVar[str] = "majority_lost"


class ShardNotHereError(InvalidRequestError):
    """A shard has no replica on the node that a move names, or has one already."""

    code: ClassVar[str] = "shard_not_there"


class Meta(Protocol):
    """kv/meta/service.py MetaService."""

    async def propose(
        self, command: MetaCommand, deadline_s: float | None = None
    ) -> MetaAnswerBody: ...

    async def refresh(self) -> None: ...


class Asker(Protocol):
    async def ask(self, peer: NodeId, kind: str, body: bytes, within_s: float) -> bytes: ...


class Discoverer(Protocol):
    async def discover(self, address: Address, timeout_s: float | None = None) -> Peer: ...


class OnRing(Protocol):
    """kv/leaderless/stand.py Standing."""

    @property
    def status(self) -> str: ...

    @property
    def lacking(self) -> float: ...

    @property
    def hints(self) -> int: ...

    @property
    def foreign(self) -> int: ...


class Ring(Protocol):
    """The ring of the leaderless regime (kv/leaderless/stand.py LeaderlessStand): who is on it, as
    far as this node knows. Nodes follow the map: they leave while they drain, and a node that the
    map calls dead is dead there too."""

    def is_member(self, node: str) -> bool: ...

    def has_left(self, node: str) -> bool:
        """It was on the ring, and can never be again under its id."""
        ...

    async def standing_of(self, node: NodeId) -> OnRing | None:
        """None: it is not on a ring, or does not answer."""
        ...


class NoRing:
    """Of a node that takes no part in one."""

    def is_member(self, node: str) -> bool:
        return False

    def has_left(self, node: str) -> bool:
        return False

    async def standing_of(self, node: NodeId) -> OnRing | None:
        return None


class PlacementService:
    """For the node's loop only."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        meta: Meta,
        view: Callable[[], MetaView],
        mover: Mover,
        mail: Asker,
        link: Discoverer,
        ring: Ring | None = None,
    ) -> None:
        self.ring: Final[Ring] = ring or NoRing()
        self._node_id = node_id
        self._meta = meta
        self._view = view
        self._mover = mover
        self._mail = mail
        self._link = link

    async def look_anew(self) -> None:
        """What was done on other nodes before is known here then, or as little as before where
        the meta group cannot be reached."""
        await self._meta.refresh()

    # --- what goes on -------------------------------------------------------------------------

    async def summary(self) -> Summary:
        """As the node that plans sees it. Raises UnavailableError."""
        own = self._mover.summary()
        if own is not None:
            return own
        answers = await self._ask_hosts(SUMMARY, b"")
        for answer in answers:
            if answer:
                try:
                    return decode_summary(answer)
                except msgspec.DecodeError:
                    continue
        raise UnavailableError(
            "nobody plans where replicas live at this moment: the meta group has no leader, or "
            "has one since a moment ago; ask again"
        )

    async def _ask_hosts(self, kind: str, body: bytes) -> list[bytes | None]:
        hosts = [NodeId(n) for n in self._view().meta_replicas if n != self._node_id]
        return list(await asyncio.gather(*(self._ask(host, kind, body) for host in hosts)))

    async def _ask(self, host: NodeId, kind: str, body: bytes) -> bytes | None:
        try:
            return await self._mail.ask(host, kind, body, ANSWER_WITHIN_S)
        except NoAnswerError:
            return None

    async def _wish(self, wish: Wish) -> None:
        """Raises UnavailableError, with why it was not begun."""
        planner = NodeId((await self.summary()).planner)
        if planner == self._node_id:
            why = self._mover.wish(wish)
        else:
            answer = await self._ask(planner, WISH, encode(wish))
            why = "the node that plans did not answer; ask again"
            if answer is not None:
                why = answer.decode(errors="replace")
        if why:
            raise UnavailableError(f"nothing was done: {why}")

    # --- nodes --------------------------------------------------------------------------------

    def nodes(self) -> list[NodeRecord]:
        return sorted(self._view().nodes.values(), key=lambda node: (node.name, node.node))

    def find(self, name: str) -> NodeRecord:
        """By id, name, peer address or client address. Raises UnknownNodeError."""
        bare = name.partition("//")[2] or name
        found = [
            node
            for node in self._view().nodes.values()
            if name in (node.node, node.name, node.client)
            or bare in (f"{node.peer[0]}:{node.peer[1]}", node.client.partition("//")[2])
        ]
        if len(found) > 1:
            ids = ", ".join(node.node for node in found)
            raise UnknownNodeError(f"{name!r} is the name of several nodes ({ids}); give an id")
        if not found:
            raise UnknownNodeError(
                f"no node of this cluster has the id, name or address {name!r}; list the nodes"
            )
        return found[0]

    def replicas_of(self, node: str) -> list[int]:
        return sorted(shard.shard for shard in self._view().shards_on(node))

    async def add(self, address: Address, within_s: float = ADD_S) -> NodeRecord:
        """Wait until the node behind this peer address is a member: it asks for that by itself.
        One that is being drained is taken back."""
        text = f"{address[0]}:{address[1]}"
        try:
            known = self.find(text)
        except UnknownNodeError:
            node = await self._discover(address)
            known = await self._await_member(node, text, within_s)
        if known.state is NodeState.DRAINING:
            await self._meta.propose(SetNodeState(known.node, NodeState.ACTIVE))
            await self._meta.refresh()
        return self._view().nodes.get(known.node, known)

    async def _discover(self, address: Address) -> NodeId:
        try:
            return (await self._link.discover(address)).node_id
        except DiscoveryError as error:
            raise UnavailableError(
                f"nothing was done: {error}; start the node there with [cluster] join naming nodes "
                "of this cluster, and give the address that other nodes are served on"
            ) from error

    async def _await_member(self, node: NodeId, address: str, within_s: float) -> NodeRecord:
        async for number in Looks(within_s, POLL_S):
            if number:
                await self._meta.refresh()
            known = self._view().nodes.get(node)
            if known is not None:
                return known
        raise UnavailableError(
            f"the node at {address} ({node}) belongs to this cluster's name and does not ask to "
            "become a member; start it with [cluster] join naming nodes of this cluster"
        )

    async def drain(self, name: str) -> NodeRecord:
        node = self.find(name)
        if node.state is NodeState.DEAD:
            raise NodeInUseError(f"node {node.name} was declared dead; remove it")
        if node.state is NodeState.DRAINING:
            return node
        self._check_enough_without(node)
        await self._meta.propose(SetNodeState(node.node, NodeState.DRAINING))
        await self._meta.refresh()
        return self.find(node.node)

    def _check_enough_without(self, node: NodeRecord) -> None:
        view = self._view()
        rest = sum(
            each.state is NodeState.ACTIVE and each.node != node.node
            for each in view.nodes.values()
        )
        for keyspace in view.keyspaces.values():
            wanted = keyspace.options.replication
            if keyspace.state is KeyspaceState.ACTIVE and rest < wanted:
                strong = keyspace.regime is Regime.STRONG
                raise TooFewNodesError(
                    f"without {node.name} there are {rest} active nodes, and the keyspace "
                    f"{keyspace.name!r} wants {wanted} copies of each "
                    + (
                        "shard; add a node first, or lower the keyspace's replication"
                        if strong
                        else "key; add a node first"
                    )
                )

    async def undrain(self, name: str) -> NodeRecord:
        node = self.find(name)
        if node.state is NodeState.DEAD:
            raise NodeInUseError(
                f"node {node.name} was declared dead; it comes back only as a new, empty node"
            )
        if self.ring.has_left(node.node):
            raise NodeInUseError(
                f"node {node.name} has left the ring of the leaderless keyspaces already, for "
                "good; remove it, empty its directory and let it join as a new node"
            )
        await self._meta.propose(SetNodeState(node.node, NodeState.ACTIVE))
        await self._meta.refresh()
        return self.find(node.node)

    async def remove(
        self, name: str, *, dead: bool, force: bool = False
    ) -> tuple[NodeRecord, bool]:
        """(the node, whether it was removed). `dead`: it is declared lost, so that its replicas are
        replaced, and removed once that is done; else it must have been drained. `force`: also where
        that loses shards, because others that have them are away, too."""
        node = self.find(name)
        if dead and node.state is not NodeState.DEAD:
            summary = await self.summary()
            self._check_is_away(node, summary)
            if not force:
                self._check_majorities(node, summary)
            await self._meta.propose(SetNodeState(node.node, NodeState.DEAD))
            await self._meta.refresh()
        left = self.replicas_of(node.node)
        if dead and (left or self.ring.is_member(node.node)):
            return self.find(node.node), False
        if left:
            raise NodeInUseError(
                f"node {node.name} has replicas of {len(left)} shards; drain it first (januskv "
                f"node drain {node.name}), or, if it is lost for good, say so: dead"
            )
        if not await self._has_left_ring(node):
            raise NodeInUseError(
                f"node {node.name} is on the ring of the leaderless keyspaces; drain it first "
                f"(januskv node drain {node.name}) and wait until it has left, or, if it is lost "
                "for good, say so: dead"
            )
        await self._meta.propose(RemoveNode(node.node))
        await self._meta.refresh()
        return node, True

    async def _has_left_ring(self, node: NodeRecord) -> bool:
        """Whoever saw that it has left may have seen it on another node, a moment ago."""
        async for _ in Looks(LEAVE_S if node.state is NodeState.DRAINING else 0.0, POLL_S):
            if not self.ring.is_member(node.node):
                return True
        return False

    def _check_is_away(self, node: NodeRecord, summary: Summary) -> None:
        found = next((each for each in summary.nodes if each.node == node.node), None)
        if found is not None and found.reachable:
            raise NodeInUseError(
                f"node {node.name} answers: it is not dead. Drain it (januskv node drain "
                f"{node.name}), or stop its process first"
            )

    def _check_majorities(self, node: NodeRecord, summary: Summary) -> None:
        there = {each.node for each in summary.nodes if each.reachable} - {node.node}
        voters = {each.group: each.voters for each in summary.groups if each.leader}
        away: set[str] = set()
        lost = []
        for shard in self._view().shards_on(node.node):
            having = set(voters.get(shard.shard, shard.replicas))
            if node.node in having and 2 * len(having & there) <= len(having):
                lost.append(shard.shard)
                away |= having - there
        if lost:
            names = ", ".join(each.name for each in self.nodes() if each.node in away)
            raise MajorityLostError(
                f"shards {', '.join(map(str, sorted(lost)))} have no majority of their replicas "
                f"while {names} are away, and a node that was declared dead never comes back with "
                "what it has: start enough of these nodes. If they are lost for good, and those "
                "shards with them, say so: force"
            )

    # --- replicas -------------------------------------------------------------------------------

    async def rebalance(self) -> Summary:
        await self._wish(Wish("rebalance"))
        return await self.summary()

    def _shard(self, shard: int) -> ShardRecord:
        found = self._view().shards.get(shard)
        if found is None or found.state is ShardState.RETIRED:
            raise UnknownShardError(f"there is no shard {shard}; list the shards")
        return found

    async def move(self, shard: int, source: str, target: str) -> OperationRecord:
        """Begin it; it is over when no operation of that number is left."""
        record, old, new = self._shard(shard), self.find(source), self.find(target)
        if old.node not in record.replicas:
            raise ShardNotHereError(
                f"shard {shard} has no replica on {old.name}; it has on {self._names(record)}"
            )
        if new.node in record.replicas:
            raise ShardNotHereError(f"shard {shard} has a replica on {new.name} already")
        if new.state is not NodeState.ACTIVE:
            raise NodeInUseError(
                f"node {new.name} is {new.state}; a replica is moved to an active node only"
            )
        wish = OperationRecord(
            0, MOVE, MOVING, (shard,), source=old.node, target=new.node, note="asked for"
        )
        answer = await self._meta.propose(BeginOperation(wish, (record.epoch,)))
        return getattr(answer, "record", wish)

    def _names(self, record: ShardRecord) -> str:
        nodes = self._view().nodes
        return ", ".join(nodes[n].name if n in nodes else n for n in record.replicas)

    async def transfer(self, shard: int, target: str) -> str:
        """The node that leads the shard then. Raises UnavailableError if it does not in time."""
        record, new = self._shard(shard), self.find(target)
        if new.node not in record.replicas:
            raise ShardNotHereError(
                f"shard {shard} has no replica on {new.name}; it has on {self._names(record)}"
            )
        why = "it may still happen"
        async for number in Looks(TRANSFER_S, POLL_S):
            try:
                if self._leader_in(await self.summary(), shard) == new.node:
                    return new.node
                if number % WISH_AGAIN == 0:
                    await self._wish(Wish("transfer", shard, new.node))
            except UnavailableError as error:
                why = str(error)  # a move is under way; or the meta group is what is handed over
        raise UnavailableError(f"{new.name} does not lead shard {shard} yet: {why}. Look again")

    def _leader_in(self, summary: Summary, shard: int) -> str:
        return next((each.leader for each in summary.groups if each.group == shard), "")


def replica_counts(shards: Iterable[ShardRecord]) -> Counter[str]:
    """Of each node, the meta group's not counted."""
    return Counter(node for shard in shards if shard.shard != META_GROUP for node in shard.replicas)
