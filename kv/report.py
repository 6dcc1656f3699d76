"""What a node says of itself and of its cluster, to operators and to etcd's clients.

Numbers of other nodes are asked for over the peer link when somebody wants to see them (mail.py);
a node that does not answer in time is shown as unreachable, with what its card said last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from kv.api.admin_bodies import (
    ClusterState,
    HotKeyState,
    LocalShard,
    NodeState,
    NodeStatus,
    RepairReply,
    RingState,
    ShardState,
)
from kv.api.text import shown
from kv.cluster.cards import Card
from kv.cluster.mail import NoAnswerError
from kv.division.advice import Carried, advice
from kv.division.cuts import middle_of
from kv.division.messages import Hot
from kv.division.meter import HOT_MOST
from kv.errors import UnavailableError, WrongRegimeError
from kv.etcd.alarms import NAMES
from kv.etcd.context import Member, StatusNumbers, uint64_of
from kv.handing_over import hand_over, heir_of
from kv.leaderless_report import ANSWER_WITHIN_S, KIND, MEBIBYTE, RingReport
from kv.metrics.from_process import ProcessFigures
from kv.node import Node
from kv.serving import FIRST_GROUP
from raftgroups.group import Group
from raftgroups.meta.machine import META_GROUP
from raftgroups.meta.records import ShardRecord
from raftgroups.status import GroupStatus, Role
from raftgroups.transport import NodeId
from storage.errors import InvalidRequestError

STATUSES: Final[dict[str, str]] = {"joining": "joining", "draining": "leaving", "dead": "dead"}
"""What the map says of a node that answers, else it is alive."""

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
        self.on_ring: RingReport | None = None
        """Where there is a ring."""
        node.mail.on(KIND, self._told)

    # --- this node --------------------------------------------------------------------------

    def status(self) -> NodeStatus:
        node = self._node
        group = self._group
        standing = None if group is None else group.status()
        shard = None if group is None else node.serving.shards.get(group.group_id)
        served = node.serving.shards.values()
        state = None if shard is None else shard.machine.shard.state
        return NodeStatus(
            node_id=node.node_id,
            name=node.settings.name,
            version=version("januskv"),
            mode="strong",
            role="replica" if standing is None else standing.role.value,
            leader=None if standing is None else standing.leader,
            term=0 if standing is None else standing.term,
            revision=1 if state is None else state.revision,
            compact_revision=0 if state is None else max(0, state.compact_revision),
            applied_index=0 if standing is None else standing.applied_index,
            commit_index=0 if standing is None else standing.commit_index,
            lag=0 if standing is None else _lag(standing),
            uptime_s=round(node.clock.monotonic() - self._started_s, 3),
            data_bytes=node.engine.statistics().disk_bytes,
            memory_used_mb=round((self._process().anonymous_bytes or 0) / MEBIBYTE, 1),
            keys_count=sum(each.machine.shard.state.keys for each in served),
            watchers=sum(hub.watching for each in served for hub in each.hubs),
            problems=self._problems(),
            shards=[self._local(each) for _, each in sorted(node.host.groups.items())],
            leaderless=UNSET if self.on_ring is None else self.on_ring.section(),
        )

    @property
    def _group(self) -> Group | None:
        """Of the first shard; else of the first that is here."""
        groups = self._node.host.groups
        return groups.get(FIRST_GROUP) or next(
            (groups[each] for each in sorted(groups) if each != META_GROUP), None
        )

    def _local(self, group: Group) -> LocalShard:
        shard, standing = self._node.serving.shards.get(group.group_id), group.status()
        state = None if shard is None else shard.machine.shard.state
        return LocalShard(
            group.group_id,
            standing.role.value,
            standing.term,
            0 if state is None else state.revision,
            0 if state is None else state.keys,
            _lag(standing),
            *self._carried(group),
        )

    def _carried(self, group: Group) -> tuple[int, float, list[HotKeyState], str | UnsetType]:
        """(size, operations a second, hot keys, where to cut) of a replica that is served here."""
        attendant = self._node.division.attendant
        shard = self._node.serving.shards.get(group.group_id)
        if shard is None:
            return 0, 0.0, [], UNSET
        load = attendant.load(group.group_id, shard.machine)
        size = attendant.size(group.group_id, shard.machine).size_bytes if group.settled else 0
        place = shard.machine.view.place
        cut = middle_of([(mark, 1.0) for mark in load.marks], place.start, place.end)
        text = cut.decode("ascii", "replace")
        return (
            size,
            round(load.reads_a_second + load.writes_a_second, 1),
            [_hot(each) for each in load.hot],
            text if cut and text.isprintable() and text.isascii() else UNSET,
        )

    def _problems(self) -> list[str]:
        node = self._node
        found = [f"{alarm} on {self._name(who)}" for who, alarm in node.neighbours.alarms]
        standings = [each.group.status() for each in node.serving.shards.values()]
        if any(standing.leader is None for standing in standings):
            found.append("no leader is known")
        if node.draining:
            found.append("this node is stopping")
        members = {peer for each in standings for peer in (*each.voters, *each.learners)}
        found += [
            f"not connected with {self._name(peer)}"
            for peer in sorted(members)
            if peer != node.node_id and not node.link.connected(peer)
        ]
        if node.stand.trouble:
            found.append(f"leaderless keyspaces are not served here: {node.stand.trouble}")
        if self.on_ring is not None:
            found += (each for each in self.on_ring.problems() if each not in found)
        return found

    def _told(self, peer: NodeId, body: bytes) -> bytes:
        return _encode(self.status())

    # --- the cluster --------------------------------------------------------------------------

    async def cluster(self) -> ClusterState:
        node = self._node
        view = node.meta.map.view
        members = self._members()
        answers = await asyncio.gather(*(self._ask(member) for member in members))
        states = dict(zip(members, answers, strict=True))
        shards = [
            self._shard_state(shard, states)
            for shard in sorted(view.shards.values(), key=lambda each: each.shard)
            if shard.shard != META_GROUP
        ]
        keys = [shard.keys_count for shard in shards]
        named = {each.shard: view.keyspaces.get(each.keyspace) for each in view.shards.values()}
        carried = [
            Carried(
                each.shard,
                "" if (keyspace := named[each.shard]) is None else keyspace.name,
                each.operations_a_second,
                self._cut(each, states),
                tuple((key.key, key.operations_a_second) for key in each.hot_keys),
            )
            for each in shards
        ]
        return ClusterState(
            cluster_id=node.cluster_id,
            nodes=[self._state_of(member, state) for member, state in states.items()],
            shards=shards,
            total_keys=None if None in keys else sum(key or 0 for key in keys),
            replication_factor=max((len(shard.members) for shard in shards), default=0),
            advice=advice(carried),
        )

    def _cut(self, shard: ShardState, states: Mapping[NodeId, NodeStatus | None]) -> str | None:
        """As the node says that does most of it."""
        told = [
            (local.operations_a_second, local.cut)
            for state in states.values()
            if state is not None
            for local in state.shards
            if local.shard == shard.shard and not isinstance(local.cut, UnsetType)
        ]
        return max(told)[1] if told else None

    def _members(self) -> list[NodeId]:
        """Of the map; before there is one, of the groups here."""
        view = self._node.meta.map.view
        if view.nodes:
            return [NodeId(each) for each in sorted(view.nodes)]
        standings = [group.status() for group in self._node.host.groups.values()]
        return sorted({node for each in standings for node in (*each.voters, *each.learners)})

    def _shard_state(
        self, shard: ShardRecord, states: Mapping[NodeId, NodeStatus | None]
    ) -> ShardState:
        leaders = [
            (local.term, node, local)
            for node, state in states.items()
            if state is not None
            for local in state.shards
            if local.shard == shard.shard and local.role == "leader"
        ]
        members = list(shard.replicas)
        here = [
            local
            for state in states.values()
            if state is not None
            for local in state.shards
            if local.shard == shard.shard
        ]
        load = round(sum(local.operations_a_second for local in here), 1)
        hot = _together(key for local in here for key in local.hot_keys)
        if not leaders:
            return ShardState(
                shard.shard, None, 0, 0, members, operations_a_second=load, hot_keys=hot
            )
        term, leader, local = max(leaders, key=lambda each: each[0])
        return ShardState(
            shard.shard,
            leader,
            term,
            local.revision,
            members,
            local.keys_count,
            local.size_bytes,
            load,
            hot,
        )

    async def _ask(self, member: NodeId) -> NodeStatus | None:
        if member == self._node.node_id:
            return self.status()
        try:
            answer = await self._node.mail.ask(member, KIND, b"", ANSWER_WITHIN_S)
            return _decode(answer)
        except (NoAnswerError, msgspec.DecodeError):
            return None

    def _state_of(self, member: NodeId, state: NodeStatus | None) -> NodeState:
        view = self._node.meta.map.view
        card, known = self._card(member), view.nodes.get(member)
        address = "" if card is None else card.client or f"{card.peer[0]}:{card.peer[1]}"
        replicas = sum(shard.shard != META_GROUP for shard in view.shards_on(member))
        status: Any = STATUSES.get("" if known is None else known.state, "alive")
        if state is None:
            status = "dead" if status == "dead" else "unreachable"
            return NodeState(
                member, self._name(member), address, status, "unknown", replicas=replicas
            )
        leading = sum(
            local.role == "leader" and local.shard != META_GROUP for local in state.shards
        )
        return NodeState(
            member,
            state.name,
            address,
            status,
            "leader" if leading else state.role,
            state.keys_count,
            state.memory_used_mb,
            max((local.lag for local in state.shards), default=0),
            replicas,
            leading,
        )

    def _card(self, node: NodeId) -> Card | None:
        return self._node.neighbours.all.get(node)

    def _name(self, node: NodeId) -> str:
        card = self._card(node)
        return node if card is None else card.name

    def ring(self) -> RingState:
        if self.on_ring is None:
            raise WrongRegimeError(
                "there is no ring here: all keyspaces are strong, and shards hold their keys; see "
                "/api/v1/admin/cluster/status"
            )
        return self.on_ring.ring()

    def repair(self, done: Callable[[RepairReply], None]) -> bool:
        if self.on_ring is None:
            raise WrongRegimeError(
                "all keyspaces are strong, and need no repair: their replicas follow one log"
            )
        return self.on_ring.repair(done)

    async def transfer_leader(self, target: str | None, deadline_s: float | None) -> str:
        """Only the leader can hand over; asked elsewhere, the answer says who leads."""
        group = self._group
        if group is None:
            raise UnavailableError(
                "this node has no replica of a shard; use POST /api/v1/admin/shards/ID/transfer"
            )
        if not group.leads:
            leader = group.leader
            raise UnavailableError(
                "no leader is known; ask again"
                if leader is None
                else f"this node does not lead; ask {self._name(leader)} ({self._url(leader)})"
            )
        heir = heir_of(group) if target is None else self._find(target)
        if heir is None:
            raise UnavailableError("no other voter is connected; nothing was changed")
        if heir == self._node.node_id:
            return heir
        await hand_over(group, heir)
        return heir

    async def transfer_to_member(self, member: int) -> None:
        """As etcd's move-leader has it: by member id."""
        group = self._group
        for voter in () if group is None else group.status().voters:
            if uint64_of(voter) == member:
                await self.transfer_leader(voter, None)
                return
        raise NoSuchNodeError(f"no voter has the member id {member}")

    def _url(self, node: NodeId) -> str:
        card = self._card(node)
        return "" if card is None else card.client

    def _find(self, target: str) -> NodeId:
        group = self._group
        for voter in () if group is None else group.status().voters:
            if target in (voter, self._name(voter)):
                return voter
        raise NoSuchNodeError(f"no voter is called {target!r}; give its id or its name")

    # --- as etcd has it -----------------------------------------------------------------------

    def members(self) -> Sequence[Member]:
        """Every node of the cluster, as the map has it."""
        known = self._node.meta.map.view.nodes
        found = [
            Member(
                uint64_of(node),
                self._name(node),
                ()
                if (card := self._card(node)) is None
                else (f"http://{card.peer[0]}:{card.peer[1]}",),
                () if card is None or not card.client else (card.client,),
                node in known and known[node].state == "joining",
            )
            for node in self._members()
        ]
        return sorted(found)

    def alarms(self) -> list[tuple[int, int]]:
        """(member, kind) of what the nodes found themselves."""
        return [(uint64_of(node), NAMES[alarm]) for node, alarm in self._node.neighbours.alarms]

    def numbers(self) -> StatusNumbers:
        group = self._group
        standing = None if group is None else group.status()
        statistics = self._node.engine.statistics()
        leader = None if standing is None else standing.leader
        return StatusNumbers(
            leader=0 if leader is None else uint64_of(leader),
            raft_index=0 if standing is None else standing.commit_index,
            raft_applied_index=0 if standing is None else standing.applied_index,
            size_bytes=statistics.disk_bytes,
            size_in_use_bytes=max(0, statistics.disk_bytes - statistics.reusable_bytes),
            is_learner=standing is not None and standing.role is Role.LEARNER,
            errors=tuple(
                f"{alarm} on {self._name(who)}" for who, alarm in self._node.neighbours.alarms
            ),
            has_replica=group is not None,
        )


def _hot(found: Hot) -> HotKeyState:
    text, mark = shown(found.key)
    return HotKeyState(text, round(found.operations_a_second, 1), mark)


def _together(keys: Iterable[HotKeyState]) -> list[HotKeyState]:
    """The hottest of all nodes together."""
    found: dict[tuple[str, Any], float] = {}
    for each in keys:
        name = (each.key, each.key_encoding)
        found[name] = found.get(name, 0.0) + each.operations_a_second
    ordered = sorted(found.items(), key=lambda pair: (-pair[1], pair[0][0]))
    return [HotKeyState(key, round(rate, 1), mark) for (key, mark), rate in ordered[:HOT_MOST]]


def _lag(standing: GroupStatus) -> int:
    return max(0, standing.commit_index - standing.applied_index)
