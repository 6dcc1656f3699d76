"""What test_golden_etcd.py does not have: checks before a proposal, and our own refusals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftgroups.commands import (
    Compact,
    Compare,
    CompareTarget,
    Delete,
    LeaseGrant,
    Put,
    Range,
    Txn,
    TxnOperation,
)
from raftgroups.refusals import DuplicateKeyError, LeaseProvidedError
from raftgroups.txn import is_read_only, validate
from storage.errors import InvalidOptionError, InvalidRequestError

BAD_IN_ANY_STATE: list[tuple[str, Txn]] = [
    ("key_too_long", Txn((), (), (Put(b"k" * 433),))),
    ("value_too_large", Txn((), (), (Put(b"k", b"v" * (1024 * 1024 + 1)),))),
    ("invalid_sort", Txn((), (Range(b"k", sort_target=5),))),
    ("invalid_sort", Txn((), (Range(b"k", sort_order=-1),))),
    ("invalid_option", Txn((Compare(b"k", target=5),))),
    ("invalid_option", Txn((Compare(b"k", result=4),))),
    ("invalid_option", Txn((Compare(b"k", target=CompareTarget.VALUE, operand=1),))),
    ("invalid_option", Txn((Compare(b"k", operand=b"1"),))),
    ("invalid_option", Txn((), (Put(b"k", ttl_ms=-1),))),
    ("ttl_too_large", Txn((), (Put(b"k", ttl_ms=9_000_000_000_001),))),
]


@pytest.mark.parametrize(
    ("code", "txn"), BAD_IN_ANY_STATE, ids=[f"{n}-{c}" for n, (c, _) in enumerate(BAD_IN_ANY_STATE)]
)
def test_edges_and_machine_refuse_alike(rig: Any, code: str, txn: Txn) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        validate(txn)
    assert refused.value.code == code
    assert rig.refused(txn) == code
    assert rig.refused(Txn((), (txn,))) == code


@pytest.mark.parametrize(
    ("code", "last"),
    [
        ("lease_not_found", Put(b"x", lease=99)),
        ("key_not_found", Put(b"x", ignore_value=True)),
        ("future_revision", Range(b"a", revision=99)),
        ("compacted", Range(b"a", revision=2)),
    ],
)
def test_a_bad_operation_fails_the_whole_before_any_write(rig: Any, code: str, last: Any) -> None:
    for value in (b"1", b"2", b"3"):
        rig.do(Put(b"a", value))
    rig.do(Compact(3))
    bad = Txn((), (Put(b"b"), Delete(b"a"), Txn((), (last,))), ())
    assert rig.refused(bad) == code
    assert rig.refused(Txn((), (last, Put(b"b")))) == code
    assert rig.value(b"a") == b"3"
    # In the branch that is not taken it does no harm.
    taken = rig.do(Txn((Compare(b"a", operand=77),), bad.then, (Put(b"b"),)))
    assert (taken.succeeded, taken.revision) == (False, 5)


def test_to_keep_what_the_same_transaction_deleted_fails_the_whole(rig: Any) -> None:
    """The real etcd ends at this."""
    rig.do(Put(b"a", b"1"))
    assert rig.refused(Txn((), (Delete(b"a", b"\x00"), Put(b"a", ignore_value=True)))) == (
        "key_not_found"
    )
    assert rig.value(b"a") == b"1"


def test_both_branches_of_a_txn_are_one_revision_and_one_group_of_events(rig: Any) -> None:
    rig.do(LeaseGrant(5, 10))
    inner = Txn((Compare(b"a", target=CompareTarget.CREATE),), (Put(b"b", lease=5),))
    result = rig.do(Txn((), (Put(b"a", b"1"), inner, Delete(b"c"))))
    assert result.revision == 2
    assert result.responses[1].succeeded  # compared before the put of b"a"
    [(revision, events)] = rig.events
    assert revision == 2
    assert [(event.kv.key, event.kv.mod_revision) for event in events] == [(b"a", 2), (b"b", 2)]
    assert rig.machine.lease_keys(5) == [b"b"]


def test_read_only() -> None:
    assert is_read_only(Txn((), (Range(b"a"), Txn((), (Range(b"b"),)))))
    assert not is_read_only(Txn((), (), (Txn((), (), (Delete(b"a"),)),)))


def test_an_over_long_key_can_be_looked_for_but_not_written(rig: Any) -> None:
    long = b"a" * 600
    rig.do(Put(b"a" * 432, b"1"))
    result = rig.do(
        Txn((Compare(long), Compare(long, target=3, operand=b"")), (), (Delete(long), Range(long)))
    )
    assert [result.responses[0].deleted, result.responses[1].count] == [0, 0]
    assert rig.refused(Put(long)) == "key_too_long"


def test_keeping_and_giving_are_exclusive() -> None:
    with pytest.raises(LeaseProvidedError):
        validate(Txn((), (Put(b"a", lease=1, ignore_lease=True),)))


POINTS = [b"a", b"b", b"c", b"d"]
FLAT = st.one_of(
    st.builds(Put, st.sampled_from(POINTS)),
    st.builds(Delete, st.sampled_from(POINTS), st.sampled_from([b"", *POINTS])),
)


@given(st.lists(FLAT, max_size=5))
def test_overlaps_against_the_plain_rule(operations: list[TxnOperation]) -> None:
    puts = [o.key for o in operations if isinstance(o, Put)]
    deletes = [o for o in operations if isinstance(o, Delete)]
    met = any(
        key == o.key if not o.range_end else o.key <= key < o.range_end
        for key in puts
        for o in deletes
    )
    try:
        validate(Txn((), tuple(operations)))
        refused = False
    except DuplicateKeyError:
        refused = True
    assert refused == (met or len(puts) != len(set(puts)))


def test_operands_must_fit_their_target() -> None:
    for target in CompareTarget:
        good: int | bytes = b"" if target == CompareTarget.VALUE else 0
        bad: int | bytes = 0 if target == CompareTarget.VALUE else b""
        validate(Txn((Compare(b"k", target=target, operand=good),)))
        with pytest.raises(InvalidOptionError):
            validate(Txn((Compare(b"k", target=target, operand=bad),)))
