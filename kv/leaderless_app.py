"""The faces of a node whose keyspace `default` is leaderless: what kv/app.py takes there instead of
the strong regime's.

    LeaderlessEnvironment -> Face (kv/api/leaderless) -> REST, fast lane
                         '-> LeaderlessReport: status, readiness; figures for the metrics

The contexts and tokens that clients carry are sealed with the cluster's secret. A cluster without
one (on one machine, or `insecure`) seals with its id: that keeps mistakes out, not attackers.
"""

from __future__ import annotations

import asyncio

from kv.api.leaderless.face import Face
from kv.api.leaderless.hot import Codecs
from kv.cluster.mail import Mail
from kv.config.parts import keyspace
from kv.config.sections import Config
from kv.leaderless.context import ContextCodec
from kv.leaderless.environment import LeaderlessEnvironment
from kv.leaderless.listing import Lister
from kv.leaderless.session import SessionCodec
from kv.leaderless.watching import Watching
from kv.leaderless_report import LeaderlessReport
from kv.metrics.from_leaderless import HintFigures, LeaderlessFigures
from kv.metrics.process import process_figures
from kv.node import Node


class LeaderlessParts:
    def __init__(self, config: Config, node: Node, loop: asyncio.AbstractEventLoop) -> None:
        """Of a node that has started."""
        assert node.leaderless is not None, "the settings of a leaderless node ask for one"
        self.environment: LeaderlessEnvironment = node.leaderless
        self.node = node
        space = keyspace(config)
        secrets = [node.settings.secret or f"januskv cluster {node.cluster_id}".encode()]
        look = Mail(node.link, loop, "look")
        self.watching = Watching(self.environment.regime, look, node.tasks, loop, node.clock)
        self.face = Face(
            self.environment.regime.coordinator,
            space,
            Codecs(ContextCodec(secrets), SessionCodec(secrets)),
            node.clock,
            Lister(self.environment.regime, look),
            self.watching,
        )
        self.report = LeaderlessReport(node, self.environment, space, process=process_figures)

    def figures(self) -> LeaderlessFigures:
        regime = self.environment.regime
        members = regime.view.ring.members
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
        )
