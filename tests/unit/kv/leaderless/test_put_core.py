"""A write, answer by answer: copies, stand-ins, hints, and what the client is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.leaderless.put_core import AWAY, Failed, PutCore, Send, Stored, first_absent
from kv.leaderless.quorum import Level, Quorum, WriteQuorumError
from raftgroups.transport import NodeId
from storage.errors import Outcome

A, B, C, D, E = (NodeId(name) for name in "abcde")
OWNERS = (A, B, C)
NO = Failed("timed out")


def core(
    w: int = 2,
    pw: int = 0,
    *,
    strict: bool = False,
    minter: NodeId = A,
    stands_for: NodeId | None = None,
    stand_ins: tuple[NodeId, ...] = (D, E),
    unreachable: tuple[NodeId, ...] = (),
) -> PutCore:
    return PutCore(
        Quorum(3, w, pw, strict),
        OWNERS,
        stand_ins,
        minter=minter,
        minter_stands_for=stands_for,
        unreachable=unreachable,
    )


def test_the_minter_is_the_first_of_w() -> None:
    put = core(2)
    assert put.start() == [Send(B), Send(C)]
    assert not put.enough()
    assert put.add_result(Send(C), Stored()) == []
    assert put.enough()
    assert not put.done()
    result = put.response()
    assert (result.replicas, result.stand_ins, result.level) == ((A, C), (), Level.QUORUM)
    put.add_result(Send(B), Stored())
    assert put.done()
    assert put.response().level is Level.ALL
    assert put.final_action() == []


def test_owners_that_get_it_later_are_named_with_the_reason() -> None:
    put = core(3, unreachable=(C,))
    assert put.start() == [Send(B), Send(D, C)]
    assert put.add_result(Send(B), Failed("its disk is full")) == [Send(E, B)]
    put.add_result(Send(D, C), Stored())
    put.add_result(Send(E, B), Stored())
    assert put.response().missed == ((B, "its disk is full"), (C, AWAY))
    put.add_result(Send(B), Stored())
    assert put.response().missed == ((C, AWAY),)


def test_w_of_one_is_reached_before_anything_is_sent() -> None:
    put = core(1)
    put.start()
    assert put.enough()
    assert put.response().replicas == (A,)


def test_an_owner_that_fails_gets_a_stand_in_and_that_one_the_next() -> None:
    put = core(3)
    put.start()
    assert put.add_result(Send(B), NO) == [Send(D, B)]
    assert put.add_result(Send(D, B), Failed("no room for hints")) == [Send(E, B)]
    put.add_result(Send(C), Stored())
    assert not put.enough()
    put.add_result(Send(E, B), Stored())
    result = put.response()
    assert (result.replicas, result.stand_ins, result.level) == ((A, C, E), (E,), Level.ALL)
    assert put.final_action() == []


def test_owners_thought_dead_get_their_stand_ins_at_once() -> None:
    put = core(3, unreachable=(B, C))
    assert put.start() == [Send(D, B), Send(E, C)]
    put.add_result(Send(D, B), Stored())
    put.add_result(Send(E, C), Stored())
    assert put.response().stand_ins == (D, E)


def test_a_hint_beside_the_minters_own_copy_does_not_count() -> None:
    """Three nodes, two down, W=2: one disk has it, whatever else that disk holds."""
    put = core(2, stand_ins=(), unreachable=(B, C))
    assert put.start() == [Send(A, B), Send(A, C)]
    put.add_result(Send(A, B), Stored())
    put.add_result(Send(A, C), Stored())
    assert put.enough()
    with pytest.raises(WriteQuorumError, match="1 of 2 required replicas have this write") as no:
        put.response()
    assert (no.value.got, no.value.required) == (1, 2)
    assert no.value.outcome is Outcome.UNKNOWN
    assert put.final_action() == []
    assert put.lost_hints() == frozenset()


def test_the_last_node_left_takes_writes_with_w_one() -> None:
    put = core(1, minter=D, stands_for=A, stand_ins=(D,), unreachable=OWNERS)
    assert put.start() == [Send(D, B), Send(D, C)]
    assert put.enough()
    assert put.response().stand_ins == (D,)


def test_a_minter_that_is_no_owner_stands_in_for_the_first_absent_one() -> None:
    assert first_absent(OWNERS, {C, B}) == B
    assert first_absent(OWNERS, {D}) is None
    put = core(2, minter=D, stands_for=B, stand_ins=(D, E), unreachable=(B,))
    assert put.start() == [Send(A), Send(C)]
    put.add_result(Send(A), Stored())
    assert put.response().replicas == (D, A)
    assert put.add_result(Send(C), NO) == [Send(E, C)]


def test_a_strict_write_counts_owners_only_and_keeps_hints_all_the_same() -> None:
    put = core(2, strict=True)
    put.start()
    assert put.add_result(Send(B), NO) == [Send(D, B)]
    put.add_result(Send(D, B), Stored())
    assert not put.enough()
    assert put.add_result(Send(C), NO) == [Send(E, C)]
    put.add_result(Send(E, C), Stored())
    assert put.enough()
    with pytest.raises(WriteQuorumError, match=r"1 of 2 required.*b: timed out; c: timed out"):
        put.response()


def test_pw_counts_owners() -> None:
    put = core(2, 2)
    put.start()
    put.add_result(Send(B), NO)
    put.add_result(Send(D, B), Stored())
    assert not put.enough()
    put.add_result(Send(C), Stored())
    assert put.response().replicas == (A, D, C)


def test_at_the_deadline_late_owners_get_hints_at_the_minter() -> None:
    put = core(3)
    put.start()
    put.add_result(Send(B), Stored())
    assert put.final_action() == [Send(A, C)]
    assert not put.done()
    put.add_result(Send(A, C), Stored())
    assert put.done()
    with pytest.raises(WriteQuorumError, match="2 of 3"):
        put.response()
    assert put.add_result(Send(C), NO) == []
    assert put.final_action() == []


def test_a_stand_in_that_is_late_is_backed_by_the_minter() -> None:
    put = core(2)
    put.start()
    put.add_result(Send(C), Stored())
    assert put.add_result(Send(B), NO) == [Send(D, B)]
    assert put.final_action() == [Send(A, B)]


def test_hints_that_fit_nowhere_are_named_for_repair() -> None:
    put = core(1, stand_ins=())
    put.start()
    put.add_result(Send(C), Stored())
    assert put.add_result(Send(B), NO) == [Send(A, B)]
    assert put.add_result(Send(A, B), Failed("no room for hints")) == []
    assert put.lost_hints() == {B}
    assert put.final_action() == []
    put.add_result(Send(B), Stored())
    assert put.lost_hints() == frozenset()


def test_a_late_copy_still_counts_while_the_client_waits() -> None:
    put = core(3)
    put.start()
    put.add_result(Send(B), NO)
    put.add_result(Send(C), Stored())
    put.add_result(Send(B), Stored())
    assert put.response().replicas == (A, C, B)


@given(
    data=st.data(),
    w=st.integers(1, 3),
    strict=st.booleans(),
    unreachable=st.sets(st.sampled_from([B, C])),
    stand_ins=st.sampled_from([(), (D,), (D, E)]),
)
def test_any_answers_in_any_order(
    data: st.DataObject,
    w: int,
    strict: bool,
    unreachable: set[NodeId],
    stand_ins: tuple[NodeId, ...],
) -> None:
    """Every owner ends with the set, a hint somewhere, or a named lost hint; W counts distinct
    nodes that said so."""
    put = core(w, strict=strict, stand_ins=stand_ins, unreachable=tuple(sorted(unreachable)))
    under_way, stored, hinted = put.start(), {A}, set()
    sent = list(under_way)
    while under_way:
        send = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
        good = data.draw(st.booleans())
        if good:
            stored.add(send.node)
            if send.hint_for is not None:
                hinted.add(send.hint_for)
        further = put.add_result(send, Stored() if good else NO)
        under_way += further
        sent += further
        if not under_way:
            under_way = put.final_action()
            sent += under_way
    assert put.done()
    assert len(sent) == len(set(sent))
    for owner in OWNERS:
        assert owner in stored or owner in hinted or owner in put.lost_hints()
    counted = stored & set(OWNERS) if strict else stored
    if len(counted) >= w:
        assert set(put.response().replicas) == counted
    else:
        with pytest.raises(WriteQuorumError) as no:
            put.response()
        assert no.value.got == len(counted)
