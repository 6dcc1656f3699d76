"""Three real processes: killed, frozen, and all killed at once. Few rounds; chaos/failover.py runs
many and prints the figures. The canaries show that the harness would see what it looks for."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos import failover
from chaos.raftcluster import Cluster, StuckError, wait_for
from raftgroups.levels import FEATURE_LEVEL

pytestmark = pytest.mark.integration

LEADER_LIMIT_S = 2.0


def said(_: str) -> None:
    """Progress nobody reads."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as running:
        yield running


def test_another_leader_answers_soon_after_kill_9(cluster: Cluster, rounds: int) -> None:
    report = failover.kill_leader(cluster, 2 * rounds, said)
    assert report.violations == []
    assert sorted(report.seconds)[len(report.seconds) // 2] < LEADER_LIMIT_S
    assert report.rounds == 2 * rounds


def test_a_frozen_leader_is_replaced_and_never_shows_the_past(
    cluster: Cluster, rounds: int
) -> None:
    report = failover.stop_leader(cluster, 2 * rounds, said)
    assert report.violations == []
    assert report.counts["stale"] == 0
    assert report.counts["reads_served"] > 0, "it was asked, and did answer"
    assert sorted(report.seconds)[len(report.seconds) // 2] < LEADER_LIMIT_S


def test_killing_all_nodes_under_load_loses_nothing(cluster: Cluster, rounds: int) -> None:
    report = failover.crash_all(cluster, rounds, said, load_s=0.7)
    assert report.violations == []
    assert (report.counts["lost"], report.counts["lies"], report.counts["repeated"]) == (0, 0, 0)
    assert report.counts["acknowledged"] > 100


def test_a_rolling_upgrade_raises_the_level_and_there_is_no_way_back(cluster: Cluster) -> None:
    def levels() -> set[int]:
        return {cluster.group_status(name)["feature_level"] for name in cluster.nodes}

    old, new = FEATURE_LEVEL, FEATURE_LEVEL + 1
    wait_for(lambda: levels() == {old}, "the group reaches the level of its programs")
    for name in cluster.nodes:
        assert levels() == {old}, "not everybody is upgraded"
        cluster.kill(name)
        cluster.nodes[name].feature_level = new
        cluster.start(name)
        cluster.leader()
    wait_for(lambda: levels() == {new}, "the group reaches the new level")
    older = cluster.nodes[next(iter(cluster.nodes))]
    cluster.kill(older.name)
    older.feature_level = old
    with pytest.raises(StuckError, match="did not start"):
        cluster.start(older.name)
    log = older.log_path.read_text("utf-8")
    assert f"group 1 is at feature level {new} and this program supports {old}" in log


def test_the_harness_sees_stale_reads(tmp_path: Path) -> None:
    with Cluster(tmp_path, canary="local-reads") as running:
        report = failover.stop_leader(running, 1, said)
    assert report.counts["stale"] > 0
    assert any("STALE" in violation for violation in report.violations)
    assert any("linearizability" in violation for violation in report.violations)


def test_the_harness_sees_lost_writes(tmp_path: Path) -> None:
    with Cluster(tmp_path, canary="early-acks") as running:
        report = failover.crash_all(running, 1, said, load_s=0.5)
    assert report.counts["lost"] > 0
    assert any("LOST" in violation for violation in report.violations)


def test_the_command_prints_figures_and_leaves_no_process_behind(tmp_path: Path) -> None:
    words = ["--only", "stop", "--rounds", "1", "--engine", "memory", "--json"]
    result = subprocess.run(
        [sys.executable, "-m", "chaos.failover", *words, "--data", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    (report,) = json.loads(result.stdout)
    assert report["scenario"] == "SIGSTOP of the leader"
    assert 0 < report["median_s"] < 20
    assert report["stale"] == 0
    assert report["violations"] == []
    assert "SIGSTOP of the leader: 1/1" in result.stderr, "progress goes to standard error"


def test_nodes_end_in_good_order_when_told_or_when_their_harness_is_gone(tmp_path: Path) -> None:
    with Cluster(tmp_path, loop="asyncio") as running:
        told = running.nodes[running.leader()]
        told.signal(signal.SIGTERM)
        for node in running.others(told.name):
            assert node.process.stdin is not None
            node.process.stdin.close()
        codes = [node.process.wait(timeout=20) for node in running.nodes.values()]
        assert codes == [0, 0, 0]
        assert not any("Traceback" in node.log_path.read_text() for node in running.nodes.values())
