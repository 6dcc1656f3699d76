"""What a node on the ring says of itself and of its cluster, to operators.

As kv/report.py does it for the strong regime: numbers of other nodes are asked for over the peer
link when somebody wants to see them, and a node that does not answer in time is unreachable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Final, cast

import msgspec

from kv.api.admin_bodies import (
    ClusterState,
    LeaderlessStatus,
    NodeState,
    NodeStatus,
    OnRing,
    PeerState,
    RepairReply,
    RingMember,
    RingState,
)
from kv.cluster.cards import Card
from kv.cluster.mail import NoAnswerError
from kv.errors import WrongRegimeError
from kv.leaderless.environment import LeaderlessEnvironment
from kv.leaderless.exchange import Report
from kv.leaderless.put_core import AWAY
from kv.metrics.from_process import ProcessFigures
from kv.node import Node
from raftgroups.transport import NodeId
from storage.buckets import BUCKETS
from storage.hints import NO_USAGE, HintUsage

LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SLICES: Final = 256
KIND: Final = "status"
ANSWER_WITHIN_S: Final = 1.0
MEBIBYTE: Final = 1024 * 1024
PHI_SHOWN_MAX: Final = 99.0
"""It grows without end; JSON has no infinity."""
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(NodeStatus).decode


class RingReport:
    """What there is to say of the ring, whatever the regime of `default` is."""

    def __init__(self, node: Node, environment: LeaderlessEnvironment) -> None:
        self._node = node
        self._environment = environment
        self._shares: tuple[bytes, dict[NodeId, float]] = (b"", {})

    def section(self) -> LeaderlessStatus:
        regime = self._environment.regime
        usages = regime.replica.hint_usages()
        shares = self._shares_now()
        standing = self._node.stand.standing()
        assert standing is not None, "there is a ring"
        return LeaderlessStatus(
            standing=cast(Any, standing.status),
            lacking=standing.lacking,
            foreign=standing.foreign,
            tombstones=regime.maintenance.reaper.held,
            keyspaces=[
                OnRing(
                    space.name,
                    space.n,
                    _count(space.r),
                    _count(space.w),
                    space.strict,
                    space.rule.value,
                )
                for _, space in sorted(regime.keyspaces.items())
            ],
            ring_epoch=regime.view.epoch.hex(),
            share=round(shares.get(self._node.node_id, 0.0), 4),
            under_way=regime.coordinator.under_way,
            peers=[
                self._peer(member, shares, usages.get(member, NO_USAGE))
                for member in self.members()
                if member != self._node.node_id
            ],
            counts={
                **regime.parts.counts,
                "minted": regime.replica.minted,
                "stored": regime.replica.stored,
                "hints_replayed": regime.handoff.replayed,
                "foreign_rings": regime.messenger.foreign_rings,
            },
            alarms=dict(regime.replica.alarms),
        )

    def _peer(self, member: NodeId, shares: dict[NodeId, float], usage: HintUsage) -> PeerState:
        card = self.card(member)
        return PeerState(
            member,
            self.name(member),
            "" if card is None else card.client,
            self._environment.regime.reachable(member),
            round(shares.get(member, 0.0), 4),
            self._phi(member),
            usage.count,
            usage.size_bytes,
            usage.overflowed,
            self._trouble(member) if usage.count or usage.overflowed else "",
        )

    def _trouble(self, member: NodeId) -> str:
        regime = self._environment.regime
        if not regime.reachable(member):
            return AWAY
        return regime.handoff.troubles.get(member, "")

    def _phi(self, member: NodeId) -> float | None:
        gossip = self._environment.regime.members.gossip
        return None if gossip is None else round(min(gossip.phi(member), PHI_SHOWN_MAX), 2)

    def members(self) -> list[NodeId]:
        return sorted(self._environment.regime.view.ring.members)

    def copies(self) -> int:
        """N of the keyspace that has most."""
        return max((each.n for each in self._environment.regime.keyspaces.values()), default=1)

    def _shares_now(self) -> dict[NodeId, float]:
        """Walking the ring takes a while; it is done once a ring."""
        view, n = self._environment.regime.view, self.copies()
        key = view.epoch + bytes((n,))
        if self._shares[0] != key:
            self._shares = key, view.ring.load(n) if view.ring.members else {}
        return self._shares[1]

    def problems(self) -> list[str]:
        regime = self._environment.regime
        found = [f"{kind}, {count} times" for kind, count in sorted(regime.replica.alarms.items())]
        usages = regime.replica.hint_usages()
        for peer in self.members():
            if not regime.reachable(peer):
                found.append(f"not connected with {self.name(peer)}")
            elif peer in regime.handoff.troubles and usages.get(peer, NO_USAGE).count:
                why = regime.handoff.troubles[peer]
                found.append(f"hints for {self.name(peer)} cannot be delivered: {why}")
        return found

    def card(self, node: NodeId) -> Card | None:
        return self._node.neighbours.all.get(node)

    def name(self, node: NodeId) -> str:
        card = self.card(node)
        return node if card is None else card.name

    def ring(self) -> RingState:
        regime, shares = self._environment.regime, self._shares_now()
        members = self.members()
        letters = {member: LETTERS[place % len(LETTERS)] for place, member in enumerate(members)}
        step = BUCKETS // SLICES
        firsts = (regime.view.ring.preference(step * place, 1)[:1] for place in range(SLICES))
        return RingState(
            regime.view.epoch.hex(),
            self.copies(),
            [
                RingMember(
                    member,
                    self.name(member),
                    letters[member],
                    round(shares.get(member, 0.0), 4),
                    regime.view.ring.members[member].vnodes,
                    regime.reachable(member),
                )
                for member in members
            ],
            "".join(letters[first[0]] if first else "-" for first in firsts),
        )

    def repair(self, done: Callable[[RepairReply], None]) -> bool:
        """Compare all with every peer and bring both up to date. False: too many wait already."""

        def told(report: Report) -> None:
            done(
                RepairReply(
                    report.exchanges,
                    report.equal,
                    report.compared,
                    report.fetched,
                    report.pushed,
                    report.transferred_bytes,
                    report.failed,
                    {self.name(node): why for node, why in report.broken_off.items()},
                )
            )

        return self._environment.regime.maintenance.repair(told)


class LeaderlessReport:
    """Implements kv/api/context.py Node, where `default` is leaderless."""

    def __init__(
        self,
        node: Node,
        environment: LeaderlessEnvironment,
        ring: RingReport,
        *,
        process: Callable[[], ProcessFigures],
    ) -> None:
        self._node = node
        self._environment = environment
        self._ring = ring
        self._process = process
        self._started_s = node.clock.monotonic()
        node.mail.on(KIND, self._told)

    def status(self) -> NodeStatus:
        node = self._node
        return NodeStatus(
            node_id=node.node_id,
            name=node.settings.name,
            version=version("januskv"),
            mode="leaderless",
            role="replica",
            leader=None,
            term=0,
            revision=0,
            compact_revision=0,
            applied_index=0,
            commit_index=0,
            lag=0,
            uptime_s=round(node.clock.monotonic() - self._started_s, 3),
            data_bytes=self._environment.engine.statistics().disk_bytes,
            memory_used_mb=round((self._process().anonymous_bytes or 0) / MEBIBYTE, 1),
            keys_count=None,
            watchers=0,
            problems=self._problems(),
            leaderless=self._ring.section(),
        )

    def _problems(self) -> list[str]:
        node = self._node
        found = [f"{alarm} on {self._ring.name(who)}" for who, alarm in node.neighbours.alarms]
        if node.draining:
            found.append("this node is stopping")
        return found + self._ring.problems()

    def _told(self, peer: NodeId, body: bytes) -> bytes:
        return _encode(self.status())

    async def cluster(self) -> ClusterState:
        members = self._ring.members()
        states = await asyncio.gather(*(self._ask(member) for member in members))
        nodes = [self._state_of(*each) for each in zip(members, states, strict=True)]
        return ClusterState(
            cluster_id=self._node.cluster_id,
            nodes=nodes,
            shards=[],
            total_keys=None,
            replication_factor=min(self._node.stand.default.n, len(members)),
        )

    async def _ask(self, member: NodeId) -> NodeStatus | None:
        if member == self._node.node_id:
            return self.status()
        try:
            return _decode(await self._node.mail.ask(member, KIND, b"", ANSWER_WITHIN_S))
        except (NoAnswerError, msgspec.DecodeError):
            return None

    def _state_of(self, member: NodeId, state: NodeStatus | None) -> NodeState:
        card, name = self._ring.card(member), self._ring.name(member)
        address = "" if card is None else card.client or f"{card.peer[0]}:{card.peer[1]}"
        if state is None:
            return NodeState(member, name, address, "unreachable", "unknown")
        used_mb = state.memory_used_mb
        return NodeState(member, state.name, address, "alive", "replica", state.keys_count, used_mb)

    def ring(self) -> RingState:
        return self._ring.ring()

    def repair(self, done: Callable[[RepairReply], None]) -> bool:
        return self._ring.repair(done)

    async def transfer_leader(self, target: str | None, deadline_s: float | None) -> str:
        raise WrongRegimeError("nobody leads a leaderless keyspace: every node takes every write")

    # --- is it ready? -------------------------------------------------------------------------

    def trouble(self) -> str:
        """Why this node cannot serve what its keyspace asks for by default; empty: it can."""
        if self._node.draining:
            return "this node is stopping"
        regime, space = self._environment.regime, self._node.stand.default
        members = regime.view.ring.members
        reached = sum(regime.reachable(member) for member in members)
        n = min(space.n, len(members))
        needed = min(n, max(_count(space.r), _count(space.w)))
        if reached < needed:
            return f"{reached} of {needed} nodes that a request asks for by default are in reach"
        return ""


def _count(number: int | str) -> int:
    assert isinstance(number, int), "R and W of the map and of a configuration are numbers"
    return number
