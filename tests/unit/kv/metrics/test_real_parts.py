"""One node of real parts (LMDB, committer, a Raft group of one, machine, hub), and what it says."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

from kv.metrics import Metrics
from kv.metrics.from_store import ShardFigures
from kv.watch.hub import WatchHub
from kv.watch.index import with_prefix
from kv.watch.watcher import WatchRequest
from raftgroups.commands import LeaseGrant, Put, encode
from raftgroups.group import Group
from raftgroups.host import GroupHost, HostConfig
from raftgroups.machine import ShardMachine
from raftgroups.machine_parts import ShardPlace
from raftgroups.outcomes import ProposeResult
from raftgroups.transport import FrameHandler, NodeId, PeerHandler
from storage.committer import Committer
from storage.latest import Latest
from storage.lmdb_engine import LmdbEngine
from storage.space import SpaceGuard
from storage.system_clock import SystemClock
from storage.writers import InlineWriter

Read = Callable[[Metrics], dict[tuple[str, tuple[tuple[str, str], ...]], float]]


class NoPeers:
    """The link of a node that is alone."""

    def send(self, peer: NodeId, channel: str, frame: bytes, *, at_once: bool = False) -> bool:
        return False

    def push(self) -> None:
        pass

    def connected(self, peer: NodeId) -> bool:
        return False

    def subscribe(self, channel: str, handler: FrameHandler) -> None: ...

    def on_peer_change(self, handler: PeerHandler) -> None: ...

    def set_peer(self, peer: NodeId, address: tuple[str, int]) -> None: ...

    def remove_peer(self, peer: NodeId) -> None: ...


async def test_a_node_of_real_parts_tells_what_it_did(tmp_path: Path, read: Read) -> None:
    clock, loop = SystemClock(), asyncio.get_running_loop()
    engine = LmdbEngine(tmp_path / "engine", clock=clock, map_size_bytes=2**26)
    metrics = Metrics()
    fatal: list[BaseException] = []
    committer = Committer(engine, InlineWriter(clock), loop, clock, on_fatal=fatal.append)
    committer.on_commit = metrics.commit_observer("strong")
    machine = ShardMachine(Latest(engine, clock), ShardPlace(1, 5, 1, 1))
    host = GroupHost(
        node_id=NodeId("a"),
        incarnation=1,
        boot_id="boot",
        engine=engine,
        committer=committer,
        link=NoPeers(),
        clock=clock,
        rng=random.Random(1),
        scheduler=loop,
        config=HostConfig(),
        machines=lambda group_id: machine,
    )
    host.start()
    group = host.create(1, [NodeId("a")])
    hub = WatchHub(lambda event, with_previous: b"", revision=machine.revision)
    machine.observer = hub.committed
    hub.create(WatchRequest(with_prefix(b"k")), 0.0)
    guard = SpaceGuard(1)
    guard.observe(engine.statistics())

    sources = metrics.sources
    sources.host = host.status
    sources.groups = lambda: [each.status() for each in host.groups.values()]
    sources.shards = lambda: [ShardFigures.of_machine(machine, group=1, keyspace="default")]
    sources.hubs = lambda: {5: hub.statistics()}
    sources.engines = lambda: {"strong": engine.statistics()}
    sources.space = lambda: {"strong": guard}
    sources.committers = lambda: {"strong": committer}
    sources.etcd_shard = lambda: 5
    try:
        assert await first_write(group, encode(Put(b"k1", b"v")), metrics) == "Applied"
        assert await propose(group, encode(LeaseGrant(77, 60)), metrics) == "Applied"
        lines = read(metrics)
    finally:
        host.stop()
        committer.stop()
        engine.close()

    assert fatal == []
    place = (("keyspace", "default"), ("shard", "5"))
    strong = (("regime", "strong"),)
    assert lines["januskv_raft_has_leader", (("group", "1"),)] == 1
    assert lines["januskv_raft_role", (("group", "1"), ("role", "leader"))] == 1
    assert lines["januskv_raft_leader_changes_total", (("group", "1"),)] == 1
    assert lines["januskv_store_revision", place] == machine.revision == 2
    assert lines["januskv_store_keys", place] == 1
    assert lines["januskv_store_compact_revision", place] == 0
    assert lines["januskv_leases", place] == 1
    assert lines["januskv_watchers", (("shard", "5"), ("state", "synced"))] == 1
    assert lines["januskv_watch_events_delivered_total", (("shard", "5"),)] == 1
    assert lines["januskv_commits_total", strong] == committer.commits >= 2
    assert lines["januskv_sync_duration_seconds_count", strong] == committer.commits
    assert lines["januskv_commit_duration_seconds_count", strong] == committer.commits
    assert lines["januskv_sync_duration_seconds_sum", strong] > 0
    assert (
        lines["januskv_sync_duration_seconds_sum", strong]
        <= lines["januskv_commit_duration_seconds_sum", strong]
    )
    assert lines["januskv_lmdb_map_size_bytes", strong] == 2**26
    assert lines["januskv_lmdb_depth", strong] >= 1
    assert lines["januskv_lmdb_page_bytes", strong] >= 4096
    assert lines["januskv_lmdb_stale_readers_cleared_total", strong] == 0
    assert lines["januskv_lmdb_pages", (("kind", "leaf"), *strong)] >= 1
    assert lines["januskv_engine_disk_bytes", (("engine", "lmdb"), *strong)] > 0
    assert lines["januskv_proposals_total", (("outcome", "applied"),)] == 2
    assert lines["etcd_debugging_mvcc_current_revision", ()] == 2
    assert lines["etcd_disk_wal_fsync_duration_seconds_count", ()] == committer.commits
    failures = [v for (name, _), v in lines.items() if name == "januskv_scrape_failures_total"]
    assert set(failures) == {0.0}


async def first_write(group: Group, payload: bytes, metrics: Metrics) -> str:
    """Refused until the only member has elected itself and written its first entry."""
    for _ in range(1_000):
        answer = await propose(group, payload, metrics)
        if answer != "Refused":
            return answer
        await asyncio.sleep(0.01)
    raise AssertionError("the only member took no write within 10 s")


async def propose(group: Group, payload: bytes, metrics: Metrics) -> str:
    answer: asyncio.Future[ProposeResult] = asyncio.get_running_loop().create_future()
    group.propose(payload, answer.set_result)
    result = await asyncio.wait_for(answer, 10.0)
    metrics.proposals.ended(result)
    return type(result).__name__
