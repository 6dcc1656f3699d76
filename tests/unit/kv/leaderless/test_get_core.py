"""A read, answer by answer."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kv.leaderless.dvv import merge, merge_all
from kv.leaderless.get_core import Failed, Found, GetCore, Nothing, Repair, SessionNotReachedError
from kv.leaderless.quorum import Level, Quorum, ReadQuorumError
from raftgroups.transport import NodeId
from storage.errors import Outcome
from storage.siblings import EMPTY_CLOCK, Actor, Clock, Dot, SiblingSet, Version

A, B, C, D, E = (NodeId(name) for name in "abcde")
OWNERS = (A, B, C)


def written(node: str, n: int) -> SiblingSet:
    actor = Actor(node, 1, 1)
    return SiblingSet((Version(Dot(*actor, n), b"%d" % n, n),), Clock({actor: n}))


OLD, NEW, OTHER = written("a", 1), written("a", 2), written("b", 1)


def core(
    r: int = 2, pr: int = 0, *, strict: bool = False, asked: tuple[NodeId, ...] = OWNERS
) -> GetCore:
    return GetCore(Quorum(3, r, pr, strict), OWNERS, asked)


def test_r_answers_are_enough_and_are_merged() -> None:
    get = core()
    assert not get.enough()
    get.add_result(A, Found(OLD))
    assert not get.enough()
    get.add_result(B, Found(OTHER))
    assert get.enough()
    assert get.waiting() == {C}
    result = get.response()
    assert result.siblings == merge(OLD, OTHER)
    assert (result.replicas, result.stand_ins, result.level) == ((A, B), (), Level.QUORUM)


@pytest.mark.parametrize("order", list(itertools.permutations(OWNERS)))
def test_the_order_of_answers_does_not_matter(order: tuple[NodeId, ...]) -> None:
    get = core(3)
    answers = {A: Found(NEW), B: Found(OLD), C: Nothing()}
    for node in order:
        get.add_result(node, answers[node])
    assert get.response().siblings == NEW
    assert get.response().level is Level.ALL
    assert get.final_action() == Repair(NEW, (B, C), ())


def test_one_node_counts_once() -> None:
    get = core()
    get.add_result(A, Found(OLD))
    get.add_result(A, Found(NEW))
    assert not get.enough()


def test_a_late_answer_overrules_its_own_failure() -> None:
    get = core()
    get.add_result(A, Failed("timed out"))
    get.add_result(B, Nothing())
    get.add_result(A, Found(OLD))
    get.add_result(A, Failed("connection lost"))
    assert get.response().siblings == OLD


def test_nothing_anywhere_is_an_answer() -> None:
    get = core()
    get.add_result(A, Nothing())
    get.add_result(B, Nothing())
    assert get.enough()
    assert get.response().siblings == SiblingSet()
    assert get.final_action() is None


def test_too_few_answers_name_got_required_and_reasons() -> None:
    get = core(2)
    get.add_result(A, Found(OLD))
    get.add_result(B, Failed("disk full"))
    assert not get.enough()
    get.add_result(C, Failed("timed out"))
    assert get.enough()
    with pytest.raises(ReadQuorumError, match=r"1 of 2 required.*b: disk full, c: timed out") as no:
        get.response()
    assert no.value.outcome is Outcome.NONE
    assert get.final_action() == Repair(OLD, (), (B, C))


def test_a_stand_in_answers_for_an_owner() -> None:
    get = core(2, asked=(A, B))
    get.add_result(B, Failed("timed out"))
    get.ask_also(D)
    assert get.waiting() == {A, D}
    get.add_result(A, Found(OLD))
    get.add_result(D, Found(NEW))
    result = get.response()
    assert (result.siblings, result.replicas, result.stand_ins) == (NEW, (A, D), (D,))
    assert get.final_action() == Repair(NEW, (A,), (B, C))


def test_strangers_alone_never_say_that_a_key_does_not_exist() -> None:
    get = core(2, asked=(D, E))
    get.add_result(D, Nothing())
    get.add_result(E, Nothing())
    with pytest.raises(ReadQuorumError, match="0 of 2"):
        get.response()
    found = core(2, asked=(D, E))
    found.add_result(D, Nothing())
    found.add_result(E, Found(OLD))
    assert found.response().siblings == OLD
    with_owner = core(2, asked=(A, D))
    with_owner.add_result(D, Nothing())
    with_owner.add_result(A, Nothing())
    assert with_owner.response().siblings == SiblingSet()


def test_a_strict_read_counts_owners_only() -> None:
    get = core(2, strict=True, asked=(A, B, D))
    get.add_result(A, Found(OLD))
    get.add_result(D, Found(NEW))
    assert not get.enough()
    get.add_result(B, Found(OLD))
    assert get.response().replicas == (A, B)
    assert get.response().siblings == NEW


def test_pr_counts_owners_among_the_answers() -> None:
    get = core(2, 2, asked=(A, B, D))
    get.add_result(A, Found(OLD))
    get.add_result(D, Found(OLD))
    assert not get.enough()
    get.add_result(B, Failed("down"))
    with pytest.raises(ReadQuorumError, match="1 of 2 required owners"):
        get.response()


def test_a_session_reads_what_it_has_seen() -> None:
    get = GetCore(Quorum(3, 1), OWNERS, OWNERS, must_cover=NEW.clock)
    get.add_result(A, Found(OLD))
    assert not get.enough()
    get.add_result(B, Found(NEW))
    assert get.response().siblings == NEW


def test_a_session_that_nobody_can_serve_is_told_so() -> None:
    get = GetCore(Quorum(3, 1), OWNERS, OWNERS, must_cover=NEW.clock)
    get.add_result(A, Found(OLD))
    get.add_result(B, Failed("down"))
    get.add_result(C, Nothing())
    assert get.enough()
    with pytest.raises(SessionNotReachedError, match="2 replicas answered"):
        get.response()


def test_a_session_learns_that_its_key_was_reaped() -> None:
    """All that could hold it have answered: what they do not have is nowhere."""
    get = GetCore(Quorum(3, 1), OWNERS, OWNERS, must_cover=NEW.clock, others=(D,))
    for owner in OWNERS:
        get.add_result(owner, Nothing())
    get.ask_also(D)
    assert not get.enough()
    get.add_result(D, Nothing())
    assert get.response().siblings == SiblingSet()


def test_a_session_finds_what_only_a_stand_in_has() -> None:
    """A write during a partition: all owners answer, and none of them has heard of it yet."""
    get = GetCore(Quorum(3, 1), OWNERS, OWNERS, must_cover=NEW.clock, others=(D,))
    for owner in OWNERS:
        get.add_result(owner, Found(OLD))
    with pytest.raises(SessionNotReachedError, match="3 replicas answered"):
        get.response()
    get.ask_also(D)
    get.add_result(D, Found(NEW))
    assert get.response().siblings == NEW


def test_replicas_that_agree_need_no_repair() -> None:
    get = core(1)
    for owner in OWNERS:
        get.add_result(owner, Found(NEW))
    assert get.final_action() is None


def test_owners_that_were_not_asked_are_named_for_repair() -> None:
    get = core(1, asked=(A,))
    get.add_result(A, Found(NEW))
    assert get.final_action() == Repair(NEW, (), (B, C))


def test_answers_after_the_response_join_the_repair() -> None:
    get = core(1)
    get.add_result(A, Found(OLD))
    assert get.response().siblings == OLD
    get.add_result(B, Found(OTHER))
    assert get.final_action() == Repair(merge(OLD, OTHER), (A, B), (C,))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_answers_in_any_order(
    data: st.DataObject, small_set: st.SearchStrategy[SiblingSet]
) -> None:
    """R distinct nodes or an error; the answer is the merge; repair leaves all owners equal."""
    r, pr = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 3))
    nodes = data.draw(st.permutations([A, B, C, D, E]))
    get = core(max(r, pr), pr, asked=tuple(nodes))
    sets: dict[NodeId, SiblingSet] = {}
    answered: list[NodeId] = []
    for node in nodes:
        kind = data.draw(st.sampled_from(["found", "nothing", "failed"]))
        if kind == "found":
            sets[node] = data.draw(small_set)
            get.add_result(node, Found(sets[node]))
        else:
            get.add_result(node, Nothing() if kind == "nothing" else Failed("no"))
        if kind != "failed":
            answered.append(node)
    merged = merge_all(sets.values())
    assert get.enough()
    try:
        result = get.response()
    except ReadQuorumError:
        owners = [node for node in answered if node in OWNERS]
        assert (
            len(answered) < max(r, pr)
            or len(owners) < pr
            or (not owners and merged.clock == EMPTY_CLOCK)
        )
    else:
        assert result.siblings == merged
        assert set(result.replicas) == set(answered)
    repair = get.final_action()
    for owner in OWNERS:
        named = repair is not None and owner in (*repair.stale, *repair.unknown)
        assert named or not merged.clock or sets.get(owner) == merged
