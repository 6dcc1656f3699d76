"""Each checker on hand-made observations: silent on good ones, loud on each kind of bad one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chaos.checkers.applied_once import check_application, check_replicas
from chaos.checkers.durability import check_durability
from chaos.checkers.election_safety import ElectionSafety
from chaos.checkers.feature_levels import FeatureLevels, check_command
from chaos.checkers.leader_completeness import LeaderCompleteness
from chaos.checkers.liveness import ReplicaView, check_liveness, unconverged
from chaos.checkers.log_matching import Entry, check_logs
from chaos.checkers.state_machine_safety import StateMachineSafety
from chaos.checkers.violation import Violation


def log(*terms: int, first: int = 1, payload: str = "") -> list[Entry]:
    return [
        Entry(first + n, term, f"{payload or term}/{first + n}".encode())
        for n, term in enumerate(terms)
    ]


def test_a_violation_reads_well() -> None:
    text = str(Violation("election_safety", "two leaders", ("n1", "n2")))
    assert text == "election_safety: two leaders\n  n1\n  n2"


# --- election safety -----------------------------------------------------------------------------


def test_one_leader_a_term_is_fine() -> None:
    checker = ElectionSafety()
    for group, term, node in [(1, 1, "a"), (1, 2, "b"), (1, 2, "b"), (2, 2, "a")]:
        assert checker.observe(group, term, node) == []
    assert checker.terms(1) == 2


def test_two_leaders_in_a_term_are_found() -> None:
    checker = ElectionSafety()
    checker.observe(1, 3, "a")
    (violation,) = checker.observe(1, 3, "b")
    assert "two leaders in term 3: a and b" in violation.message


# --- log matching --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        log(1, 1, 2),
        log(1, 1),
        log(1, 1, 3, 3),
        log(1, 2, first=2),
        log(5, first=40),
        [],
    ],
    ids=["equal", "shorter", "conflicting tail", "compacted", "far ahead", "empty"],
)
def test_matching_logs(other: list[Entry]) -> None:
    assert check_logs(1, {"a": log(1, 1, 2), "b": other}) == []


def test_same_index_and_term_but_another_entry() -> None:
    logs = {"a": log(1, 1, 2), "b": [*log(1, 1), Entry(3, 2, b"other")]}
    (violation,) = check_logs(1, logs)
    assert "differ at index 3" in violation.message


def test_another_past_under_a_matching_entry() -> None:
    logs = {"a": log(1, 1, 3), "b": log(1, 2, 3)}
    (violation,) = check_logs(1, logs)
    assert "agree on term 3 at index 3, but differ at index 2" in violation.message


@pytest.mark.parametrize("bad", [log(2, 1), [*log(1), Entry(3, 1, b"")]], ids=["term", "gap"])
def test_a_log_must_rise(bad: list[Entry]) -> None:
    (violation,) = check_logs(1, {"a": bad})
    assert "does not rise" in violation.message


# --- leader completeness -------------------------------------------------------------------------


def test_a_leader_with_every_committed_entry() -> None:
    checker = LeaderCompleteness()
    checker.applied(1, 1, b"one")
    checker.applied(1, 2, b"two")
    checker.applied(1, 2, b"more of two")
    checker.applied(2, 9, b"of another group")
    entries = [Entry(1, 1, b"[one]"), Entry(2, 1, b"[two, more of two]"), Entry(3, 2, b"")]
    assert checker.leads(1, "a", 2, 1, entries) == []
    assert checker.leads(1, "a", 2, 2, entries[1:]) == [], "compacted entries are not asked for"
    assert checker.highest(1) == 2


@pytest.mark.parametrize(
    "entries",
    [
        [Entry(1, 1, b"[one]")],
        [Entry(1, 1, b"[one]"), Entry(2, 2, b"[other]")],
        [Entry(1, 1, b"[one]"), Entry(2, 2, b"[two]")],
    ],
    ids=["missing", "other", "part"],
)
def test_a_leader_without_a_committed_entry(entries: list[Entry]) -> None:
    checker = LeaderCompleteness()
    for index, payload in [(1, b"one"), (2, b"two"), (2, b"more")]:
        checker.applied(1, index, payload)
    (violation,) = checker.leads(1, "a", 3, 1, entries)
    assert "leads term 3 without the committed entry 2" in violation.message


# --- state machine safety ------------------------------------------------------------------------


def test_equal_applications() -> None:
    checker = StateMachineSafety()
    for node in "abc":
        assert checker.observe(1, node, (5, 0), b"p", "r", b"chain") == []
        assert checker.observe(1, node, (5, 1), b"q", "r", b"chain2") == []


@pytest.mark.parametrize(
    ("payload", "result", "chain", "what"),
    [
        (b"other", "r", b"chain", "another entry"),
        (b"p", "other", b"chain", "another result"),
        (b"p", "r", b"other", "another past"),
    ],
)
def test_unequal_applications(payload: bytes, result: str, chain: bytes, what: str) -> None:
    checker = StateMachineSafety()
    checker.observe(1, "a", (5, 0), b"p", "r", b"chain")
    (violation,) = checker.observe(1, "b", (5, 0), payload, result, chain)
    assert what in violation.message


# --- applied once --------------------------------------------------------------------------------


def test_applied_in_order() -> None:
    assert check_application(1, "a", 6, 5, None) == []
    assert check_application(1, "a", 6, 6, None) == [], "two operations of one entry"
    assert check_replicas(1, {"a": [("x", 1), ("y", 2)], "b": [("x", 1)]}) == []


def test_applied_again_or_backwards() -> None:
    backwards, twice = check_application(1, "a", 4, 5, 3)
    assert "index 4 after index 5" in backwards.message
    assert "applied at index 3" in twice.message


def test_an_operation_at_two_indexes() -> None:
    (violation,) = check_replicas(1, {"a": [("x", 1)], "b": [("x", 2)]})
    assert "index 2 on b and at index 1 on a" in violation.message


# --- durability ----------------------------------------------------------------------------------


def test_everything_acknowledged_is_there() -> None:
    present = {"a": {"x": 1, "y": 2, "unknown": 3}, "b": {"x": 1, "y": 2, "unknown": 3}}
    assert check_durability(1, {"x": 1, "y": None}, ["refused"], present) == []


@pytest.mark.parametrize(
    ("acknowledged", "refused", "words"),
    [
        ({"z": 4}, [], "are not there"),
        ({"x": 9}, [], "another index"),
        ({}, ["x"], "refused"),
    ],
)
def test_lost_moved_or_lied(
    acknowledged: dict[str, int | None], refused: list[str], words: str
) -> None:
    (violation,) = check_durability(1, acknowledged, refused, {"a": {"x": 1}})
    assert words in violation.message


# --- liveness ------------------------------------------------------------------------------------

LEADER = ReplicaView("leader", 3, "a", 9, 9, 9, ("a", "b"))
FOLLOWER = ReplicaView("follower", 3, "a", 9, 9, 9, ("a", "b"))


def test_a_whole_group() -> None:
    assert check_liveness(1, {"a": LEADER, "b": FOLLOWER}, ["a", "b"], 8.0) == []
    stale = {"a": LEADER, "b": FOLLOWER, "gone": replace(FOLLOWER, leader=None, role="removed")}
    assert unconverged(stale, ["a", "b"]) is None, "who is no member need not follow"


@pytest.mark.parametrize(
    ("leader", "follower", "words"),
    [
        (replace(LEADER, role="follower", leader=None), FOLLOWER, "no leader"),
        (LEADER, None, "no replica"),
        (LEADER, replace(FOLLOWER, leader=None), "follows None"),
        (LEADER, replace(FOLLOWER, applied_index=3), "applied 3 of 9"),
        (replace(LEADER, last_index=12), FOLLOWER, "committed 9 of 12"),
        (replace(LEADER, feature_level=2), FOLLOWER, "level 2 and all members support 3"),
    ],
)
def test_a_group_that_is_stuck(
    leader: ReplicaView, follower: ReplicaView | None, words: str
) -> None:
    views = {"a": leader} | ({"b": follower} if follower else {})
    (violation,) = check_liveness(1, views, ["a", "b"], 8.0, 3)
    assert words in violation.message
    assert violation.invariant == "liveness"


# --- feature levels ------------------------------------------------------------------------------


def test_a_command_of_the_own_level_or_below_is_fine() -> None:
    assert check_command(1, "a", 9, 1, 1) == check_command(1, "a", 9, 1, 2) == []


def test_a_command_above_the_program_is_found() -> None:
    (violation,) = check_command(1, "a", 9, 2, 1)
    assert violation.invariant == "feature_levels"
    assert "a supports level 1 and applied at index 9 a command of level 2" in violation.message


def test_levels_rise_and_may_begin_anew_in_another_process() -> None:
    levels = FeatureLevels()
    for process, level in (("a/1", 1), ("a/1", 2), ("a/2", 1), ("a/1", 2)):
        assert levels.observe(1, process, level, {"a": 2, "b": 2}) == []


def test_a_level_that_falls_is_found() -> None:
    levels = FeatureLevels()
    levels.observe(1, "a/1", 2, {"a": 2})
    (violation,) = levels.observe(1, "a/1", 1, {"a": 2})
    assert "fell from 2 to 1 in a/1" in violation.message


def test_a_replica_that_was_erased_and_joined_again_begins_anew() -> None:
    levels = FeatureLevels()
    levels.observe(1, "a/1", 2, {"a": 2})
    levels.observe(2, "a/1", 2, {"a": 2})
    levels.begins_anew(1, "a/1")
    assert levels.observe(1, "a/1", 1, {"a": 2}) == []
    assert len(levels.observe(2, "a/1", 1, {"a": 2})) == 1, "the other group's is no other one"


def test_a_level_above_a_member_is_found() -> None:
    (violation,) = FeatureLevels().observe(1, "a/1", 2, {"a": 2, "b": 1})
    assert "above the programs of b" in violation.message
