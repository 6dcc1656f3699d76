"""Nodes that serve their shards as kv does: production Keyspace and StrongShard on simulated ones.

With `leases` among the faults. What kv/node.py puts together stands here on virtual time: leaders'
duties, the router, forwarded writes and reads, the driver of the ends of leases, watch hubs and
merged watches. Only the meta service is made up: it has the map as the node knows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, Final, cast

from chaos.checkers.violation import Violation
from chaos.sim.governed import GovernedCluster, GovernedNode
from chaos.sim.shard_node import SimShard
from chaos.sim.virtual_loop import VirtualLoop
from chaos.sim.world import NodeScheduler
from kv.api.watching import encode_event
from kv.cluster.tasks import Tasks
from kv.meta.cluster_map import ClusterMap
from kv.meta.keeper import counts
from kv.strong.frames import Question
from kv.strong.keyspace import Keyspace
from kv.strong.machine import ServedMachine
from kv.strong.questions import evaluate
from kv.strong.shard import ShardSettings, StrongShard
from kv.watch.keyspace_watches import KeyspaceWatches
from raftgroups.group import Group
from raftgroups.host import GroupHost
from raftgroups.machine_parts import ShardPlace
from raftgroups.meta.machine import META_GROUP
from raftgroups.meta.records import DEFAULT_KEYSPACE_ID
from raftgroups.meta.view import MetaView
from raftgroups.outcomes import DoneEach, ProposeResult, Refused
from raftgroups.putrun import plain_puts
from raftgroups.results import Result
from raftgroups.transport import Link, NodeId
from storage.latest import Latest
from storage.mvcc_events import read_events
from storage.mvcc_policy import CompactionPolicy
from storage.mvcc_records import KeyValue

LOOK_S: Final = 0.1
ASK_MAP: Final = "sim-ask-map"
REFRESH_S: Final = 0.02
SETTINGS: Final = ShardSettings(
    compaction=CompactionPolicy(max_age_s=None, max_revisions=None), parked_max=64
)


class ServedShard(SimShard, ServedMachine):
    """Its observer is the hubs', as in production; so what it applies is read from its log."""

    on_change: Callable[[KeyValue], None] | None = None

    def apply_each(self, index: int, payloads: Sequence[bytes]) -> list[Result]:
        if len(payloads) > 1 and len(plain_puts(payloads)[0]) < len(payloads):
            # One of them may change what can be read of those before it.
            return [self.apply(index, payload) for payload in payloads]
        before, segment = self.shard.state.revision, self.shard.view.segments.own.segment
        results = super().apply_each(index, payloads)
        own = self.shard.view.segments.own
        changed = self.shard.state.revision > before and own.segment == segment
        if changed and self.on_change is not None:
            page = read_events(
                self.shard.view, before + 1, own.start, own.end, max_events=1_000 * len(payloads)
            )
            for event in page.events:
                self.on_change(event.kv)
        return results


class SimMeta:
    """As much of kv/meta/service.py as a keyspace needs."""

    def __init__(self, node: ServedNode, link: Link) -> None:
        self.node_id = node.node_id
        self.link = link
        self.map = ClusterMap()
        self._node = node

    async def refresh(self) -> None:
        for peer in self._node.peers:
            self._node.mail.tell(peer, ASK_MAP, b"")
        await asyncio.sleep(REFRESH_S)


