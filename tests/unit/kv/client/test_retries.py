"""What comes after a failed try: the table of kv/client/retries.py, row by row."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from kv.client.failures import Refusal
from kv.client.retries import PAUSE_MAX_S, Again, Sent, Tries
from kv.errors import OutcomeUnknownError, OverloadedError, UnavailableError
from raftgroups.refusals import KeyNotFoundError, TokenTooOldError
from storage.errors import JanusError, NoSpaceError, Outcome

URL = "http://127.0.0.1:1"
READ = (False, False)
TOKEN = (True, True)
BARE = (True, False)
DICE = Random(5)


def tries(kind: tuple[bool, bool], deadline_s: float = 10.0) -> Tries:
    writes, repeatable = kind
    return Tries(
        writes=writes, repeatable=repeatable, now=100.0, deadline_s=deadline_s, try_s=deadline_s / 2
    )


def refusal(status: int, code: str, *, unknown: bool = False, after_s: float = 0.0) -> Refusal:
    return Refusal(status, code, f"it said {code}", unknown, False, after_s)


def lost(call: Tries, sent: Sent, now: float = 100.0, others: int = 0) -> Again | JanusError:
    return call.failed(URL, sent, "it broke", now, DICE, others)


def refused(call: Tries, said: Refusal, now: float = 100.0, others: int = 0) -> Again | JanusError:
    return call.refused(URL, said, now, DICE, others)


@pytest.mark.parametrize("kind", [READ, TOKEN, BARE])
def test_what_was_never_sent_is_sent_again(kind: tuple[bool, bool]) -> None:
    verdict = lost(tries(kind), Sent.NEVER)
    assert isinstance(verdict, Again)
    assert 0 < verdict.after_s <= PAUSE_MAX_S


@pytest.mark.parametrize("kind", [READ, TOKEN, BARE])
@pytest.mark.parametrize(("status", "code"), [(503, "unavailable"), (429, "overloaded")])
def test_what_was_surely_not_done_is_asked_again(
    kind: tuple[bool, bool], status: int, code: str
) -> None:
    assert isinstance(refused(tries(kind), refusal(status, code)), Again)


@pytest.mark.parametrize("kind", [READ, TOKEN])
def test_an_unknown_outcome_is_asked_again_where_that_is_safe(kind: tuple[bool, bool]) -> None:
    assert isinstance(lost(tries(kind), Sent.PERHAPS), Again)
    said = refusal(504, "outcome_unknown", unknown=True)
    assert isinstance(refused(tries(kind), said), Again)


def test_an_unknown_outcome_of_a_write_without_token_is_told() -> None:
    verdict = lost(tries(BARE), Sent.PERHAPS)
    assert isinstance(verdict, OutcomeUnknownError)
    said = refusal(504, "outcome_unknown", unknown=True)
    assert isinstance(refused(tries(BARE), said), OutcomeUnknownError)


@pytest.mark.parametrize("kind", [READ, TOKEN, BARE])
@pytest.mark.parametrize(
    ("status", "code", "error"),
    [(404, "key_not_found", KeyNotFoundError), (507, "no_space", NoSpaceError)],
)
def test_an_answer_is_an_answer(
    kind: tuple[bool, bool], status: int, code: str, error: type[JanusError]
) -> None:
    verdict = refused(tries(kind), refusal(status, code))
    assert isinstance(verdict, error)
    assert verdict.outcome is Outcome.NONE


@pytest.mark.parametrize(
    "then",
    [
        lambda call: lost(call, Sent.NEVER, 109.9999),
        lambda call: refused(call, refusal(503, "unavailable"), 109.9999),
        lambda call: refused(call, refusal(429, "overloaded", after_s=30.0), 101.0),
        lambda call: refused(call, refusal(507, "no_space"), 101.0),
        lambda call: refused(call, refusal(500, "internal"), 101.0),
        lambda call: call.out_of_time(),
    ],
    ids=["refused", "503", "429", "507", "500", "time"],
)
def test_what_may_have_happened_stays_so_until_a_definite_answer(then: object) -> None:
    call = tries(TOKEN)
    assert isinstance(lost(call, Sent.PERHAPS), Again)
    verdict = then(call)  # type: ignore[operator]
    assert isinstance(verdict, OutcomeUnknownError)
    assert verdict.outcome is Outcome.UNKNOWN


def test_a_definite_answer_to_a_later_try_is_the_answer() -> None:
    call = tries(TOKEN)
    assert isinstance(lost(call, Sent.PERHAPS), Again)
    verdict = refused(call, refusal(404, "lease_not_found"))
    assert isinstance(verdict, JanusError)
    assert verdict.code == "lease_not_found"


def test_a_read_that_was_lost_is_no_unknown_outcome() -> None:
    call = tries(READ)
    assert isinstance(lost(call, Sent.PERHAPS), Again)
    verdict = lost(call, Sent.NEVER, 109.9999)
    assert isinstance(verdict, UnavailableError)
    assert "10 s" in str(verdict)
    assert URL in str(verdict)


def test_an_endpoint_that_was_not_tried_is_tried_at_once() -> None:
    assert lost(tries(READ), Sent.NEVER, others=1) == Again(0.0)
    assert refused(tries(READ), refusal(503, "unavailable"), others=2) == Again(0.0)


def test_an_overloaded_server_is_left_alone_for_as_long_as_it_says() -> None:
    verdict = refused(tries(READ), refusal(429, "overloaded", after_s=3.0), others=2)
    assert isinstance(verdict, Again)
    assert verdict.after_s >= 3.0
    told = refused(tries(READ), refusal(429, "overloaded", after_s=11.0))
    assert isinstance(told, OverloadedError)
    assert told.retry_after_s == 11.0


def test_pauses_grow_and_are_bounded() -> None:
    call = tries(READ, deadline_s=1000.0)
    pauses = []
    for _ in range(12):
        verdict = lost(call, Sent.NEVER)
        assert isinstance(verdict, Again)
        pauses.append(verdict.after_s)
    assert pauses[0] <= 0.02
    assert PAUSE_MAX_S / 2 <= pauses[-1] <= PAUSE_MAX_S
    assert all(later > earlier / 2 for earlier, later in pairwise(pauses))


def test_a_forgotten_client_goes_on_as_a_new_one_but_only_before_anything_was_sent() -> None:
    said = refusal(504, "token_too_old", unknown=True)
    call = tries(TOKEN)
    assert refused(call, said) == Again(0.0, new_client=True)
    assert isinstance(refused(call, said), TokenTooOldError)
    later = tries(TOKEN)
    assert isinstance(lost(later, Sent.PERHAPS), Again)
    verdict = refused(later, said)
    assert isinstance(verdict, TokenTooOldError)
    assert verdict.outcome is Outcome.UNKNOWN


def test_a_call_of_which_nothing_could_be_sent_may_end_early() -> None:
    call = Tries(writes=True, repeatable=True, now=0.0, deadline_s=10.0, try_s=5.0, refused_s=2.0)
    assert isinstance(call.failed(URL, Sent.NEVER, "refused", 1.0, DICE, 0), Again)
    assert isinstance(call.failed(URL, Sent.NEVER, "refused", 2.0, DICE, 0), UnavailableError)
    assert isinstance(call.failed(URL, Sent.PERHAPS, "lost", 2.0, DICE, 0), Again)
    assert isinstance(call.failed(URL, Sent.NEVER, "refused", 3.0, DICE, 0), Again)


def test_a_try_has_its_share_of_the_time() -> None:
    call = tries(READ)
    assert call.time_for_try(100.0) == 5.0
    assert call.time_for_try(108.0) == pytest.approx(2.0)
    assert call.time_for_try(110.0) == 0.0
