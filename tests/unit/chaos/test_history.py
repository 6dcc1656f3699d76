"""The record of what clients saw."""

from __future__ import annotations

import pytest

from chaos.history import History, Kind, Operation, Result, count_results


def write(key: str, value: str) -> Operation:
    return Operation(value, "c", "n", key, Kind.WRITE, 1.0, value=value)


def test_outcomes() -> None:
    history = History()
    done, failed, unknown = (history.invoke(write("k", v)) for v in "abc")
    history.done(done, 2.0, "a")
    history.failed(failed, 2.0, "no leader")
    history.unknown(unknown, "timeout")
    assert [o.result for o in history.operations] == [
        Result.DONE, Result.FAILED, Result.UNKNOWN,
    ]  # fmt: skip
    assert unknown.completed is None, "an unknown outcome stays open"
    assert count_results(history.operations) == {"done": 1, "failed": 1, "unknown": 1}
    assert "a" in str(done)
    assert "..." in str(unknown)


def test_an_operation_is_answered_once() -> None:
    history = History()
    operation = history.invoke(write("k", "v"))
    history.done(operation, 2.0, "v")
    with pytest.raises(AssertionError, match="answered twice"):
        history.failed(operation, 3.0, "late")


def test_keys_are_judged_one_by_one() -> None:
    history = History()
    for key in ("b", "a", "b"):
        history.invoke(write(key, key))
    assert [(key, len(ops)) for key, ops in history.by_key()] == [("a", 1), ("b", 2)]
