"""What begins by itself, with the divider's shell and the reports of nodes that come, or do not.

A merge brings replicas of two shards together, so none is begun while a node that has one of them
is away; a split needs nobody, and is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, cast

import pytest

from kv.division.attendant import ASK
from kv.division.divider import Divider, DividerSettings, begin
from kv.division.figures import Shown
from kv.division.limits import Due, Pace
from kv.division.messages import (
    REPORT_VERSION,
    Ask,
    Load,
    ReplicaReport,
    Report,
    Size,
    Standing,
    decode_ask,
    encode,
)
from kv.division.words import GATHER, JOIN, MERGE, PROPOSE, SPLIT
from raftgroups.meta.commands import BeginOperation, EndOperation, MetaCommand
from raftgroups.meta.records import KeyspaceOptions, KeyspaceRecord, NodeRecord, ShardRecord
from raftgroups.meta.rules import execute
from raftgroups.meta.view import Counters, MetaView
from raftgroups.transport import NodeId
from storage.clock import ManualClock
from tests.unit.kv.strong.conftest import Loop

PACE = Pace(at_once=1, apart_s=5.0, split_after_s=30.0, merge_after_s=20.0, again_after_s=60.0)
IDLE_S = 5.0
SILENCE_S = 13.0
"""Two idle looks and an answer's time: who was not heard for so long is away."""
LONG_S = 600.0
EDGES = (b"", b"h", b"p", b"t", None)
NODES = "abcdef"


class Cluster:
    """Shards 1 and 2 on a, b, c; 3 and 4 on a, d, e; f has none. Node a plans, and leads them all.
    Proposals to groups are taken and never answered."""

    def __init__(self, *, automatic: bool = True, leads: bool = True) -> None:
        self.clock = ManualClock()
        self.loop = Loop(self.clock)
        self.leads = leads
        self.away: set[str] = set()
        self.sizes = {1: 10, 2: 10, 3: 500, 4: 500}
        self.voters = {1: "abc", 2: "abc", 3: "ade", 4: "ade"}
        self.began: list[tuple[str, str, tuple[int, ...]]] = []
        self.view = MetaView(
            1,
            {node: NodeRecord(node, 1, node, ("sim", 1)) for node in NODES},
            {1: KeyspaceRecord(1, "default", options=KeyspaceOptions(
                split_bytes=1000, merge_bytes=400))},
            {n: ShardRecord(n, 1, EDGES[n - 1] or b"", EDGES[n], n, replicas=tuple(self.voters[n]))
             for n in self.voters},
            next=Counters(shard=9, segment=9, operation=9),
        )  # fmt: skip
        self._handler: Callable[[NodeId, bytes], bytes | None] | None = None
        self.divider = Divider(
            node_id=NodeId("a"),
            meta=self,
            notes=self,
            attendant=cast(Any, self),
            propose=lambda *_: None,
            leader_of=lambda _: None,
            scheduler=self.loop,
            clock=self.clock,
            settings=DividerSettings(automatic=automatic, pace=PACE, idle_s=IDLE_S),
        )
        self.divider.start()

    # --- kv.division.divider.Meta and Attendant, kv.cluster.mail.Notes ----------------------

    def propose(self, command: MetaCommand, done: Callable[[bool], None]) -> None:
        self.view, _ = execute(self.view, command, 0)
        if isinstance(command, BeginOperation):
            wanted = command.operation
            self.began.append((wanted.kind, wanted.step, wanted.shards))
        self.loop.call_soon(done, True)

    def on(self, kind: str, handler: Callable[[NodeId, bytes], bytes | None]) -> None:
        self._handler = handler

    def tell(self, peer: NodeId, kind: str, body: bytes) -> bool:
        assert kind == ASK
        assert self._handler is not None
        if peer not in self.away:
            self.loop.call_soon(self._handler, peer, encode(self.report(decode_ask(body), peer)))
        return True

    def report(self, ask: Ask, node: str = "a") -> Report:
        replicas = [self._replica(shard, node) for shard in self.voters if self._has(node, shard)]
        return Report(REPORT_VERSION, ask.number, 1, tuple(replicas))

    def _has(self, node: str, shard: int) -> bool:
        return node in self.voters[shard]

    def _replica(self, shard: int, node: str) -> ReplicaReport:
        if node != "a":
            return ReplicaReport(shard, 1, 9, load=Load(0.0, 0.0))
        end, members = EDGES[shard], tuple((each, 1) for each in self.voters[shard])
        start = EDGES[shard - 1] or b""
        standing = Standing(1, start, end, 1, 9, 0, 0, 0, 0, (), members, (), True, 4)
        size = Size(10, self.sizes[shard], start + b"m")
        return ReplicaReport(shard, 1, 9, standing, Load(0.0, 0.0), size)