class ServedNode(GovernedNode):
    cluster: ServedCluster

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.strong: dict[int, StrongShard] = {}
        self.meta: SimMeta | None = None
        self.keyspace: Keyspace | None = None
        self.watches: KeyspaceWatches | None = None
        self.loop: VirtualLoop | None = None

    def _new_machine(self, place: ShardPlace) -> SimShard:
        return ServedShard(Latest(self.engine, self.clock), place)

    def _listen(self, machine: SimShard) -> None:
        cast(ServedShard, machine).on_change = lambda kv: self._changed(machine, kv)

    def _assembled(self, host: GroupHost, link: Link, scheduler: NodeScheduler) -> None:
        self.strong, self.meta = {}, None
        super()._assembled(host, link, scheduler)
        assert self._forwarder is not None
        self.mail.on(ASK_MAP, self._asked_map)
        self.loop = VirtualLoop(scheduler, self.clock, self._defect)
        self.meta = SimMeta(self, link)
        if self.view.version:
            self.meta.map.learn(self.view)
        self.keyspace = Keyspace(
            DEFAULT_KEYSPACE_ID,
            meta=cast(Any, self.meta),
            forwarder=self._forwarder,
            scheduler=self.loop.as_loop,
            clock=self.clock,
            tasks=Tasks(self.loop.as_loop, self._task_failed),
            gate=cast(Any, SimpleNamespace(admit=lambda command, size_bytes: None)),
            settings=SETTINGS,
        )
        self.watches = self.keyspace.watches(encode_event)
        scheduler.call_soon(self._look)

    def _end(self, *, flush: bool) -> None:
        if self.loop is not None:
            self.loop.end()
        super()._end(flush=flush)

    def _task_failed(self, name: str, error: BaseException) -> None:
        self._defect({"task": name, "exception": error})

    def _defect(self, context: dict[str, Any]) -> None:
        self.observer.report([Violation("task", f"{self.label}: {context}")])

    def learn(self, view: MetaView) -> bool:
        newer = super().learn(view)
        if newer and self.meta is not None:
            self.meta.map.learn(view)
        return newer

    def _asked_map(self, peer: NodeId, body: bytes) -> None:
        self._tell(peer)

    # --- what kv/meta/keeper.py and kv/node.py do ------------------------------------------------

    def _look(self) -> None:
        self._serve_and_leave()
        self.world.after(LOOK_S, self._look, owner=self.process)

    def _serve_and_leave(self) -> None:
        for group_id, group in list(self.groups()):
            due = group_id != META_GROUP and group_id not in self._forgetting
            if due and group_id not in self.strong and counts(group, self.view):
                self._serve(group_id, group)
        for group_id in list(self.strong):
            group_here = None if self.host is None else self.host.groups.get(group_id)
            if group_here is None or not counts(group_here, self.view):
                self._leave(group_id)

    def _serve(self, group_id: int, group: Group) -> None:
        assert self._forwarder is not None
        assert self.loop is not None
        assert self.keyspace is not None
        assert self.meters is not None
        assert self.host is not None
        shard = self.strong[group_id] = StrongShard(
            group,
            cast(ServedMachine, group.machine),
            self._forwarder,
            scheduler=self.loop,
            clock=self.clock,
            gate=cast(Any, SimpleNamespace(admit=lambda command, size_bytes: None)),
            settings=SETTINGS,
            meter=self.meters.meter(group_id),
        )
        self.host.wake(group_id)
        self.keyspace.served(shard)

    def _leave(self, group_id: int) -> None:
        shard = self.strong.pop(group_id, None)
        if shard is not None:
            assert self.keyspace is not None
            self.keyspace.left(shard)
            shard.leave("this shard is not served here any more")

    def _born(self, group: Group) -> None:
        super()._born(group)
        self.world.after(0.0, self._serve_and_leave, owner=self.process)

    def _ended(self, group_id: int) -> None:
        super()._ended(group_id)
        self.world.after(0.0, self._serve_and_leave, owner=self.process)

    def forget(self, group_id: int) -> None:
        self._leave(group_id)
        super().forget(group_id)

    def stamped(self, group_id: int, payload: bytes) -> bytes:
        """The leader's clock counts, and a strange one would end leases before their time."""
        return payload  # the shard does it

    def _lead_each(
        self, group_id: int, payloads: Sequence[bytes], askers: Sequence[Any], done: DoneEach
    ) -> None:
        shard = self.strong.get(group_id)
        if shard is None:
            refused = Refused("this node does not serve that group now")
            self.world.after(0.0, done, askers, refused, owner=self.process)
        else:
            shard.lead_each(payloads, askers, done)

    def _evaluate(self, question: Question, done: Callable[[ProposeResult], None]) -> None:
        assert self.loop is not None
        evaluate(self.strong.get(question.group), question, done, self.loop)


class ServedCluster(GovernedCluster):
    def _make_node(self, *args: Any) -> ServedNode:
        node = ServedNode(*args)
        node.cluster = self
        return node

    @property
    def serving(self) -> list[ServedNode]:
        return cast(list[ServedNode], self.nodes)
