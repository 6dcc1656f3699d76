"""A node's own limits: what they refuse, and that they leave everything else alone."""

from __future__ import annotations

import pytest

from kv.config.reading import parse_config
from kv.node_settings import node_settings
from kv.size_limits import SizeLimits
from raftgroups.commands import (
    BatchWrite,
    Cas,
    Command,
    Compare,
    Delete,
    Increment,
    LeaseGrant,
    Put,
    Range,
    Txn,
    UnderLease,
)
from raftgroups.refusals import TooManyOperationsError
from storage.errors import JanusError, KeyTooLongError, ValueTooLargeError

NARROW = SizeLimits(key_bytes=4, value_bytes=6, txn_operations=3)
LONG = b"12345"
LARGE = b"1234567"
CONDITION = Compare(b"k", operand=1)


@pytest.mark.parametrize(
    ("command", "error", "named"),
    [
        (Put(LONG, b""), KeyTooLongError, "limits.key_bytes"),
        (Put(b"k", LARGE), ValueTooLargeError, "limits.value_bytes"),
        (Cas(b"k", LARGE), ValueTooLargeError, "limits.value_bytes"),
        (Increment(LONG), KeyTooLongError, "limits.key_bytes"),
        (BatchWrite((Put(b"k", b""), Put(b"l", LARGE))), ValueTooLargeError, "limits.value_bytes"),
        (Txn(otherwise=(Txn(then=(Put(LONG, b""),)),)), KeyTooLongError, "limits.key_bytes"),
        (UnderLease(1, Put(b"k", LARGE)), ValueTooLargeError, "limits.value_bytes"),
        (Txn(compares=(CONDITION,) * 4), TooManyOperationsError, "limits.txn_operations"),
        (Txn(then=(Range(b"k"),) * 4), TooManyOperationsError, "limits.txn_operations"),
        (
            Txn(then=(Range(b"k"), Txn(otherwise=(Range(b"k"),) * 2))),
            TooManyOperationsError,
            "limits.txn_operations",
        ),
    ],
)
def test_what_is_over_a_limit_is_refused_by_its_name(
    command: Command, error: type[JanusError], named: str
) -> None:
    with pytest.raises(error, match=named):
        NARROW.check(command)


@pytest.mark.parametrize(
    "command",
    [
        Put(b"1234", b"123456"),
        Cas(b"k", None),
        Delete(LONG),
        Delete(b"", b"\0"),
        LeaseGrant(1, 10),
        Txn(compares=(CONDITION,) * 3, then=(Delete(LONG),), otherwise=(Range(LONG),) * 3),
    ],
)
def test_what_is_within_them_or_frees_is_let_through(command: Command) -> None:
    NARROW.check(command)


@pytest.mark.parametrize("mode", ["strong", "leaderless"])
def test_they_reach_the_regime_from_the_config(mode: str) -> None:
    text = f"mode = {mode!r}\n[limits]\nkey_bytes = 4\nvalue_bytes = 6\ntxn_operations = 3\n"
    settings = node_settings(parse_config(text))
    assert settings.shard.sizes == NARROW
    assert settings.leaderless is not None
    assert settings.leaderless.coordinator.sizes == NARROW
    assert (settings.default_leaderless is not None) == (mode == "leaderless")


def test_the_widest_limits_cost_nothing() -> None:
    assert SizeLimits().narrowed() is None
    assert NARROW.narrowed() is NARROW
