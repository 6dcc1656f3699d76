"""The checker of watches over several shards, on hand-made histories."""

from __future__ import annotations

import pytest

from chaos.checkers.feeds import Change, Wrote, check_feeds
from chaos.history import Result

WRITTEN = [
    Wrote("a", "a1", Result.DONE, 5),
    Wrote("b", "b1", Result.DONE, 3),  # of another shard: its own revisions
    Wrote("a", "lost", Result.UNKNOWN),
    Wrote("a", None, Result.DONE, 7),
    Wrote("a", "never", Result.FAILED),
    Wrote("a", "a2", Result.DONE, 9),
    Wrote("b", "b2", Result.DONE, 4),
]
FINAL = {"a": "a2", "b": "b2"}
A = [Change("a", 5, "a1"), Change("a", 7, None), Change("a", 9, "a2")]
B = [Change("b", 3, "b1"), Change("b", 4, "b2")]
ONE = [*A, *B]
OTHER = [B[0], A[0], A[1], B[1], A[2]]


def rules(*told: list[Change]) -> list[str]:
    watchers = {f"w{number}": changes for number, changes in enumerate(told)}
    return [each.message.split(":")[0] for each in check_feeds(watchers, WRITTEN, FINAL)]


def test_changes_to_different_keys_have_no_order() -> None:
    assert rules(ONE, OTHER) == []


def test_an_unknown_write_may_have_been_done() -> None:
    late = Change("a", 6, "lost")
    assert rules([A[0], late, *A[1:], *B], [*B, A[0], late, *A[1:]]) == []


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ([A[0], A[0], *A[1:], *B], ["order"]),
        ([A[1], A[0], A[2], *B], ["order"]),
        ([A[0], A[2], *B], ["same"]),
        ([A[0], Change("a", 6, "lost"), *A[1:], *B], ["same"]),  # only one was told
        ([*A[:2], *B], ["same", "final"]),
        ([*A, B[0], Change("b", 4, "b3")], ["same", "truth", "final"]),
        ([*ONE, Change("c", 1, "c1")], ["truth"]),
        ([A[0], Change("a", 6, None), *A[1:], *B], ["same", "truth"]),  # nobody deleted it
        ([A[0], Change("a", 6, "never"), *A[1:], *B], ["same", "truth"]),
    ],
)
def test_what_is_told_wrong(told: list[Change], found: list[str]) -> None:
    assert rules(told, OTHER) == found


def test_what_nobody_was_told_is_missed_all_the_same() -> None:
    silent = [each for each in ONE if each.version != 7]
    assert rules(silent, silent) == ["truth"]


def test_a_write_is_done_once() -> None:
    """Whether its outcome is known or not."""
    known = [A[0], Change("a", 6, "a1"), *A[1:], *B]
    unknown = [A[0], Change("a", 6, "lost"), A[1], Change("a", 8, "lost"), A[2], *B]
    for told in (known, unknown):
        assert rules(told, told) == ["truth"]
