from __future__ import annotations

import pytest

from raftgroups.lease import LEASE_MAX, MAXIMUM_TTL_S, Lease, Leases, ttl_to_grant
from raftgroups.refusals import LeaseExistsError, TtlTooLargeError
from storage.engine import Batch
from storage.errors import InvalidOptionError
from storage.memory import MemoryEngine


@pytest.fixture
def leases() -> Leases:
    return Leases(7)


def stored(leases: Leases, engine: MemoryEngine) -> Leases:
    batch = Batch()
    leases.write(batch)
    engine.write(batch, sync=True)
    again = Leases(7)
    again.load(engine.snapshot())
    return again


def test_the_proposer_grants_as_etcd_does() -> None:
    assert [ttl_to_grant(ttl) for ttl in (-5, 0, 1, 2, 3, MAXIMUM_TTL_S)] == [
        *[2] * 4,
        3,
        MAXIMUM_TTL_S,
    ]
    assert ttl_to_grant(1, minimum_s=5) == 5
    with pytest.raises(TtlTooLargeError):
        ttl_to_grant(MAXIMUM_TTL_S + 1)


def test_a_grant_is_checked_again_by_the_machine(leases: Leases) -> None:
    leases.grant(1, 10, 0)
    with pytest.raises(LeaseExistsError):
        leases.grant(1, 10, 0)
    with pytest.raises(TtlTooLargeError):
        leases.grant(2, MAXIMUM_TTL_S + 1, 0)
    for bad in (0, -1, LEASE_MAX + 1):
        with pytest.raises(InvalidOptionError):
            leases.grant(bad, 10, 0)
    assert leases.ids() == [1]
    assert leases.grant(LEASE_MAX, 0, 0).ttl_s == 1


def test_time_left_is_rounded_down_and_begins_anew(leases: Leases) -> None:
    leases.grant(1, 10, 5_000)
    assert leases.remaining_s(1, 5_000) == 10
    assert leases.remaining_s(1, 5_001) == 9
    assert leases.keep_alive(1, 12_000) == 10
    assert leases.remaining_s(1, 12_000) == 10
    assert leases.remaining_s(1, 99_000) == 0
    assert leases.remaining_s(2, 0) is None


def test_what_is_over_cannot_be_kept_alive(leases: Leases) -> None:
    leases.grant(1, 10, 0)
    assert not leases.is_over(1, 9_999)
    assert leases.keep_alive(1, 9_999) == 10
    assert leases.is_over(1, 19_999)
    assert leases.keep_alive(1, 19_999) == 0
    assert leases.keep_alive(2, 0) == 0
    assert 1 in leases


def test_due_names_the_earliest_first_and_again(leases: Leases) -> None:
    for lease, ttl_s in ((1, 30), (2, 10), (3, 20)):
        leases.grant(lease, ttl_s, 0)
    assert leases.next_deadline_ms() == 10_000
    assert leases.due(9_999) == []
    assert leases.due(20_000) == leases.due(20_000) == [2, 3]
    assert leases.due(99_000, limit=2) == [2, 3]
    leases.keep_alive(2, 9_000)
    leases.remove(3)
    assert leases.due(30_000) == [2, 1]
    assert leases.next_deadline_ms() == 19_000


def test_keeping_alive_for_ever_does_not_grow(leases: Leases) -> None:
    leases.grant(1, 10, 0)
    for second in range(5_000):
        leases.keep_alive(1, second * 1000)
    assert len(leases._heap) < 100
    assert leases.due(4_999_000 + 9_999) == []
    assert leases.due(4_999_000 + 10_000) == [1]


def test_what_is_left_survives_a_restart(leases: Leases) -> None:
    engine = MemoryEngine()
    leases.grant(1, 10, 0)
    leases.grant(2, 20, 0)
    leases = stored(leases, engine)
    leases.keep_alive(1, 5_000)
    leases.remove(2)
    leases.grant(LEASE_MAX, 7, 1_000)
    again = stored(leases, engine)
    assert again.ids() == [1, LEASE_MAX]
    assert again.get(1) == Lease(10, 15_000)
    assert again.due(8_000) == [LEASE_MAX]
