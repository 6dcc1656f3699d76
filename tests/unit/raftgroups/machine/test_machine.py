"""The machine as a group sees it: turns, crashes, snapshots, events, tokens, leases."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from raftgroups.commands import (
    Cas,
    Compact,
    Delete,
    Expire,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseRevoke,
    Put,
    Range,
    Tick,
    Token,
    Txn,
    encode,
)
from raftgroups.dedupe import ANSWER_MAX_BYTES, RETENTION_MS, Limits
from raftgroups.machine import ShardMachine
from raftgroups.machine_parts import ShardPlace
from raftgroups.refusals import NewerCommandError, ReplicaAheadError
from raftgroups.results import Failure, PutResult
from storage.clock import ManualClock
from storage.engine import Batch
from storage.errors import CorruptRecordError
from storage.latest import Latest
from storage.memory import MemoryEngine
from storage.mvcc_hash import ShardHash

# --- refusals ---


@pytest.mark.parametrize("payload", [b"", b"\x01", encode(Tick())[:18] + b"\x91\x63", b"\x00" * 30])
def test_what_is_no_command_is_refused_and_the_index_passes(rig: Any, payload: bytes) -> None:
    result = rig.apply(payload)
    assert (result.code, result.revision) == ("unknown_command", 1)
    assert rig.do(Put(b"a")).revision == 2
    assert rig.machine.shard.state.applied_index == 2


def test_a_command_of_a_later_version_stops_the_replica(rig: Any) -> None:
    with pytest.raises(NewerCommandError, match="run the version that wrote it"):
        rig.apply(b"\x09" + encode(Tick())[1:])


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (Put(b""), "empty_key"),
        (Put(b"k" * 433), "key_too_long"),
        (Put(b"k", b"v" * (2**20 + 1)), "value_too_large"),
        (Put(b"k", lease=9), "lease_not_found"),
        (Delete(b""), "empty_key"),
        (Compact(5), "future_revision"),
        (LeaseRevoke(9), "lease_not_found"),
        (LeaseGrant(0, 5), "invalid_option"),
        (LeaseGrant(1, 9_000_000_001), "ttl_too_large"),
    ],
    ids=str,
)
def test_a_clients_error_is_a_result(rig: Any, command: Any, code: str) -> None:
    assert rig.refused(command) == code
    rig.do(Put(b"a"))
    rig.turn()


def test_compacted_says_from_where_it_can_be_read(rig: Any) -> None:
    for _ in range(4):
        rig.do(Put(b"a"))
    assert rig.do(Compact(3)).revision == 5
    assert rig.do(Compact(2)) == Failure(
        5,
        "compacted",
        "shard 1 was already compacted to revision 3; compacting to 2 changes nothing",
        3,
    )


def test_a_damaged_record_is_not_an_answer(rig: Any) -> None:
    rig.do(Put(b"a"))
    rig.turn()
    with rig.engine.snapshot() as snapshot:
        key, record = snapshot.scan(b"\x22", b"\x23").items[0]
    batch = Batch()
    batch.put(key, record[:-1] + b"\xee")
    rig.engine.write(batch, sync=True)
    rig.open()
    with pytest.raises(CorruptRecordError):
        rig.do(Put(b"a"))


def test_keys_of_another_shard_are_refused() -> None:
    place = ShardPlace(1, 1, 7, 3, start=b"b", end=b"m")
    machine = ShardMachine(Latest(MemoryEngine(), ManualClock()), place)
    for index, command in enumerate((Put(b"a"), Put(b"m"), Delete(b"b", b"z")), 1):
        result = machine.apply(index, encode(command))
        assert isinstance(result, Failure)
        assert result.code == "wrong_shard"
    assert machine.apply(4, encode(Put(b"b"))) == PutResult(2)


# --- events ---


def test_the_observer_is_told_once_a_revision_in_order(rig: Any) -> None:
    rig.do(LeaseGrant(1, 10))
    rig.do(Put(b"a", b"1", lease=1))
    rig.do(Put(b"b", b"2", lease=1))
    rig.turn()
    rig.do(Txn((), (Put(b"c"), Delete(b"a"))))
    rig.do(Delete(b"nothing"))
    rig.do(Txn((), (Delete(b"nothing"), Range(b"b"))))
    rig.do(LeaseRevoke(1))
    assert [(r, [(e.kv.key, e.is_delete) for e in events]) for r, events in rig.events] == [
        (2, [(b"a", False)]),
        (3, [(b"b", False)]),
        (4, [(b"c", False), (b"a", True)]),
        (5, [(b"b", True)]),
    ]
    deleted = rig.events[-1][1][0]
    assert (deleted.kv.mod_revision, deleted.prev.value, deleted.prev.lease) == (5, b"2", 1)


# --- leases ---


def test_a_revocation_deletes_its_keys_in_order_at_one_revision(rig: Any) -> None:
    rig.do(LeaseGrant(1, 10))
    for number in range(1_500):  # more than a page
        rig.do(Put(b"%05d" % (number * 7919 % 1_500), lease=1))
    rig.do(Put(b"00003"))  # detached
    revision = rig.machine.revision
    assert rig.do(LeaseRevoke(1)).revision == revision + 1
    keys = [event.kv.key for event in rig.events[-1][1]]
    assert keys == sorted(keys)
    assert len(keys) == 1_499
    assert rig.value(b"00003") is not None
    assert rig.do(LeaseGrant(2, 10)).revision == rig.do(LeaseRevoke(2)).revision


def test_an_expiry_looks_again(rig: Any) -> None:
    rig.do(LeaseGrant(1, 10))
    rig.do(LeaseGrant(2, 10))
    rig.do(Put(b"a", lease=1))
    rig.do(Put(b"b", lease=2))
    rig.clock_ms = 9_000
    assert rig.do(LeaseKeepAlive((2, 3))).ttls_s == (10, 0)
    rig.clock_ms = 10_000
    proposal = rig.machine.due(10_000)
    assert proposal == Expire((1,))
    assert rig.value(b"a") is not None
    result = rig.do(Expire((1, 2, 3, 1)))
    assert (result.leases, result.revision) == (1, 4)
    assert (rig.value(b"a"), rig.value(b"b")) == (None, b"")
    assert rig.machine.due(18_999) is None
    assert rig.machine.next_deadline_ms() == 19_000


def test_time_does_not_go_back(rig: Any) -> None:
    rig.clock_ms = 5_000
    rig.do(LeaseGrant(1, 10))
    rig.clock_ms = 0  # an entry without a clock, or of a leader that was behind
    rig.do(LeaseGrant(2, 10))
    assert rig.machine.leases.get(2).deadline_ms == 15_000


def test_what_is_left_of_a_lease_survives_a_restart(rig: Any) -> None:
    rig.do(LeaseGrant(1, 10))
    rig.do(Put(b"a", lease=1))
    rig.clock_ms = 4_000
    rig.do(Tick())
    rig.turn()
    rig.crash()
    assert rig.machine.clock_ms == 4_000
    assert rig.machine.leases.remaining_s(1, rig.machine.clock_ms) == 6
    assert rig.machine.lease_keys(1) == [b"a"]


# --- tokens ---


def test_a_retry_gets_the_first_answer_and_is_not_executed(rig: Any) -> None:
    token = Token(b"client", 1)
    first = rig.do(Put(b"a", b"1", want_previous=True), token)
    rig.do(Put(b"a", b"2"))
    rig.turn()
    assert rig.do(Put(b"a", b"1", want_previous=True), token) == first
    rig.crash()
    assert rig.do(Put(b"a", b"1", want_previous=True), token) == first
    assert (rig.value(b"a"), rig.machine.revision) == (b"2", 3)


def test_a_refusal_is_remembered_too(rig: Any) -> None:
    refused = rig.do(Put(b"a", lease=1), Token(b"c", 1))
    failed = rig.do(Cas(b"a", b"1", expected_revision=5), Token(b"c", 2))
    rig.do(LeaseGrant(1, 10))
    assert refused.code == "lease_not_found"
    assert rig.do(Put(b"a", lease=1), Token(b"c", 1)) == refused
    assert rig.do(Cas(b"a", b"1"), Token(b"c", 2)) == failed


def test_an_old_token_is_never_executed_again(rig: Any) -> None:
    rig.do(Put(b"a", b"1"), Token(b"c", 1))
    rig.clock_ms = RETENTION_MS
    rig.do(Tick())
    result = rig.do(Put(b"a", b"2"), Token(b"c", 1))
    assert (result.code, result.unknown) == ("token_too_old", True)
    assert "token too old: outcome unknown" in result.message
    assert rig.value(b"a") == b"1"
    rig.turn()
    rig.crash()
    assert rig.do(Put(b"a", b"2"), Token(b"c", 1)) == result


def test_an_answer_too_large_to_keep_leaves_a_note(rig: Any) -> None:
    token = Token(b"c", 1)
    rig.do(Put(b"a", b"x" * ANSWER_MAX_BYTES))
    first = rig.do(Delete(b"a", want_previous=True), token)
    assert first.deleted == 1
    again = rig.do(Delete(b"a", want_previous=True), token)
    assert (again.code, again.unknown, again.revision) == ("answer_not_kept", True, 3)


def test_bounds_hold_across_a_restart(rig_with: Callable[[Limits], Any]) -> None:
    rig = rig_with(Limits(clients=2))
    for client in (b"1", b"2", b"3"):
        rig.do(Put(b"k", client), Token(client, 1))
    rig.turn()
    rig.crash()
    assert rig.do(Put(b"k", b"again"), Token(b"1", 1)).code == "token_too_old"
    assert rig.value(b"k") == b"3"


# --- turns, crashes, snapshots ---


def busy(rig: Any) -> None:
    rig.do(LeaseGrant(1, 10), Token(b"c", 1))
    rig.do(Put(b"a", b"1", lease=1), Token(b"c", 2))
    rig.do(Put(b"b", b"2", ttl_ms=60_000))
    rig.clock_ms = 1_000
    rig.do(LeaseKeepAlive((1,)))
    rig.do(Delete(b"a"), Token(b"d", 1))
    rig.do(Put(b"a", b"3", ttl_ms=5))


def digest(rig: Any) -> Any:
    return ShardHash(rig.machine.view).step(rig.machine.view)


def test_operations_of_one_entry_share_its_index(rig: Any) -> None:
    for key in (b"a", b"b"):
        rig.machine.apply(7, encode(Put(key)))
    assert rig.machine.revision == 3
    assert rig.machine.shard.state.applied_index == 7
    with pytest.raises(AssertionError):
        rig.machine.apply(6, encode(Put(b"c")))


@pytest.mark.parametrize("turns_after", range(7))
def test_a_crash_anywhere_is_made_good_by_the_log(
    rig: Any, rig_with: Callable[[], Any], turns_after: int
) -> None:
    """After the last of them: nothing was written at all."""
    steady = rig_with()
    busy(steady)
    steady.turn()
    for number, payload in enumerate(steady.log):
        rig.apply(payload)
        if number == turns_after:
            rig.turn()
    rig.crash()
    rig.turn()
    assert rig.rows() == steady.rows()
    assert digest(rig) == digest(steady)


def test_nothing_to_write_writes_nothing(rig: Any) -> None:
    busy(rig)
    rig.turn()
    batch = Batch()
    rig.machine.prepare(batch)
    rig.machine.after_commit()
    assert len(batch) == 0


def test_a_snapshot_replaces_everything(rig: Any, rig_with: Callable[[], Any]) -> None:
    busy(rig)
    rig.turn()
    follower = rig_with()
    follower.do(Put(b"old"), Token(b"x", 1))
    follower.do(LeaseGrant(9, 10))
    follower.do(Put(b"stale", ttl_ms=7))
    follower.turn()
    follower.do(Put(b"never written"))
    follower.machine.reset()
    batch = Batch()
    for start, end in follower.machine.owned_ranges():
        batch.delete_range(start, end)
    for key, value in rig.rows().items():
        batch.put(key, value)
    follower.engine.write(batch, sync=True)
    follower.machine.restored(len(rig.log))
    assert follower.rows() == rig.rows()
    assert digest(follower) == digest(rig)
    assert follower.machine.clock_ms == rig.machine.clock_ms
    assert follower.machine.due(99_000) == rig.machine.due(99_000)
    follower.log = list(rig.log)
    for replica in (rig, follower):
        replica.clock_ms = 61_000
        assert replica.do(Put(b"a", b"1", lease=1), Token(b"c", 2)).revision == 2
        replica.do(replica.machine.due(61_000))
        replica.turn()
    assert follower.rows() == rig.rows()
    assert rig.value(b"b") is None


def test_owned_ranges_do_not_overlap_and_hold_every_row(rig: Any) -> None:
    busy(rig)
    rig.turn()
    ranges = rig.machine.owned_ranges()
    assert all(end <= start for (_, end), (start, _) in pairwise(ranges))
    with rig.engine.snapshot() as snapshot:
        assert dict(snapshot.scan().items) == rig.rows()


def test_a_replica_ahead_of_its_group_is_refused(rig: Any) -> None:
    busy(rig)
    rig.turn()
    with pytest.raises(ReplicaAheadError, match="restore this replica"):
        rig.machine.restored(1)
