"""One simulated cluster: world, network, nodes, groups, operator. Put together, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chaos.checkers.liveness import ReplicaView
from chaos.sim.admin import Admin
from chaos.sim.network import SimNetwork
from chaos.sim.node import SimNode
from chaos.sim.observer import Observer
from chaos.sim.settings import DrawnSettings, SimConfig
from chaos.sim.world import World
from raftgroups.host import GroupHost
from raftgroups.transport import NodeId

FIRST_GROUP = 1


class Cluster:
    """Invariant: `nodes` never changes; the first `config.nodes` of them form the groups."""

    def __init__(
        self,
        config: SimConfig,
        drawn: DrawnSettings,
        *,
        memory: int = 60,
        sink: Callable[[str], None] | None = None,
        make_host: Callable[..., GroupHost] = GroupHost,
    ) -> None:
        self.config = config
        self.drawn = drawn
        self.world = World(config.seed, memory=memory, sink=sink)
        self.network = SimNetwork(self.world, drawn.network)
        self.observer = Observer(self.world)
        self.groups = list(range(FIRST_GROUP, FIRST_GROUP + config.groups))
        self.nodes = [
            self._make_node(
                self.world,
                self.network,
                self.observer,
                f"n{number}",
                disk,
                drawn.host,
                make_host,
            )
            for number, disk in enumerate(drawn.disks, start=1)
        ]
        self.admin = Admin(self)
        self.served: set[int] = set()
        """Groups that have taken a write, so they are surely formed."""
        founders = [node.node_id for node in self.nodes[: config.nodes]]
        for node in self.nodes:
            node.peers = [peer.node_id for peer in self.nodes if peer is not node]
            node.on_death = self._restart_after_failure
            if node.node_id in founders:
                node.to_form = dict.fromkeys(self.groups, founders)

    def _make_node(self, *args: Any) -> SimNode:
        return SimNode(*args)

    def start(self) -> None:
        for node in self.nodes:
            node.start()

    def _restart_after_failure(self, node: SimNode) -> None:
        """A process that ended by itself (a failed write) is started again by its supervisor;
        whoever kills a node on purpose starts it sooner or later than this."""

        def start() -> None:
            if not node.running:
                node.start()

        self.world.after(4.5, start)

    def label(self, node_id: NodeId | None) -> str | None:
        return None if node_id is None else self.network.label(node_id)

    def views(self, group_id: int) -> dict[str, ReplicaView]:
        """What each running replica of a group says of itself, by label."""
        found: dict[str, ReplicaView] = {}
        for node in self.nodes:
            if node.host is None or group_id not in node.host.groups:
                continue
            status = node.host.groups[group_id].status()
            found[node.label] = ReplicaView(
                role=status.role.value,
                term=status.term,
                leader=self.label(status.leader),
                commit_index=status.commit_index,
                applied_index=status.applied_index,
                last_index=status.last_index,
                voters=tuple(self.network.label(voter) for voter in status.voters),
                feature_level=status.feature_level,
            )
        return found

    def supported(self, group_id: int) -> int:
        """The feature level that the programs of all members support."""
        members = self.members(group_id)
        return min(node.level for node in self.nodes if node.label in members)

    def members(self, group_id: int) -> list[str]:
        """Whom the leader counts as voters and learners; the founders if there is no leader."""
        found = self.admin.leader(group_id)
        if found is None:
            return [node.label for node in self.nodes[: self.config.nodes]]
        status = found[1].status()
        return sorted(self.network.label(n) for n in (*status.voters, *status.learners))
