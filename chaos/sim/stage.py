"""A quiet cluster of one group on which a script decides which message gets through.

For bugs that dice miss for thousands of runs (chaos/sim/directed.py). There are no faults but those
of the script. Nodes are named by the parts they play, which a script learns from who leads. If a
step does not come about (the code no longer does what the script relies on), ScriptError says
which.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

from chaos.checkers.linearizability import check_history
from chaos.checkers.violation import Violation
from chaos.history import History, Kind, Operation
from chaos.sim.cluster import FIRST_GROUP, Cluster
from chaos.sim.disk import DiskSettings
from chaos.sim.machine import Action, Answer, Command
from chaos.sim.network import NetworkSettings
from chaos.sim.node import SimNode
from chaos.sim.settings import DrawnSettings, SimConfig
from raftgroups.config import HostConfig
from raftgroups.frames import decode_frame, encode_frame
from raftgroups.group import Group
from raftgroups.messages import Message
from raftgroups.outcomes import Applied, ProposeResult, ReadReady, ReadResult, Refused
from raftgroups.status import Role
from raftgroups.transport import NodeId

STEP_S: Final = 0.01
PATIENCE_S: Final = 30.0
KEY: Final = "g1/reg0"

Rule = Callable[[SimNode, SimNode, Message], bool]


class ScriptError(Exception):
    """A step of the script did not come about."""


def pass_all(source: SimNode, target: SimNode, message: Message) -> bool:
    return True


class Stage:
    """Invariant: every message between nodes passed `rule` when it was sent."""

    def __init__(
        self, nodes: int, canaries: Collection[str], seed: int = 1, **settings: Any
    ) -> None:
        host = HostConfig(canaries=frozenset(canaries), hibernate_after_s=0.0, **settings)
        network = NetworkSettings(give_up_s=(1_000.0, 1_000.0))
        disks = [DiskSettings(spike_p=0.0) for _ in range(nodes)]
        drawn = DrawnSettings(host, network, disks, 0, 1.0, 1, 1)
        config = SimConfig(seed=seed, nodes=nodes, groups=1, canaries=host.canaries)
        self.cluster = Cluster(config, drawn)
        self.world = self.cluster.world
        self.network = self.cluster.network
        self.nodes = self.cluster.nodes
        self.rule: Rule = pass_all
        self._by_id = {node.node_id: node for node in self.nodes}
        self._proposed = 0
        self.history = History()
        self.network.meddler = self._meddle

    def _meddle(self, source: NodeId, target: NodeId, channel: str, frame: bytes) -> bytes | None:
        incarnation, boot, level, messages, _ = decode_frame(frame)
        first, second = self._by_id[source], self._by_id[target]
        passed = [message for message in messages if self.rule(first, second, message)]
        if not passed:
            return None
        if len(passed) == len(messages):
            return frame
        return encode_frame(incarnation, boot, level, passed)

    # --- what a script does --------------------------------------------------------------------

    def wait(self, what: str, condition: Callable[[], bool]) -> None:
        """Run until the condition holds (or the first violation, which ends every script)."""
        until = self.world.now + PATIENCE_S
        while not condition() and self.world.stop_reason is None:
            if self.world.now >= until:
                raise ScriptError(f"waited {PATIENCE_S:g} s in vain: {what}")
            self.world.run(self.world.now + STEP_S)

    def group(self, node: SimNode) -> Group:
        assert node.host is not None
        return node.host.group(FIRST_GROUP)

    def leads(self, node: SimNode) -> bool:
        return node.host is not None and self.group(node).role is Role.LEADER

    def a_leader(self, among: Collection[SimNode], what: str) -> SimNode:
        self.wait(what, lambda: any(self.leads(node) for node in among))
        return next((node for node in among if self.leads(node)), next(iter(among)))

    def formed(self) -> SimNode:
        """Wait until the group leads a normal life; returns its leader."""
        leader = self.a_leader(self.nodes, "a first leader")
        done: list[ProposeResult] = []

        def taken() -> bool:
            if not any(isinstance(result, Applied) for result in done):
                self.propose(self.a_leader(self.nodes, "a leader again"), done.append)
            return any(isinstance(result, Applied) for result in done)

        self.wait("the group takes proposals", taken)
        last = self.last_index(leader)
        self.wait("all have all", lambda: all(self.applied(n) >= last for n in self.nodes))
        return self.a_leader(self.nodes, "a leader")

    def propose(self, node: SimNode, done: Callable[[ProposeResult], None]) -> None:
        """A write of a value of its own, which goes into the history."""
        self._proposed += 1
        name = f"s{self._proposed}"
        operation = self.history.invoke(
            Operation(name, name, node.label, KEY, Kind.WRITE, self.world.now, value=name)
        )

        def answered(result: ProposeResult) -> None:
            if isinstance(result, Applied):
                assert isinstance(result.result, Answer)
                self.history.done(operation, self.world.now, result.result.value)
            elif isinstance(result, Refused):
                self.history.failed(operation, self.world.now, result.reason)
            done(result)

        command = Command(name, Action.WRITE, KEY, name)
        self.group(node).propose(command.encode(), answered)

    def write(self, node: SimNode, count: int) -> list[ProposeResult]:
        """Give a leader that many entries, one a turn; what became of them is filled in later."""
        results: list[ProposeResult] = []
        for _ in range(count):
            before = self.last_index(node)
            self.propose(node, results.append)
            self.wait("the leader appends", lambda: self.last_index(node) > before)  # noqa: B023
        return results

    def read(self, node: SimNode) -> Operation:
        """Ask for the value; the answer goes into the history."""
        self._proposed += 1
        name = f"s{self._proposed}"
        operation = self.history.invoke(
            Operation(name, name, node.label, KEY, Kind.READ, self.world.now)
        )

        def answered(result: ReadResult) -> None:
            if isinstance(result, ReadReady):
                value = node.machines[FIRST_GROUP].read(KEY)
                self.history.done(operation, self.world.now, value)

        self.group(node).read(answered)
        return operation

    def write_and_wait(self, node: SimNode) -> None:
        """One write that must be answered as done."""
        results = self.write(node, 1)
        self.wait("the write is done", lambda: bool(results) and isinstance(results[0], Applied))

    def last_index(self, node: SimNode) -> int:
        return self.group(node).status().last_index

    def applied(self, node: SimNode) -> int:
        return self.group(node).status().applied_index

    def equal(self, nodes: Collection[SimNode]) -> bool:
        """Whether they hold and have applied the same log."""
        states = {(self.last_index(node), self.applied(node)) for node in nodes}
        return len(states) == 1

    @property
    def violations(self) -> list[Violation]:
        return [*self.cluster.observer.violations, *check_history(self.history.operations)]


def apart(*sides: Collection[SimNode]) -> Rule:
    """Messages stay within their side."""

    def rule(source: SimNode, target: SimNode, message: Message) -> bool:
        return any(source in side and target in side for side in sides)

    return rule
