"""Three nodes elect a leader, replicate, survive restarts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raftgroups.outcomes import Applied, ReadReady, Refused

Make = Callable[..., Any]


def test_three_nodes_elect_one_leader_in_under_two_seconds(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.create()
    started = cluster.world.now
    cluster.lead()
    assert cluster.world.now - started < 2.0
    assert len(cluster.leaders()) == 1


def test_a_proposal_is_applied_everywhere(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.create()
    result = cluster.put(b"x")
    assert result.result == b"ok:x"
    cluster.converge()
    assert all(node.machine.rows() == [b"x"] for node in cluster.alive())


def test_operations_of_one_pass_share_an_entry(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.create()
    leader = cluster.lead()
    results: list[object] = []
    for number in range(100):
        leader.group.propose(b"%d" % number, results.append)
    cluster.until(lambda: len(results) == 100)
    assert {r.index for r in results if isinstance(r, Applied)} == {results[0].index}
    assert [r.result for r in results] == [b"ok:%d" % n for n in range(100)]


def test_a_follower_refuses_with_a_hint(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.create()
    follower = cluster.followers()[0]
    results = cluster.propose(follower, b"x")
    assert results == []
    cluster.until(lambda: bool(results))
    assert isinstance(results[0], Refused)
    assert results[0].leader == cluster.lead().id


def test_reads_on_leader_and_follower_see_what_was_acknowledged(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.create()
    for number in range(5):
        written = cluster.put(b"%d" % number)
        for node in cluster.alive():
            results = cluster.read(node)
            cluster.until(lambda results=results: bool(results), 1.0)
            assert isinstance(results[0], ReadReady)
            assert results[0].index >= written.index
            assert node.machine.rows()[-1] == b"%d" % number


def test_one_node_alone(make_cluster: Make) -> None:
    cluster = make_cluster(1)
    cluster.create()
    assert cluster.put(b"x").result == b"ok:x"
    results = cluster.read(cluster["a"])
    cluster.until(lambda: bool(results), 1.0)
    assert isinstance(results[0], ReadReady)


def test_everything_survives_a_restart_of_all_nodes_at_once(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.create()
    for number in range(20):
        cluster.put(b"%d" % number)
    engines = {node: cluster.crash(node) for node in cluster.ids}
    for node, engine in engines.items():
        cluster.start(node, engine)
    cluster.put(b"after")
    cluster.converge()
    expected = [b"%d" % n for n in range(20)] + [b"after"]
    assert all(node.machine.rows() == expected for node in cluster.alive())


def test_the_death_of_the_leader_costs_less_than_two_seconds(make_cluster: Make) -> None:
    for seed in range(10):
        cluster = make_cluster(3, seed=seed)
        cluster.create()
        cluster.put(b"x")
        cluster.crash(cluster.lead().id)
        died = cluster.world.now
        cluster.lead()
        assert cluster.world.now - died < 1.0
        cluster.put(b"y")


def test_what_does_not_fit_into_one_entry_follows_at_once(make_cluster: Make) -> None:
    cluster = make_cluster(3, entry_max_bytes=1000)
    cluster.create()
    leader = cluster.lead()
    cluster.run(0.01)
    started = cluster.world.now
    results: list[object] = []
    for _ in range(10):
        leader.group.propose(b"x" * 600, results.append)
    cluster.until(lambda: len(results) == 10)
    assert len({result.index for result in results if isinstance(result, Applied)}) == 10
    assert cluster.world.now - started < 0.02
