"""Operations that are proposed together: one run, and yet each ends as it would by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from raftgroups.outcomes import AppliedEach, EachResult, Refused, Unknown

Make = Callable[..., Any]


class Told:
    def __init__(self) -> None:
        self.calls: list[tuple[list[str], EachResult]] = []

    def each(self, askers: Sequence[str], result: EachResult) -> None:
        self.calls.append((list(askers), result))


def propose(node: Any, *payloads: bytes) -> Told:
    """Each is asked for by its own text."""
    told = Told()
    node.group.propose_each(payloads, [payload.decode() for payload in payloads], told.each)
    assert not told.calls, "never from inside the call"
    return told


@pytest.fixture
def cluster(make_cluster: Make) -> Any:
    return steady(make_cluster)


def steady(make_cluster: Make, **settings: Any) -> Any:
    cluster = make_cluster(3, **settings)
    cluster.create()
    cluster.lead()
    cluster.converge()
    return cluster


def test_a_run_is_one_entry_and_told_in_one_call(cluster: Any) -> None:
    leader = cluster.lead()
    last = leader.group.status().last_index
    told = propose(leader, b"a", b"b", b"c")
    cluster.until(lambda: bool(told.calls))
    ((askers, result),) = told.calls
    assert isinstance(result, AppliedEach)
    assert (askers, len(result.results)) == (["a", "b", "c"], 3)
    assert leader.group.status().last_index == last + 1


def test_runs_of_one_asker_that_share_an_entry_are_told_together(cluster: Any) -> None:
    leader, told = cluster.lead(), Told()
    for names in (["a"], ["b", "c"], ["d"]):
        leader.group.propose_each([name.encode() for name in names], names, told.each)
    other = propose(leader, b"e")
    cluster.until(lambda: bool(other.calls))
    assert [askers for askers, _ in told.calls] == [["a", "b", "c", "d"]]


def test_all_of_a_run_is_refused_where_nothing_can_be_proposed(cluster: Any) -> None:
    told = propose(cluster.followers()[0], b"a", b"b")
    cluster.run(0.01)
    ((askers, result),) = told.calls
    assert askers == ["a", "b"]
    assert isinstance(result, Refused)
    assert result.leader == cluster.lead().id


def test_what_no_entry_has_room_for_is_refused_alone(make_cluster: Make) -> None:
    cluster = steady(make_cluster, entry_max_bytes=50)
    leader = cluster.lead()
    told = propose(leader, b"a" * 30, b"b" * 51, b"c" * 30)
    cluster.until(lambda: len(told.calls) == 3)
    ends = {askers[0][0]: type(result) for askers, result in told.calls}
    assert ends == {"a": AppliedEach, "b": Refused, "c": AppliedEach}
    only = propose(leader, b"d" * 51)
    cluster.until(lambda: bool(only.calls))
    assert isinstance(only.calls[0][1], Refused)


def test_those_beyond_the_bounds_are_refused_as_busy(make_cluster: Make) -> None:
    cluster = steady(make_cluster, queue_max_operations=3)
    leader = cluster.lead()
    told = propose(leader, *(b"%d" % number for number in range(5)))
    cluster.until(lambda: len(told.calls) == 2)
    (full, refused), (done, applied) = told.calls
    assert isinstance(refused, Refused)
    assert refused.busy
    assert isinstance(applied, AppliedEach)
    assert (full, done) == (["3", "4"], ["0", "1", "2"])


def test_a_run_that_is_lost_is_unknown_as_a_whole(cluster: Any) -> None:
    leader = cluster.lead()
    cluster.network.isolate(leader.id, cluster.ids)
    told = propose(leader, b"a", b"b")
    cluster.run(0.01)
    leader.host.stop()
    cluster.run(0.01)
    ((askers, result),) = told.calls
    assert askers == ["a", "b"]
    assert isinstance(result, Unknown)


def test_who_asks_and_raises_does_not_hurt_the_others(cluster: Any) -> None:
    leader = cluster.lead()

    def broken(askers: Sequence[str], result: EachResult) -> None:
        raise ValueError("a defect of the caller")

    leader.group.propose_each([b"a", b"b"], ["a", "b"], broken)
    told = propose(leader, b"c")
    cluster.until(lambda: bool(told.calls))
    assert isinstance(told.calls[0][1], AppliedEach)
    assert leader.fatal is None


def test_an_entry_is_stamped_once_in_the_moment_of_its_append(cluster: Any) -> None:
    leader, stamped = cluster.lead(), list[list[bytes]]()

    def stamp(payloads: list[bytes]) -> list[bytes]:
        stamped.append(payloads)
        return [payload.upper() for payload in payloads]

    leader.group.stamped = stamp
    propose(leader, b"a", b"b")
    told = propose(leader, b"c")
    assert stamped == []
    cluster.until(lambda: bool(told.calls))
    assert stamped == [[b"a", b"b", b"c"]]
    cluster.converge()
    assert all(node.machine.rows()[-3:] == [b"A", b"B", b"C"] for node in cluster.alive())
