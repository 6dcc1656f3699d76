"""A node's metrics with every source filled in, and its page as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kv.cluster.link_config import ChannelStatus, LinkStatus, PeerStatus
from kv.metrics import Metrics, NodeInfo
from kv.metrics.from_leaderless import (
    GossipFigures,
    HintFigures,
    LeaderlessFigures,
    RepairFigures,
)
from kv.metrics.from_process import ProcessFigures
from kv.metrics.from_store import ShardFigures
from kv.watch.roster import HubStatistics
from raftgroups import status
from raftgroups.transport import NodeId
from storage.engine import EngineStatistics
from storage.space import SpaceGuard

Lines = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def host_status() -> status.HostStatus:
    return status.HostStatus(
        groups=2, leading=1, hibernating=0, turns=70, commits=50, stalls=1, messages_in=30,
        messages_out=31, entries_appended=40, entries_applied=39, dropped={"no-such-group": 3},
    )  # fmt: skip


def group_status(group_id: int = 1) -> status.GroupStatus:
    peer = status.PeerStatus(
        match_index=90, lag=10, feature_level=1, silent_s=0.25, connected=True, snapshot=False
    )
    return status.GroupStatus(
        group_id=group_id, role=status.Role.LEADER, term=7, voted_for=None, leader=NodeId("a"),
        commit_index=99, applied_index=97, durable_applied_index=95, last_index=100, first_index=5,
        voters=(NodeId("a"), NodeId("b")), learners=(), peers={NodeId("b"): peer}, elections=2,
        snapshots_sent=1, snapshots_received=0, installing=False, pending=4, hibernating=False,
        feature_level=1, incarnations={}, config_index=1,
        leader_changes=6,
    )  # fmt: skip


def link_status() -> LinkStatus:
    raft = ChannelStatus(10, 11, {"full": 2}, 3, 300)
    peer = PeerStatus(
        node_id=NodeId("b"), address=None, connected=True, dialed=True, boot_id="", connections=2,
        failed_dials=5, sent_bytes=1_000, received_bytes=2_000, rtt_s=0.001, connected_for_s=1.0,
        last_problem="", channels={"raft": raft},
    )  # fmt: skip
    return LinkStatus(None, 1, 0, {"too_slow": 1}, {NodeId("b"): peer})


def engine_statistics() -> EngineStatistics:
    return EngineStatistics(
        engine="lmdb", keys=12, keys_exact=True, disk_bytes=8192, live_bytes=4000,
        reusable_bytes=1192, disk_free_bytes=10**12, batches=9, put_bytes=5000, open_snapshots=1,
        oldest_snapshot_age_s=0.5,
        details={"map_size_bytes": 2**40, "leaf_pages": 3, "version": "0.9", "depth": 2},
    )  # fmt: skip


def hub_statistics() -> HubStatistics:
    return HubStatistics(
        future=1, synced=20, catching_up=2, victims=3, ended=0, ranges=4, held_bytes=500,
        delivered_events=1_000, outboxes_filled=7, pages_read=8, cancelled_compacted=1,
        cancelled_limit=0,
    )  # fmt: skip


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics(NodeInfo("0.1.0", "3.11", "a", "one", "c", "strong"))
    space = SpaceGuard(1_000)
    space.observe(engine_statistics())
    sources = metrics.sources
    sources.host = host_status
    sources.groups = lambda: [group_status(0), group_status(1)]
    sources.link = link_status
    sources.shards = lambda: [ShardFigures(5, 1, "default", 33, 12, 9, 2, 6)]
    sources.hubs = lambda: {5: hub_statistics()}
    sources.engines = lambda: {"strong": engine_statistics()}
    sources.space = lambda: {"strong": space}
    sources.committers = lambda: {"strong": SimpleNamespace(turns=80, commits=60, stalls=2)}
    sources.leaderless = lambda: LeaderlessFigures(
        under_way=3,
        waiting=2,
        pending=1,
        counts={"puts": 7, "repairs_under_way": 4},
        alarms={"damaged_record": 1},
        hints={"n2": HintFigures(5, 500, 6)},
        connected={"n2": True},
        phi={"n2": 0.5},
        gossip=GossipFigures(10, 2_000, 1.5),
        repair=RepairFigures(2, 6, 4, 7, 8, 900, 1),
        tombstones=11,
        oldest_tombstone_s=12.5,
        reaped=13,
        sibling_refusals=14,
        lacking=0.25,
        foreign=15,
        tails=1,
    )
    sources.process = lambda: ProcessFigures(cpu_s=1.5, resident_bytes=9, open_fds=3)
    sources.etcd_shard = lambda: 5
    metrics.endpoint("/v1/kv/{key}", "GET", "linearizable").began()
    metrics.endpoint("/v1/kv/{key}", "GET", "linearizable").ended(200, 0.003)
    metrics.refusals.labels("proposals").add()
    metrics.commit_observer("strong")(0.001, 0.002, 700)
    metrics.loop_lag.observe(0.0)
    return metrics


@pytest.fixture
def read() -> Callable[[Metrics], Lines]:
    """The page, parsed by prometheus_client: (name, labels) -> value; each line once."""

    def lines(metrics: Metrics) -> Lines:
        found: Lines = {}
        for family in text_string_to_metric_families(metrics.render().decode()):
            assert family.documentation, family.name
            for sample in family.samples:
                key = sample.name, tuple(sorted(sample.labels.items()))
                assert key not in found, f"{key} is there twice"
                found[key] = sample.value
        return found

    return lines