MERGE_OF_1_AND_2 = (MERGE, JOIN, (1, 2))


def test_small_neighbours_are_merged_by_who_leads_the_meta_group() -> None:
    cluster, follower = Cluster(), Cluster(leads=False)
    by_hand = Cluster(automatic=False)
    cluster.loop.advance(PACE.merge_after_s + IDLE_S)
    for each in (follower, by_hand):
        each.loop.advance(LONG_S)
    assert cluster.began == [MERGE_OF_1_AND_2]
    assert follower.began == by_hand.began == []


@pytest.mark.parametrize("node", "bc")
def test_no_merge_is_begun_while_a_node_with_a_replica_is_away(node: str) -> None:
    cluster = Cluster()
    cluster.away.add(node)
    cluster.loop.advance(LONG_S)
    assert cluster.began == []
    cluster.away.clear()
    cluster.loop.advance(IDLE_S)
    assert cluster.began == [], "what could not be begun rests"
    cluster.loop.advance(PACE.again_after_s + IDLE_S)
    assert cluster.began == [MERGE_OF_1_AND_2]


def test_one_that_has_no_replica_may_be_away() -> None:
    cluster = Cluster()
    cluster.away.update("def")
    cluster.loop.advance(PACE.merge_after_s + IDLE_S)
    assert cluster.began == [MERGE_OF_1_AND_2]


@pytest.mark.parametrize("gathers", [False, True])
def test_one_pair_that_waits_for_a_node_holds_no_other_up(gathers: bool) -> None:
    """Where members differ the merge begins with bringing them together."""
    cluster = Cluster()
    cluster.sizes.update({3: 10, 4: 10})
    if gathers:
        cluster.voters[4] = "adf"
        changed = {4: ShardRecord(4, 1, b"t", None, 4, replicas=("a", "d", "f"))}
        cluster.view = MetaView(
            2,
            cluster.view.nodes,
            cluster.view.keyspaces,
            {**cluster.view.shards, **changed},
            next=cluster.view.next,
        )
    cluster.away.add("c")
    cluster.loop.advance(PACE.merge_after_s + 3 * IDLE_S)
    assert cluster.began == [(MERGE, GATHER if gathers else JOIN, (3, 4))]


def test_a_report_that_is_lost_is_no_node_that_is_away() -> None:
    cluster = Cluster()
    cluster.loop.advance(PACE.merge_after_s - IDLE_S - 0.1)
    cluster.away.add("c")
    cluster.loop.advance(SILENCE_S - IDLE_S)
    assert cluster.began == [MERGE_OF_1_AND_2]


def test_who_plans_anew_waits_until_it_has_heard_everybody() -> None:
    cluster = Cluster()
    cluster.loop.advance(PACE.merge_after_s - IDLE_S)
    cluster.leads = False
    cluster.loop.advance(IDLE_S)
    cluster.leads = True
    cluster.away.add("c")
    cluster.loop.advance(LONG_S)
    assert cluster.began == []


def test_a_split_waits_for_nobody() -> None:
    cluster = Cluster()
    cluster.sizes.update({1: 500, 2: 2_000})
    cluster.away.update("bc")
    cluster.loop.advance(3 * IDLE_S)
    assert cluster.began == [(SPLIT, PROPOSE, (2,))]


def test_who_waited_for_a_merge_that_somebody_ended_is_told_so() -> None:
    cluster = Cluster(automatic=False)
    cluster.voters[2] = "abd"
    due = Due(MERGE, (1, 2), b"", "asked for")
    cluster.propose(begin(cluster.view, due, Shown()), lambda _: None)
    cluster.loop.advance(2 * IDLE_S)
    (number,) = cluster.view.operations
    cluster.propose(EndOperation(number, GATHER), lambda _: None)
    cluster.loop.advance(IDLE_S)
    assert not cluster.view.operations
    assert cluster.divider.refusals == {number: "somebody asked for its end"}


def test_a_report_that_cannot_be_read_is_said_once_and_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = Cluster()
    assert cluster._handler is not None
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            cluster._handler(NodeId("b"), b"\xc1nonsense")
    assert len(caplog.messages) == 1
    assert "peer b: cannot be read" in caplog.messages[0]
    cluster.loop.advance(PACE.merge_after_s + IDLE_S)
    assert cluster.began == [MERGE_OF_1_AND_2]
