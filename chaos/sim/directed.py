"""Directed schedules: bugs that dice miss for thousands of runs, laid bare step by step.

A Stage is a quiet cluster of one group and no faults, in which a script decides which message gets
through. The script names nodes by the parts they play, which it learns from who leads. If a step
does not come about (the code no longer does what the script relies on), ScriptError says which.

no-ack-term-check (hazard a): a leader counts an acknowledgement that was meant for an earlier term.

    term 1   A leads, writes 12 entries to B alone; B's acknowledgements get stuck on their way
    term 2   C leads, replaces them on A and B by its own entry, which nobody confirms
    term 3   A leads again with the votes of D and E, writes 12 entries to D alone (2 of 5),
             and now the stuck acknowledgements arrive: B seems to have them (3 of 5)
    then     A and D are cut off; B, C and E elect a leader that knows nothing of all that

duplicate-votes (hazard e2): a repeated vote counts twice.

    A is told to stand by leader E. At that moment {A, B} are cut off, and the network repeats B's
    vote: A has 3 of 5. E restarts and knows of nothing; C, D and E elect one of them, same term.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from chaos.checkers.violation import Violation
from chaos.sim.cluster import FIRST_GROUP, Cluster
from chaos.sim.disk import DiskSettings
from chaos.sim.machine import Action, Command
from chaos.sim.network import NetworkSettings
from chaos.sim.node import SimNode
from chaos.sim.observer import role_of
from chaos.sim.settings import DrawnSettings, SimConfig
from chaos.sim.simulation import logs_into
from raftgroups.config import HostConfig
from raftgroups.group import Group
from raftgroups.messages import (
    Ack,
    Append,
    Message,
    PreVoteRequest,
    VoteRequest,
    decode_frame,
    encode_frame,
)
from raftgroups.outcomes import Applied, ProposeResult
from raftgroups.status import Role
from raftgroups.transport import NodeId

STEP_S: Final = 0.01
PATIENCE_S: Final = 30.0

Rule = Callable[[SimNode, SimNode, Message], bool]


class ScriptError(Exception):
    """A step of the script did not come about."""


def pass_all(source: SimNode, target: SimNode, message: Message) -> bool:
    return True


class Stage:
    """Invariant: every message between nodes passed `rule` when it was sent."""

    def __init__(self, nodes: int, canaries: Collection[str], seed: int = 1) -> None:
        host = HostConfig(canaries=frozenset(canaries), hibernate_after_s=0.0)
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
        self.network.meddler = self._meddle

    def _meddle(self, source: NodeId, target: NodeId, channel: str, frame: bytes) -> bytes | None:
        incarnation, boot, messages, _ = decode_frame(frame)
        first, second = self._by_id[source], self._by_id[target]
        passed = [message for message in messages if self.rule(first, second, message)]
        if not passed:
            return None
        return frame if len(passed) == len(messages) else encode_frame(incarnation, boot, passed)

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
        return node.host is not None and role_of(self.group(node)) is Role.LEADER

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
        self._proposed += 1
        name = f"s{self._proposed}"
        command = Command(name, Action.WRITE, "g1/reg0", name)
        self.group(node).propose(command.encode(), done)

    def write(self, node: SimNode, count: int) -> list[ProposeResult]:
        """Give a leader that many entries, one a turn; what became of them is filled in later."""
        results: list[ProposeResult] = []
        for _ in range(count):
            before = self.last_index(node)
            self.propose(node, results.append)
            self.wait("the leader appends", lambda: self.last_index(node) > before)  # noqa: B023
        return results

    def last_index(self, node: SimNode) -> int:
        return self.group(node).status().last_index

    def applied(self, node: SimNode) -> int:
        return self.group(node).status().applied_index

    @property
    def violations(self) -> list[Violation]:
        return self.cluster.observer.violations


def apart(*sides: Collection[SimNode]) -> Rule:
    """Messages stay within their side."""

    def rule(source: SimNode, target: SimNode, message: Message) -> bool:
        return any(source in side and target in side for side in sides)

    return rule


# --- hazard a ----------------------------------------------------------------------------------


def stale_acknowledgements(canaries: Collection[str], seed: int = 1) -> list[Violation]:
    stage = Stage(5, canaries, seed)
    with logs_into(stage.world):
        stage.cluster.start()
        _stale_acknowledgements(stage)
    return stage.violations


def _stale_acknowledgements(stage: Stage) -> None:
    a = stage.formed()
    b, *others = [node for node in stage.nodes if node is not a]
    base = stage.last_index(a)

    # Term 1: to B alone, whose answers get stuck in the connection.
    stage.rule = apart([a, b], others)
    stage.network.block(b.node_id, a.node_id)
    stage.write(a, 12)
    stage.wait("B has A's entries", lambda: stage.last_index(b) == base + 12)

    # Term 2: C replaces them on A and B; D and E never see it, and nobody confirms it.
    def without_entries(source: SimNode, target: SimNode, message: Message) -> bool:
        empty = not isinstance(message, Append) or not message.entries
        return source in others and target in others and empty

    stage.rule = without_entries
    c = stage.a_leader(others, "a leader of the majority")
    d, e = (node for node in others if node is not c)

    def replaced(source: SimNode, target: SimNode, message: Message) -> bool:
        if target is c and source in (a, b):
            return isinstance(message, Ack) and not message.success
        return (source is c and target in (a, b)) or without_entries(source, target, message)

    stage.rule = replaced
    stage.wait(
        "C replaces the entries of A and B",
        lambda: stage.last_index(a) == stage.last_index(b) == base + 1,
    )

    # Term 3: A again, by D and E; only A and D speak of entries.
    def again(source: SimNode, target: SimNode, message: Message) -> bool:
        if source is a and isinstance(message, Append):
            return target is d
        asks = source is a and isinstance(message, (PreVoteRequest, VoteRequest))
        return (asks and target in (d, e)) or (
            source in (d, e)
            and target is a
            and not isinstance(message, (PreVoteRequest, VoteRequest))
        )

    stage.rule = again
    stage.wait("A leads again", lambda: stage.leads(a))
    stage.wait("D has A's log", lambda: stage.last_index(d) == stage.last_index(a))
    results = stage.write(a, 12)
    stage.wait("D has A's new entries", lambda: stage.last_index(d) == stage.last_index(a))
    stage.network.unblock(b.node_id, a.node_id)
    stage.world.run(stage.world.now + 0.5)
    confirmed = sum(isinstance(result, Applied) for result in results)
    stage.world.trace(f"A told its clients that {confirmed} of 12 writes are done")

    # Then: the other three, a majority, go on.
    stage.rule = apart([a, d], [b, c, e])
    rest = stage.a_leader([b, c, e], "a leader of the rest")
    if not stage.violations:
        stage.wait("the rest commits", lambda: stage.applied(rest) >= stage.last_index(rest))


# --- hazard e2 ---------------------------------------------------------------------------------


def repeated_votes(canaries: Collection[str], seed: int = 1) -> list[Violation]:
    stage = Stage(5, canaries, seed)
    with logs_into(stage.world):
        stage.cluster.start()
        _repeated_votes(stage)
    return stage.violations


def _repeated_votes(stage: Stage) -> None:
    e = stage.formed()
    a, b, *others = [node for node in stage.nodes if node is not e]
    cut = apart([a, b], [e, *others])
    stands = False

    def when_a_stands(source: SimNode, target: SimNode, message: Message) -> bool:
        nonlocal stands
        stands = stands or (source is a and isinstance(message, VoteRequest))
        return not stands or cut(source, target, message)

    stage.rule = when_a_stands
    stage.network.settings.duplicate_p = 1.0
    stage.group(e).transfer(a.node_id, lambda result: None)
    stage.wait("A stands for election", lambda: stands)
    e.crash(power=False)
    stage.world.run(stage.world.now + 0.1)
    e.start()
    stage.a_leader([e, *others], "a leader of the majority")


SCRIPTS: Final[dict[str, Callable[..., list[Violation]]]] = {
    "no-ack-term-check": stale_acknowledgements,
    "duplicate-votes": repeated_votes,
}
"""canary -> the script that lays it bare: with the canary a violation, without it none."""
