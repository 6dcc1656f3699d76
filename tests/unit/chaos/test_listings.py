"""What is wrong with a listing is seen, and nothing else."""

from __future__ import annotations

import pytest

from chaos.checkers.linearizability import check_history
from chaos.checkers.listings import check_order, reads_of
from chaos.history import Kind, Operation, Result

WRITE = Operation("w", "c", "n", "k1/b", Kind.WRITE, 1.0, "x", completed=2.0, result=Result.DONE)


@pytest.mark.parametrize(
    ("listed", "reverse", "good"),
    [
        ([], False, True),
        ([(b"a", "1"), (b"b", "2")], False, True),
        ([(b"b", "2"), (b"a", "1")], True, True),
        ([(b"a", "1"), (b"a", "1")], False, False),
        ([(b"a", "1"), (b"a", "1")], True, False),
        ([(b"b", "2"), (b"a", "1")], False, False),
        ([(b"a", "1"), (b"b", "2")], True, False),
    ],
)
def test_a_listing_names_keys_in_order_and_once(
    listed: list[tuple[bytes, str]], reverse: bool, good: bool
) -> None:
    assert (check_order("l", listed, reverse=reverse) == []) is good


@pytest.mark.parametrize(
    ("listed", "times", "good"),
    [
        ([(b"b", "x")], (3.0, 4.0), True),
        ([], (3.0, 4.0), False),
        ([], (1.5, 4.0), True),
        ([(b"b", "y")], (3.0, 4.0), False),
    ],
)
def test_a_key_that_was_there_all_the_time_is_not_left_out(
    listed: list[tuple[bytes, str]], times: tuple[float, float], good: bool
) -> None:
    reads = list(reads_of("l", 1, listed, [b"b"], times))
    assert (check_history([WRITE, *reads]) == []) is good
