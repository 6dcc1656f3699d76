"""The checker of strictly serializable transactions, by histories made by hand."""

from __future__ import annotations

from chaos.checkers.serializable import Transaction, check_serializable


def transaction(name: str, began: float, ended: float, **more: dict[str, int]) -> Transaction:
    return Transaction(name, began, ended, more.get("reads", {}), more.get("writes", {}))


def holds(*transactions: Transaction) -> bool:
    return not check_serializable(transactions)


def test_what_one_order_explains_holds() -> None:
    assert holds(
        transaction("w1", 0, 9, writes={"a": 1, "b": 1}),
        transaction("w2", 1, 3, writes={"a": 2, "b": 2}),
        transaction("r", 2, 8, reads={"a": 1, "b": 1}),
    )


def test_a_read_of_half_a_transaction_is_found() -> None:
    assert not holds(
        transaction("w", 0, 9, writes={"a": 1, "b": 1}),
        transaction("r", 1, 8, reads={"a": 1, "b": 0}),
    )


def test_two_that_see_each_other_halved_are_found() -> None:
    assert not holds(
        transaction("w1", 0, 9, writes={"a": 1, "b": 2}),
        transaction("w2", 0, 9, writes={"a": 2, "b": 1}),
    )


def test_write_skew_is_found() -> None:
    assert not holds(
        transaction("w1", 0, 9, reads={"a": 0}, writes={"b": 1}),
        transaction("w2", 0, 9, reads={"b": 0}, writes={"a": 1}),
    )


def test_a_stale_read_is_found_by_time_alone() -> None:
    write = transaction("w", 0, 1, writes={"a": 1})
    assert not holds(write, transaction("r", 2, 3, reads={"a": 0}))
    assert holds(write, transaction("r", 0.5, 3, reads={"a": 0}))


def test_a_stale_read_is_found_also_where_it_begins_as_another_one_ends() -> None:
    write = transaction("w", 0, 1, writes={"a": 1})
    other = transaction("o", 0, 2)
    assert not holds(write, other, transaction("r", 2, 3, reads={"a": 0}))


def test_the_unknown_writers_of_versions_leave_the_others_in_order() -> None:
    first = transaction("w1", 0, 9, writes={"a": 1})
    third = transaction("w3", 0, 9, writes={"a": 3})
    assert holds(first, third, transaction("r", 0, 9, reads={"a": 2}))
    assert not holds(first, third, transaction("r", 10, 11, reads={"a": 2}))


def test_one_version_has_one_writer() -> None:
    assert not holds(
        transaction("w1", 0, 1, writes={"a": 1}), transaction("w2", 0, 1, writes={"a": 1})
    )
