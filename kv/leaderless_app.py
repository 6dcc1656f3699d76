"""The faces of a node's leaderless keyspaces: what kv/app.py takes beside the strong regime's, or,
where `default` is leaderless, in its place.

    LeaderlessEnvironment -> a Face a keyspace (kv/api/leaderless) -> REST, fast lane
                         '-> RingReport: status, ring, repair; figures for the metrics

The contexts and tokens that clients carry are sealed with the cluster's secret. A cluster without
one (on one machine, or `insecure`) seals with its id: that keeps mistakes out, not attackers.
"""

from __future__ import annotations

import asyncio

from kv.api.leaderless.face import Face
from kv.api.leaderless.hot import Codecs
from kv.cluster.mail import Mail
from kv.leaderless.context import ContextCodec
from kv.leaderless.environment import LeaderlessEnvironment
from kv.leaderless.keyspace import Keyspace
from kv.leaderless.listing import Lister
from kv.leaderless.session import SessionCodec
from kv.leaderless.watching import Watching
from kv.leaderless_report import PHI_SHOWN_MAX, LeaderlessReport, RingReport
from kv.metrics.from_leaderless import (
    GossipFigures,
    HintFigures,
    LeaderlessFigures,
    RepairFigures,
)
from kv.metrics.process import process_figures
from kv.node import Node
from raftgroups.transport import NodeId


class LeaderlessParts:
    def __init__(
        self, environment: LeaderlessEnvironment, node: Node, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.environment = environment
        self.node = node
        secrets = [node.settings.secret or f"januskv cluster {node.cluster_id}".encode()]
        self._codecs = Codecs(ContextCodec(secrets), SessionCodec(secrets))
        look = Mail(node.link, loop, "look")
        self.watching = Watching(environment.regime, look, node.tasks, loop, node.clock)
        self._lister = Lister(environment.regime, look)
        self._faces: dict[int, Face] = {}
        self.ring = RingReport(node, environment)
        node.stand.on_altered = self._altered

    def face(self, space: Keyspace) -> Face:
        found = self._faces.get(space.number)
        if found is None:
            found = self._faces[space.number] = Face(
                self.environment.regime.coordinator,
                space,
                self._codecs,
                self.node.clock,
                self._lister,
                self.watching,
            )
        return found

    def report(self) -> LeaderlessReport:
        """Where `default` is leaderless; once."""
        return LeaderlessReport(self.node, self.environment, self.ring, process=process_figures)

    def _altered(self, space: Keyspace) -> None:
        if space.number in self._faces:
            self._faces[space.number].space = space

    def figures(self) -> LeaderlessFigures:
        regime = self.environment.regime
        members = regime.view.ring.members
        standing = self.node.stand.standing()
        return LeaderlessFigures(
            under_way=regime.coordinator.under_way,
            waiting=regime.messenger.waiting,
            pending=regime.replica.pending,
            counts={
                **regime.parts.counts,
                "minted": regime.replica.minted,
                "stored": regime.replica.stored,
                "hints_replayed": regime.handoff.replayed,
            },
            alarms=regime.replica.alarms,
            hints={
                peer: HintFigures(usage.count, usage.size_bytes, usage.overflowed)
                for peer, usage in regime.replica.hint_usages().items()
            },
            connected={
                peer: regime.reachable(peer) for peer in members if peer != self.node.node_id
            },
            phi={peer: self._phi(peer) for peer in members if peer != self.node.node_id},
            gossip=self._gossip(),
            repair=self._repair(),
            tombstones=regime.maintenance.reaper.held,
            oldest_tombstone_s=regime.maintenance.reaper.oldest_s,
            reaped=regime.replica.reaped,
            sibling_refusals=regime.replica.sibling_refusals,
            lacking=0.0 if standing is None else standing.lacking,
            foreign=regime.maintenance.house.foreign,
            tails=self.watching.tails,
        )

    def _phi(self, peer: NodeId) -> float:
        gossip = self.environment.regime.members.gossip
        return 0.0 if gossip is None else min(gossip.phi(peer), PHI_SHOWN_MAX)

    def _gossip(self) -> GossipFigures:
        gossip = self.environment.regime.members.gossip
        if gossip is None:
            return GossipFigures(0, 0, 0.0)
        return GossipFigures(gossip.rounds, gossip.sent_bytes, gossip.convergence_s)

    def _repair(self) -> RepairFigures:
        maintenance = self.environment.regime.maintenance
        totals = maintenance.exchanger.totals
        return RepairFigures(
            maintenance.repairs,
            totals.exchanges,
            totals.equal,
            totals.fetched,
            totals.pushed,
            totals.transferred_bytes,
            totals.failed,
        )
