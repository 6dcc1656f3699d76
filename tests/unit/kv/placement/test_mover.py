"""The planner's shell: what it makes of silence."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from kv.placement.attendant import ASK, REPORT
from kv.placement.messages import (
    REPORT_VERSION,
    ReplicaReport,
    ReplicaRole,
    Report,
    decode_ask,
    encode,
)
from kv.placement.mover import Mover, MoverSettings
from raftgroups.meta.commands import MetaCommand, SetNodeState
from raftgroups.meta.records import (
    DEFAULT_KEYSPACE_ID,
    KeyspaceRecord,
    NodeRecord,
    NodeState,
    ShardRecord,
)
from raftgroups.meta.view import MetaView, meta_shard
from raftgroups.transport import NodeId
from storage.clock import ManualClock

NODES = tuple(NodeId(name) for name in "abcdef")
OWN = NODES[0]
VOTERS = NODES[1:4]
DEAD_AFTER_S = 10.0


class Timer:
    def cancel(self) -> None:
        pass


class Rig:
    """Node a plans; the others answer each of its questions, unless they are silent."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.silent: set[NodeId] = set()
        self.proposed: list[MetaCommand] = []
        self.handlers: dict[str, Callable[[NodeId, bytes], object]] = {}
        self.due: list[tuple[float, Callable[[], None]]] = []
        nodes: dict[str, NodeRecord] = {n: NodeRecord(n, 7, n, ("h", 1)) for n in NODES}
        shard = ShardRecord(1, DEFAULT_KEYSPACE_ID, b"", None, 1, replicas=VOTERS)
        self.view = MetaView(
            5,
            nodes,
            {DEFAULT_KEYSPACE_ID: KeyspaceRecord(DEFAULT_KEYSPACE_ID, "default")},
            {0: meta_shard(VOTERS), 1: shard},
        )
        self.leads = True
        attendant = SimpleNamespace(
            report=lambda number: self.report(OWN, number),
            invited=lambda invite: None,
            ordered=lambda order: None,
        )
        self.mover = Mover(
            node_id=OWN,
            meta=self,
            notes=cast(Any, self),
            attendant=cast(Any, attendant),
            scheduler=cast(Any, self),
            clock=self.clock,
            settings=MoverSettings(dead_after_s=DEAD_AFTER_S),
        )
        self.mover.start()

    def propose(self, command: MetaCommand) -> None:
        self.proposed.append(command)

    def on(self, kind: str, handler: Callable[[NodeId, bytes], object]) -> None:
        self.handlers[kind] = handler

    def tell(self, node: NodeId, kind: str, body: bytes) -> None:
        if kind == ASK and node not in self.silent:
            number = decode_ask(body).number
            self.handlers[REPORT](node, encode(self.report(node, number)))

    def report(self, node: NodeId, number: int) -> Report:
        bound = tuple((each, 7) for each in VOTERS)
        leads = ReplicaReport(
            1, ReplicaRole.LEADER, 3, bound, config_index=9, settled=True, caught_up=VOTERS
        )
        replicas = (leads, msgspec.structs.replace(leads, group=0)) if node == VOTERS[0] else ()
        return Report(REPORT_VERSION, number, 7, False, replicas)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        self.due.append((self.clock.monotonic() + delay_s, callback))
        return Timer()

    def run(self, seconds: float) -> None:
        until_s = self.clock.monotonic() + seconds
        while self.due and min(at for at, _ in self.due) <= until_s:
            at, callback = self.due.pop(0)
            self.clock.advance(max(0.0, at - self.clock.monotonic()))
            callback()

    @property
    def declared(self) -> set[str]:
        return {
            each.node
            for each in self.proposed
            if isinstance(each, SetNodeState) and each.state is NodeState.DEAD
        }


@pytest.fixture
def rig() -> Rig:
    made = Rig()
    made.run(3.0)
    return made


def test_who_is_silent_for_the_deadline_is_declared_dead(rig: Rig) -> None:
    rig.silent = {VOTERS[2]}
    rig.run(DEAD_AFTER_S - 2.0)
    assert rig.declared == set()
    rig.run(4.0)
    assert rig.declared == {VOTERS[2]}


def test_nobody_was_silent_while_the_planner_stood_still(rig: Rig) -> None:
    """It was frozen, or its machine was suspended, and it still leads. The others answer, one of
    them a little later."""
    rig.clock.advance(8 * 3600.0)
    rig.silent = {VOTERS[2]}
    rig.run(3.0)
    rig.silent = set()
    rig.run(60.0)
    assert rig.declared == set()


def test_it_goes_on_to_notice_silence_when_it_has_stood_still(rig: Rig) -> None:
    rig.silent = {VOTERS[2]}
    rig.clock.advance(3600.0)
    rig.run(DEAD_AFTER_S - 1.0)
    assert rig.declared == set()
    rig.run(4.0)
    assert rig.declared == {VOTERS[2]}
