"""The proof before a tombstone is forgotten, step by step, and a member's ledger."""

from __future__ import annotations

import pytest

from kv.leaderless.reap import Candidate, Phase, Quiet, QuietLedger, ReapProof, holds_exactly
from raftgroups.transport import NodeId
from storage.buckets import set_digest
from storage.objects import Record
from storage.siblings import Actor, Clock, Dot, SiblingSet, Version

A, B, C, D = (NodeId(name) for name in "abcd")
OWNERS = (A, B, C)
MEMBERS = (A, B, C, D)
ONE, TWO = Candidate(1, b"one", 11), Candidate(1, b"two", 22)


def proof(*candidates: Candidate) -> ReapProof:
    return ReapProof(7, dict.fromkeys(candidates or (ONE,), OWNERS), MEMBERS)


def confirm_all(made: ReapProof) -> None:
    for owner in OWNERS:
        made.on_confirmed(owner, 1, 7, made.question(owner))


def wave(made: ReapProof, mark: int = 0, *, boot: int = 1) -> None:
    phase = made.phase
    for member in MEMBERS:
        made.on_quiet(member, boot, 7, phase, {c: Quiet(mark) for c in made.question(member)})


def test_a_proof_that_nothing_disturbs() -> None:
    made = proof(ONE, TWO)
    assert made.asked() == set(OWNERS)
    assert made.question(A) == (ONE, TWO)
    confirm_all(made)
    assert made.phase is Phase.FIRST_WAVE
    assert made.asked() == set(MEMBERS)
    assert made.drops() == {}
    wave(made)
    assert made.phase is Phase.SECOND_WAVE
    wave(made)
    assert made.phase is Phase.DROP
    assert made.asked() == frozenset()
    assert made.drops() == {owner: [(ONE, 1), (TWO, 1)] for owner in OWNERS}


def test_a_key_that_one_owner_holds_otherwise_leaves_and_the_rest_goes_on() -> None:
    made = proof(ONE, TWO)
    made.on_confirmed(A, 1, 7, (ONE, TWO))
    made.on_confirmed(B, 1, 7, (TWO,))
    made.on_confirmed(C, 1, 7, (ONE, TWO))
    assert set(made.left) == {TWO}
    made = proof(ONE)
    made.on_confirmed(A, 1, 7, ())
    assert (made.phase, made.failure) == (Phase.FAILED, "no key passed")


@pytest.mark.parametrize("which", [Phase.FIRST_WAVE, Phase.SECOND_WAVE])
def test_a_hint_anywhere_keeps_the_tombstone(which: Phase) -> None:
    made = proof()
    confirm_all(made)
    if which is Phase.SECOND_WAVE:
        wave(made)
    assert made.phase is which
    made.on_quiet(D, 1, 7, which, {})
    assert made.phase is Phase.FAILED
    assert made.drops() == {}


def test_a_member_that_took_something_between_the_waves_stops_the_proof() -> None:
    made = proof()
    confirm_all(made)
    wave(made, mark=4)
    made.on_quiet(D, 1, 7, Phase.SECOND_WAVE, {ONE: Quiet(5)})
    assert made.phase is Phase.FAILED


def test_an_owners_mark_may_move_because_it_absorbs_what_it_takes() -> None:
    made = proof()
    confirm_all(made)
    wave(made, mark=4)
    for owner in OWNERS:
        made.on_quiet(owner, 1, 7, Phase.SECOND_WAVE, {ONE: Quiet(9)})
    made.on_quiet(D, 1, 7, Phase.SECOND_WAVE, {ONE: Quiet(4)})
    assert made.phase is Phase.DROP


def test_a_restart_stops_the_proof() -> None:
    made = proof()
    confirm_all(made)
    made.on_quiet(B, 2, 7, Phase.FIRST_WAVE, {ONE: Quiet(0)})
    assert (made.phase, made.failure) == (Phase.FAILED, "b has restarted")
    made = proof()
    confirm_all(made)
    wave(made)
    made.on_quiet(D, 2, 7, Phase.SECOND_WAVE, {ONE: Quiet(0)})
    assert made.failure == "d has restarted"


def test_a_change_of_the_ring_stops_the_proof() -> None:
    made = proof()
    made.on_confirmed(A, 1, 8, (ONE,))
    assert made.failure == "a is in ring epoch 8, the proof in 7"
    made = proof()
    made.on_ring_change(7)
    assert made.phase is Phase.CONFIRM
    made.on_ring_change(8)
    assert made.failure == "the ring went from epoch 7 to 8"


