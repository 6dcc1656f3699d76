"""What goes beyond etcd: increments, CAS, atomic batches, keys with a time to live."""

from __future__ import annotations

from typing import Any

import pytest

from raftgroups.commands import (
    BatchWrite,
    Cas,
    Delete,
    Expire,
    Increment,
    LeaseGrant,
    Put,
    SetTtl,
    Tick,
    Txn,
    encode,
)
from raftgroups.results import BatchResult
from storage.errors import InvalidOptionError


def test_an_increment_counts_from_zero(rig: Any) -> None:
    assert rig.do(Increment(b"n", 5)).value == 5
    result = rig.do(Increment(b"n", -7))
    assert (result.value, result.revision) == (-2, 3)
    assert rig.value(b"n") == b"-2"


@pytest.mark.parametrize(
    "value", [b"", b"x", b" 1", b"+1", b"01", b"-0", b"--1", b"1.0", b"9" * 30, "²".encode()]
)
def test_only_a_number_can_be_incremented(rig: Any, value: bytes) -> None:
    rig.do(Put(b"n", value))
    assert rig.refused(Increment(b"n")) == "not_an_integer"


def test_an_increment_stays_within_64_bits(rig: Any) -> None:
    rig.do(Put(b"n", b"%d" % (2**63 - 2)))
    assert rig.do(Increment(b"n")).value == 2**63 - 1
    assert rig.refused(Increment(b"n")) == "integer_overflow"
    with pytest.raises(InvalidOptionError):
        encode(Increment(b"m", -(2**63) - 1))
    assert rig.refused(Increment(b"m", 2**64 - 1)) == "integer_overflow"


def test_an_increment_keeps_lease_and_time_to_live(rig: Any) -> None:
    rig.do(LeaseGrant(5, 100))
    rig.do(Put(b"n", b"1", lease=5, ttl_ms=500))
    rig.do(Increment(b"n"))
    rig.do(BatchWrite((Increment(b"n"), Increment(b"n"))))
    assert rig.machine.view.get(b"n").lease == 5
    assert rig.machine.ttl_remaining_ms(b"n", 0) == 500


def test_cas_by_version(rig: Any) -> None:
    created = rig.do(Cas(b"k", b"1", expected_revision=0))
    assert (created.succeeded, created.current) == (True, None)
    again = rig.do(Cas(b"k", b"x", expected_revision=0))
    assert (again.succeeded, again.current.value, again.revision) == (False, b"1", 2)
    assert rig.do(Cas(b"k", b"2", expected_revision=2)).succeeded
    rig.do(Delete(b"k"))
    rig.do(Put(b"k", b"2"))
    assert not rig.do(Cas(b"k", b"3", expected_revision=3)).succeeded  # no ABA
    assert rig.do(Cas(b"k", None, expected_revision=5)).succeeded
    assert rig.value(b"k") is None
    absent = rig.do(Cas(b"k", None, expected_revision=0))
    assert (absent.succeeded, absent.revision) == (True, 6)


def test_cas_by_value(rig: Any) -> None:
    assert not rig.do(Cas(b"k", b"1", expected_value=b"")).succeeded
    rig.do(Put(b"k", b""))
    assert rig.do(Cas(b"k", b"1", expected_value=b"")).succeeded
    assert not rig.do(Cas(b"k", b"2", expected_value=b"1", expected_revision=2)).succeeded
    assert rig.do(Cas(b"k", b"2", expected_value=b"1", expected_revision=3)).succeeded


def test_cas_checks_what_it_would_write_first(rig: Any) -> None:
    assert rig.refused(Cas(b"k", b"1", expected_revision=9, lease=77)) == "lease_not_found"
    assert rig.refused(Cas(b"", b"1")) == "empty_key"
    assert rig.refused(Cas(b"k", b"1", ttl_ms=-1)) == "invalid_option"


def test_a_batch_is_one_revision(rig: Any) -> None:
    batch = BatchWrite(
        (Put(b"a", b"1"), Increment(b"a", 2), Cas(b"a", b"4", expected_value=b"3"), Delete(b"b"))
    )
    result = rig.do(batch)
    assert (result.failed, result.revision, len(result.results)) == (-1, 2, 4)
    assert rig.value(b"a") == b"4"
    [(revision, events)] = rig.events
    assert revision == 2
    assert [event.kv.value for event in events] == [b"1", b"3", b"4"]


