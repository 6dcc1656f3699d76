"""What a node says of itself and of its cluster, to operators and to etcd's clients.

Numbers of other nodes are asked for over the peer link when somebody wants to see them (mail.py);
a node that does not answer in time is shown as unreachable, with what its card said last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Final

import msgspec

from kv.api.bodies import ClusterState, NodeState, NodeStatus, RingState, ShardState
from kv.cluster.cards import Card
from kv.cluster.mail import NoAnswerError
from kv.errors import OutcomeUnknownError, UnavailableError, WrongRegimeError
from kv.etcd.alarms import NAMES
from kv.etcd.context import Member, StatusNumbers, uint64_of
from kv.metrics.from_process import ProcessFigures
from kv.node import FIRST_GROUP, Node, settle
from raftgroups.group import Group
from raftgroups.outcomes import ChangeResult, Done, Unknown
from raftgroups.status import GroupStatus, Role
from raftgroups.transport import NodeId
from storage.errors import InvalidRequestError

KIND: Final = "status"
ANSWER_WITHIN_S: Final = 1.0
MEBIBYTE: Final = 1024 * 1024

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(NodeStatus).decode


class NoSuchNodeError(InvalidRequestError):
    code = "no_such_node"


class Report:
    """Implements kv/api/context.py Node, and gives the etcd gateway its numbers."""

    def __init__(self, node: Node, *, process: Callable[[], ProcessFigures]) -> None:
        self._node = node
        self._process = process
        self._started_s = node.clock.monotonic()
        node.mail.on(KIND, self._told)

    # --- this node --------------------------------------------------------------------------

    def status(self) -> NodeStatus:
        node = self._node
        group = self._group
        standing = group.status()
        state = node.strong.machine.shard.state
        return NodeStatus(
            node_id=node.node_id,
            name=node.settings.name,
            version=version("januskv"),
            mode="strong",
            role=standing.role.value,
            leader=standing.leader,
            term=standing.term,
            revision=state.revision,
            compact_revision=max(0, state.compact_revision),
            applied_index=standing.applied_index,
            commit_index=standing.commit_index,
            lag=max(0, standing.commit_index - standing.applied_index),
            uptime_s=round(node.clock.monotonic() - self._started_s, 3),
            data_bytes=node.engine.statistics().disk_bytes,
            memory_used_mb=round((self._process().anonymous_bytes or 0) / MEBIBYTE, 1),
            keys_count=state.keys,
            watchers=sum(hub.watching for hub in node.strong.hubs),
            problems=self._problems(standing),
        )

    @property
    def _group(self) -> Group:
        return self._node.host.group(FIRST_GROUP)

    def _problems(self, standing: GroupStatus) -> list[str]:
        node = self._node
        found = [f"{alarm} on {self._name(who)}" for who, alarm in node.alarms]
        if standing.leader is None:
            found.append("no leader is known")
        if standing.role is Role.REMOVED:
            found.append("this node was removed from the cluster")
        if node.draining:
            found.append("this node is stopping")
        found += [
            f"not connected with {self._name(peer)}"
            for peer in (*standing.voters, *standing.learners)
            if peer != node.node_id and not node.link.connected(peer)
        ]
        return found

    def _told(self, peer: NodeId, body: bytes) -> bytes:
        return _encode(self.status())

    # --- the cluster --------------------------------------------------------------------------

    async def cluster(self) -> ClusterState:
        node = self._node
        standing = self._group.status()
        members = (*standing.voters, *standing.learners)
        states = await asyncio.gather(*(self._ask(member) for member in members))
        own = self.status()
        leader = next((each for each in states if each and each.role == "leader"), own)
        return ClusterState(
            cluster_id=node.cluster_id,
            nodes=[
                self._state_of(member, state, standing)
                for member, state in zip(members, states, strict=True)
            ],
            shards=[
                ShardState(
                    shard=node.strong.machine.place.shard,
                    leader=standing.leader,
                    term=standing.term,
                    revision=leader.revision,
                    members=list(members),
                )
            ],
            total_keys=leader.keys_count,
            replication_factor=len(standing.voters),
        )

    async def _ask(self, member: NodeId) -> NodeStatus | None:
        if member == self._node.node_id:
            return self.status()
        try:
            answer = await self._node.mail.ask(member, KIND, b"", ANSWER_WITHIN_S)
            return _decode(answer)
        except (NoAnswerError, msgspec.DecodeError):
            return None

    def _state_of(
        self, member: NodeId, state: NodeStatus | None, standing: GroupStatus
    ) -> NodeState:
        card = self._card(member)
        address = "" if card is None else card.client or f"{card.peer[0]}:{card.peer[1]}"
        if state is None:
            return NodeState(member, self._name(member), address, "unreachable", "unknown")
        peer = standing.peers.get(member)
        return NodeState(
            member,
            state.name,
            address,
            "joining" if member in standing.learners else "alive",
            state.role,
            state.keys_count,
            state.memory_used_mb,
            state.lag if peer is None else peer.lag,
        )

    def _card(self, node: NodeId) -> Card | None:
        cards = self._node.cards
        return None if cards is None else cards.all.get(node)

    def _name(self, node: NodeId) -> str:
        card = self._card(node)
        return node if card is None else card.name

    def ring(self) -> RingState:
        raise WrongRegimeError(
            "there is no ring here: the keys of this node are strong, and shards hold them; see "
            "/api/v1/admin/cluster/status"
        )

    async def transfer_leader(self, target: str | None, deadline_s: float | None) -> str:
        """Only the leader can hand over; asked elsewhere, the answer says who leads."""
        group = self._group
        if not group.leads:
            leader = group.leader
            raise UnavailableError(
                "no leader is known; ask again"
                if leader is None
                else f"this node does not lead; ask {self._name(leader)} ({self._url(leader)})"
            )
        heir = self._node.heir(group) if target is None else self._find(target)
        if heir is None:
            raise UnavailableError("no other voter is connected; nothing was changed")
        if heir == self._node.node_id:
            return heir
        loop = asyncio.get_running_loop()
        done: asyncio.Future[ChangeResult] = loop.create_future()
        group.transfer(heir, partial(settle, done))
        result = await done
        if isinstance(result, Done):
            return heir
        kind = OutcomeUnknownError if isinstance(result, Unknown) else UnavailableError
        raise kind(f"the leadership was not handed over: {result.reason}")

    async def transfer_to_member(self, member: int) -> None:
        """As etcd's move-leader has it: by member id."""
        for voter in self._group.status().voters:
            if uint64_of(voter) == member:
                await self.transfer_leader(voter, None)
                return
        raise NoSuchNodeError(f"no voter has the member id {member}")

    def _url(self, node: NodeId) -> str:
        card = self._card(node)
        return "" if card is None else card.client

    def _find(self, target: str) -> NodeId:
        for voter in self._group.status().voters:
            if target in (voter, self._name(voter)):
                return voter
        raise NoSuchNodeError(f"no voter is called {target!r}; give its id or its name")

    # --- as etcd has it -----------------------------------------------------------------------

    def members(self) -> Sequence[Member]:
        standing = self._group.status()
        found = [
            Member(
                uint64_of(node),
                self._name(node),
                ()
                if (card := self._card(node)) is None
                else (f"http://{card.peer[0]}:{card.peer[1]}",),
                () if card is None or not card.client else (card.client,),
                node in standing.learners,
            )
            for node in (*standing.voters, *standing.learners)
        ]
        return sorted(found)

    def alarms(self) -> list[tuple[int, int]]:
        """(member, kind) of what the nodes found themselves."""
        return [(uint64_of(node), NAMES[alarm]) for node, alarm in self._node.alarms]

    def numbers(self) -> StatusNumbers:
        standing = self._group.status()
        statistics = self._node.engine.statistics()
        return StatusNumbers(
            leader=0 if standing.leader is None else uint64_of(standing.leader),
            raft_index=standing.commit_index,
            raft_applied_index=standing.applied_index,
            size_bytes=statistics.disk_bytes,
            size_in_use_bytes=max(0, statistics.disk_bytes - statistics.reusable_bytes),
            is_learner=standing.role is Role.LEARNER,
            errors=tuple(f"{alarm} on {self._name(who)}" for who, alarm in self._node.alarms),
        )