def test_a_member_that_cannot_be_reached_stops_the_proof() -> None:
    made = proof()
    made.on_unreachable(NodeId("stranger"))
    assert made.phase is Phase.CONFIRM
    made.on_unreachable(D)
    assert made.failure == "d cannot be reached"
    assert made.asked() == frozenset()
    with_dead_owner = ReapProof(7, {ONE: OWNERS}, (A, B))
    assert with_dead_owner.failure == "owners ['c'] are no live members"


def test_answers_of_another_phase_or_a_second_time_count_for_nothing() -> None:
    made = proof()
    made.on_quiet(A, 1, 7, Phase.FIRST_WAVE, {ONE: Quiet(0)})
    made.on_confirmed(A, 1, 7, (ONE,))
    made.on_confirmed(A, 1, 7, ())
    made.on_confirmed(D, 1, 7, ())
    assert made.asked() == {B, C}
    made.on_confirmed(B, 1, 7, (ONE,))
    made.on_confirmed(C, 1, 7, (ONE,))
    made.on_quiet(A, 1, 7, Phase.SECOND_WAVE, {ONE: Quiet(0)})
    assert made.asked() == set(MEMBERS)


def test_once_proved_nothing_unproves_it() -> None:
    made = proof()
    confirm_all(made)
    wave(made)
    wave(made)
    made.on_unreachable(D)
    made.on_ring_change(8)
    assert made.phase is Phase.DROP


def test_an_empty_proof_fails() -> None:
    assert ReapProof(7, {}, MEMBERS).phase is Phase.FAILED


def test_an_owner_confirms_only_what_it_holds_exactly_and_dead() -> None:
    actor = Actor("a", 1, 1)
    dead = SiblingSet((Version(Dot(*actor, 1), None, 5),), Clock({actor: 1}))
    brief = SiblingSet((Version(Dot(*actor, 1), b"v", 5, 500),), Clock({actor: 1}))
    lives = SiblingSet((Version(Dot(*actor, 1), b"v", 5),), Clock({actor: 1}))
    wider = SiblingSet(dead.versions, Clock({actor: 2}))

    def of(siblings: SiblingSet) -> Candidate:
        return Candidate(1, b"k", set_digest(b"k", siblings))

    assert holds_exactly(Record(dead, 9), of(dead), 0)
    assert not holds_exactly(None, of(dead), 0)
    assert not holds_exactly(Record(wider), of(dead), 0)
    assert not holds_exactly(Record(lives), of(lives), 0)
    assert not holds_exactly(Record(brief), of(brief), 499)
    assert holds_exactly(Record(brief), of(brief), 500)


# --- the ledger ------------------------------------------------------------------------------


def _answer(ledger: QuietLedger, *, hinted: bool = False, foreign: bool = False) -> Quiet | None:
    return ledger.answer(1, b"k", 50, hinted=hinted, foreign=foreign)


def test_a_member_is_not_quiet_while_something_waits() -> None:
    ledger = QuietLedger()
    assert _answer(ledger) == Quiet(0)
    assert _answer(ledger, hinted=True) is None
    assert _answer(ledger, foreign=True) is None
    ledger.sending(1, b"k")
    ledger.sending(1, b"k")
    ledger.sent(1, b"k")
    assert _answer(ledger) is None
    ledger.sent(1, b"k")
    assert _answer(ledger) == Quiet(0)
    ledger.sending(1, b"other")
    ledger.sending(2, b"k")
    assert _answer(ledger) == Quiet(0)


def test_a_stream_of_the_bucket_waits_too() -> None:
    ledger = QuietLedger()
    ledger.streaming(1, 1, 40, 49)
    ledger.streaming(2, 2, 0, 100)
    assert _answer(ledger) == Quiet(0)
    ledger.streaming(3, 1, 50, 50)
    assert _answer(ledger) is None
    ledger.streamed(3)
    ledger.streamed(3)
    assert _answer(ledger) == Quiet(0)


def test_taking_a_set_moves_the_mark_of_its_key_only() -> None:
    ledger = QuietLedger()
    ledger.took(1, b"other")
    assert _answer(ledger) == Quiet(0)
    ledger.took(1, b"k")
    first = _answer(ledger)
    ledger.took(1, b"k")
    assert first is not None
    assert _answer(ledger) != first


def test_a_forgotten_mark_never_seems_to_stand_still() -> None:
    ledger = QuietLedger(max_marks=3)
    before = _answer(ledger)
    ledger.took(1, b"k")
    for number in range(10):
        ledger.took(1, b"%d" % number)
    after = _answer(ledger)
    assert before is not None
    assert after is not None
    assert after.mark > before.mark
    unmoved = _answer(ledger)
    assert unmoved == after