def test_a_batch_is_all_or_nothing(rig: Any) -> None:
    rig.do(Put(b"c", b"now"))
    result = rig.do(BatchWrite((Put(b"a"), Delete(b"c"), Cas(b"b", b"", expected_revision=9))))
    assert isinstance(result, BatchResult)
    assert (result.failed, result.revision, result.results[0].current) == (2, 2, None)
    assert (rig.value(b"a"), rig.value(b"c")) == (None, b"now")
    for bad, code in (
        (Put(b"x", lease=9), "lease_not_found"),
        (Increment(b"a"), "not_an_integer"),
        (Delete(b""), "empty_key"),
    ):
        assert rig.refused(BatchWrite((Put(b"a"), Delete(b"c"), bad))) == code
    assert len(rig.events) == 1


# --- time to live ---


def test_an_expired_key_is_there_until_its_expiry_is_applied(rig: Any) -> None:
    rig.do(Put(b"k", b"v", ttl_ms=1_000))
    assert rig.machine.due(999) is None
    assert rig.machine.due(1_000) == Expire((), (b"k",))
    rig.clock_ms = 5_000
    rig.do(Tick())
    assert rig.value(b"k") == b"v"
    assert rig.machine.ttl_remaining_ms(b"k", 5_000) == 0
    result = rig.do(Expire((), (b"k",)))
    assert (result.keys, result.revision) == (1, 3)
    assert rig.value(b"k") is None
    assert rig.events[-1][1][0].is_delete
    assert rig.machine.due(10_000) is None
    assert not rig.machine.alive


@pytest.mark.parametrize(
    "change",
    [
        Put(b"k", b"w"),
        Cas(b"k", b"w"),
        SetTtl(b"k", 0),
        Put(b"k", b"w", ttl_ms=60_000),
        SetTtl(b"k", 60_000),
        Txn((), (Put(b"k", b"w"),)),
        BatchWrite((Put(b"k", b"x", ttl_ms=1), Put(b"k", b"w"))),
        BatchWrite((Delete(b"k"), Put(b"k", b"w"))),
    ],
    ids=str,
)
def test_a_change_of_the_key_ends_its_time(rig: Any, change: Any) -> None:
    """Even if the expiry was already proposed."""
    rig.do(Put(b"k", b"v", ttl_ms=1_000))
    rig.turn()
    rig.do(change)
    value, revision = rig.value(b"k"), rig.machine.revision
    rig.clock_ms = 2_000
    assert rig.do(Expire((), (b"k",))).keys == 0
    assert (rig.value(b"k"), rig.machine.revision) == (value, revision)


def test_to_set_a_time_makes_no_revision(rig: Any) -> None:
    rig.do(Put(b"k", b"v"))
    result = rig.do(SetTtl(b"k", 700))
    assert (result.revision, result.version, result.ttl_ms) == (2, 2, 700)
    assert rig.machine.ttl_remaining_ms(b"k", 300) == 400
    missing = rig.do(SetTtl(b"m", 700))
    assert (missing.version, missing.ttl_ms) == (0, 0)
    assert rig.refused(SetTtl(b"k", -1)) == "invalid_option"
    assert rig.do(SetTtl(b"k", 0)).version == 2
    assert rig.machine.ttl_remaining_ms(b"k", 0) is None
    assert not rig.machine.alive


def test_the_keys_of_one_expiry_go_in_order_at_one_revision(rig: Any) -> None:
    for key in (b"c", b"a", b"b"):
        rig.do(Put(key, ttl_ms=10))
    rig.clock_ms = 10
    assert rig.do(Expire((), (b"c", b"a", b"b", b"a", b"zz"))).keys == 3
    revision, events = rig.events[-1]
    assert revision == 5
    assert [event.kv.key for event in events] == [b"a", b"b", b"c"]


def test_a_refused_write_leaves_no_time_to_live(rig: Any) -> None:
    rig.do(Put(b"k", b"x"))
    rig.refused(BatchWrite((Put(b"k", ttl_ms=5), Increment(b"k"))))
    assert not rig.machine.alive
    rig.do(BatchWrite((Put(b"k", ttl_ms=5), Delete(b"k"))))
    assert not rig.machine.alive
