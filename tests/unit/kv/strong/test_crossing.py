"""Transactions over several shards, step by step: what is locked, decided, answered."""

from __future__ import annotations

from typing import Any

import pytest

from kv.errors import UnavailableError
from kv.router import CrossShardError
from kv.strong.crossing import clear, settle, vouch
from raftgroups.commands import (
    TO_THE_END,
    BatchWrite,
    Cas,
    Compare,
    CompareTarget,
    Comparison,
    Delete,
    Expire,
    Increment,
    LeaseGrant,
    LeaseRevoke,
    Put,
    Range,
    SetTtl,
    SortOrder,
    Token,
    Txn,
)
from raftgroups.refusals import AnswerNotKeptError, LockedError, NotAnIntegerError
from raftgroups.results import CrossResult, TxnStatus
from raftgroups.twophase import YOUNGEST
from tests.unit.kv.strong.crossing_world import Drive, Ground, World, crossing, run

ALL = (b"\x00", TO_THE_END)


@pytest.fixture
def world() -> World:
    return World(b"h", b"p")


@pytest.fixture
def ground(world: World) -> Ground:
    return Ground(world, b"coordinator")


def until_locked(drive: Drive, world: World, shards: int) -> None:
    """Until so many shards hold a part of it."""
    while sum(bool(machine.intents) for machine in world.machines.values()) < shards:
        assert not drive.ended
        drive.step()


def begun(ground: Ground, command: Any, shards: int, **more: Any) -> Drive:
    drive = Drive(ground, crossing(ground, command, **more).run())
    until_locked(drive, ground.world, shards)
    return drive


TWO = BatchWrite((Put(b"a", b"1"), Put(b"z", b"2")))


# --- what it answers ----------------------------------------------------------------------------


def test_a_batch_of_two_shards_is_done_in_both(world: World, ground: Ground) -> None:
    answer = run(ground, TWO)
    assert isinstance(answer, CrossResult)
    assert answer.result.failed == -1
    assert [each.revision for each in answer.result.results] == [2, 2]
    assert answer.seen == ((b"", 2), (b"p", 2))
    assert (world.value(b"a"), world.value(b"z")) == (b"1", b"2")
    assert not world.locked


def test_a_transaction_reads_what_it_wrote_and_cuts_its_ranges(
    world: World, ground: Ground
) -> None:
    for key in (b"b", b"i", b"q", b"y"):
        world.do(Put(key, key))
    first = Compare(b"i", target=CompareTarget.VALUE, operand=b"i")
    some = Compare(b"a", b"z", CompareTarget.CREATE, Comparison.GREATER, 0)
    txn = Txn(
        (first, some),
        (
            Put(b"c", b"new"),
            Range(*ALL, limit=3),
            Delete(b"h", b"z", want_previous=True),
            Range(*ALL, sort_order=SortOrder.DESCEND),
        ),
    )
    result = run(ground, txn).result
    assert result.succeeded
    _, three, gone, rest = result.responses
    assert [item.key for item in three.items] == [b"b", b"c", b"i"]
    assert (three.more, three.count) == (True, 5)
    assert (gone.deleted, [each.key for each in gone.previous]) == (3, [b"i", b"q", b"y"])
    assert [item.key for item in rest.items] == [b"c", b"b"]
    assert world.value(b"q") is None


@pytest.mark.parametrize(
    ("compare", "holds"),
    [
        (Compare(b"h", b"zz", CompareTarget.CREATE, Comparison.GREATER, 0), True),
        (Compare(b"a", b"zz", CompareTarget.VERSION, Comparison.EQUAL, 1), True),
        (Compare(b"a", b"zz", CompareTarget.VERSION, Comparison.GREATER, 1), False),
        (Compare(b"c", b"d", CompareTarget.CREATE, Comparison.EQUAL, 0), True),
        (Compare(b"c", b"d", CompareTarget.VALUE, Comparison.NOT_EQUAL, b"x"), False),
    ],
)
def test_a_compared_range_is_one_whatever_shards_it_lies_in(
    world: World, ground: Ground, compare: Compare, holds: bool
) -> None:
    for key in (b"b", b"q"):  # nothing in the middle shard
        world.do(Put(key))
    txn = Txn((compare,), (Put(b"a1"), Put(b"z1")), (Put(b"a2"), Put(b"z2")))
    assert run(ground, txn).result.succeeded == holds
    assert (world.value(b"a1") is not None) == holds == (world.value(b"z2") is None)


def test_a_condition_that_does_not_hold_changes_nothing(world: World, ground: Ground) -> None:
    world.do(Put(b"z", b"old"))
    batch = BatchWrite((Put(b"a"), Increment(b"i"), Cas(b"z", b"new", expected_value=b"other")))
    result = run(ground, batch).result
    assert result.failed == 2
    assert result.results[0].current.value == b"old"
    assert world.value(b"a") is world.value(b"i") is None
    assert not world.locked


def test_a_refused_operation_refuses_all(world: World, ground: Ground) -> None:
    world.do(Put(b"z", b"text"))
    assert isinstance(run(ground, BatchWrite((Put(b"a"), Increment(b"z")))), NotAnIntegerError)
    assert world.value(b"a") is None
    assert not world.locked


@pytest.mark.parametrize(
    "command",
    [
        Txn((), (Put(b"a", lease=4), Put(b"z"))),
        Txn((), (Txn((), (Put(b"a"),)), Put(b"z"))),
        Txn((), (Range(b"a", revision=3), Put(b"z"))),
        BatchWrite((Cas(b"a", b"", lease=4), Put(b"z"))),
    ],
)
def test_what_it_cannot_have_is_refused_before_anything(
    world: World, ground: Ground, command: Any
) -> None:
    assert isinstance(run(ground, command), CrossShardError)
    assert not world.locked


def test_one_that_only_reads_is_a_snapshot(world: World, ground: Ground) -> None:
    run(ground, TWO)
    result = run(ground, Txn((), (Range(b"a"), Range(b"z")))).result
    assert [each.items[0].value for each in result.responses] == [b"1", b"2"]
    assert not world.locked
    assert {m.revision for m in world.machines.values()} == {1, 2}


# --- what locks do to others --------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        Put(b"z"),
        Delete(b"z"),
        Delete(b"q", TO_THE_END),
        Cas(b"z", b""),
        Increment(b"z"),
        SetTtl(b"z", 5),
        Txn((), (Range(b"z"),), (Put(b"y"),)),
        Txn((Compare(b"z"),), (Put(b"y"),)),
        BatchWrite((Put(b"y"), Put(b"z"))),
    ],
)
def test_what_meets_a_written_key_is_refused_until_it_is_resolved(
    world: World, ground: Ground, command: Any
) -> None:
    drive = begun(ground, TWO, 2)
    token = Token(b"client", 1)
    refused = world.do(command, token)
    assert isinstance(refused, LockedError)
    assert [holder.client for holder in refused.holders] == [b"coordinator"]
    assert world.machines[3].revision == 1, "a Prepare takes no revision"
    assert not isinstance(world.do(Put(b"y0")), LockedError)
    drive.run()
    assert not isinstance(world.do(command, token), LockedError), "a refusal is not remembered"


def test_a_read_key_may_be_read_but_not_written(world: World, ground: Ground) -> None:
    drive = begun(ground, Txn((Compare(b"a"),), (Put(b"z"),)), 2)
    assert not isinstance(world.do(Txn((), (Range(b"a"), Put(b"b")))), LockedError)
    assert isinstance(world.do(Put(b"a")), LockedError)
    drive.run()


def test_a_compared_range_takes_no_new_key(world: World, ground: Ground) -> None:
    """No phantoms."""
    drive = begun(ground, Txn((Compare(b"b", b"f"),), (Put(b"z"),)), 2)
    assert isinstance(world.do(Put(b"c")), LockedError)
    assert not isinstance(world.do(Put(b"f")), LockedError)
    drive.run()


def test_expiry_passes_locked_keys_by(world: World, ground: Ground) -> None:
    world.do(LeaseGrant(7, 5))
    world.do(Put(b"a", lease=7))
    world.do(Put(b"b", ttl_ms=10))
    world.do(Put(b"c", ttl_ms=10))
    drive = begun(ground, BatchWrite((Put(b"a"), Put(b"b"), Put(b"z"))), 2)
    assert isinstance(world.do(LeaseRevoke(7)), LockedError)
    world.clock_ms += 6_000
    expired = world.do(Expire((7,), (b"b", b"c")))
    assert (expired.leases, expired.keys) == (0, 1)
    drive.run()
    expired = world.do(Expire((7,), (b"b",)))
    assert (expired.leases, expired.keys) == (1, 0), "the put ended the TTL"
    assert world.value(b"a") == world.value(b"b") == b""


# --- deadlock, death ----------------------------------------------------------------------------


def test_the_older_one_wounds_and_the_younger_one_waits(world: World, ground: Ground) -> None:
    other = Ground(world, b"other")
    old = Drive(ground, crossing(ground, TWO).run())
    world.clock_ms += 1
    turned = BatchWrite((Put(b"z", b"young"), Put(b"a", b"young")))
    young = begun(other, turned, 1)  # holds z
    while not old.ended:
        old.step()
    assert isinstance(old.answer, CrossResult)
    assert world.value(b"z") == b"2"
    assert isinstance(young.run(), CrossResult), "it began anew"
    assert world.value(b"a") == world.value(b"z") == b"young"


def test_a_younger_one_does_not_get_past_an_older_one(world: World, ground: Ground) -> None:
    old = begun(ground, TWO, 2)
    world.clock_ms += 1
    other = Ground(world, b"other")
    young = Drive(other, crossing(other, BatchWrite((Put(b"z", b"3"), Put(b"i")))).run())
    for _ in range(20):
        young.step()
    assert not young.ended
    assert isinstance(old.run(), CrossResult)
    assert isinstance(young.run(), CrossResult)
    assert world.value(b"z") == b"3"


def test_locks_of_a_dead_coordinator_end_with_their_time(world: World, ground: Ground) -> None:
    begun(ground, TWO, 2)  # and never heard of again
    (holder,) = world.do(Put(b"z")).holders
    assert Drive(ground, settle(holder, b"z", YOUNGEST)).run() == TxnStatus.PENDING
    world.clock_ms += 11_000
    ground.deadline_ms += 11_000
    assert Drive(ground, settle(holder, b"z", YOUNGEST)).run() == TxnStatus.GONE
    assert not isinstance(world.do(Put(b"z")), LockedError)
    assert not world.locked


def test_a_committed_one_is_finished_by_others(world: World, ground: Ground) -> None:
    drive = begun(ground, TWO, 2)
    while world.value(b"a") is None:  # decided, not resolved
        drive.step()
    (holder,) = world.do(Put(b"z")).holders
    Drive(ground, clear(holder, b"z", YOUNGEST)).run()
    assert world.value(b"z") == b"2"
    assert not world.locked
    assert drive.run().seen == ((b"", 2), (b"p", 2)), "its own coordinator still gets the answer"


def test_an_aborted_one_cannot_be_decided(world: World, ground: Ground) -> None:
    drive = begun(ground, TWO, 2)
    (holder,) = world.do(Put(b"z")).holders
    older = (0, b"", 0)
    assert Drive(ground, settle(holder, b"z", older)).run() == TxnStatus.GONE
    made = drive.run()
    assert isinstance(made, CrossResult), "by another attempt"
    assert {txn.number for m in world.machines.values() for txn in ()} == set()
    assert (world.value(b"a"), world.value(b"z")) == (b"1", b"2")


def test_waiting_has_an_end(world: World, ground: Ground) -> None:
    begun(ground, TWO, 2)
    world.clock_ms += 1
    other = Ground(world, b"other", deadline_ms=world.clock_ms + 100)
    young = Drive(other, crossing(other, BatchWrite((Put(b"b"), Put(b"z", b"3")))).run())
    for _ in range(20):
        young.step()
    world.clock_ms += 200
    assert isinstance(young.run(), UnavailableError)
    assert not isinstance(world.do(Put(b"b")), LockedError)


# --- reads --------------------------------------------------------------------------------------


def test_a_read_that_met_a_lock_is_good_only_if_it_is_pending(world: World, ground: Ground) -> None:
    drive = begun(ground, TWO, 2)
    met = world.machines[3].intents.written_in((b"z", b"z\x00"))
    assert met
    assert not world.machines[3].intents.written_in((b"q", b"r"))
    assert Drive(ground, vouch(met, b"z")).run() is True
    while world.value(b"a") is None:
        drive.step()
    assert Drive(ground, vouch(met, b"z")).run() is False
    assert world.value(b"z") == b"2"
    drive.run()
    assert Drive(ground, vouch(met, b"z")).run() is False, "gone may mean: committed, and over"


# --- tokens -------------------------------------------------------------------------------------


def test_a_retry_answers_what_the_first_try_did(world: World, ground: Ground) -> None:
    batch = BatchWrite((Increment(b"a"), Increment(b"z")))
    asked = Token(b"client", 9)
    first = run(ground, batch, asked)
    assert run(Ground(world, b"other"), batch, asked) == first
    assert world.do(Put(b"a"), asked) == first, "also where it is one shard's by now"
    assert world.value(b"a") == world.value(b"z") == b"1"


def test_a_retry_beside_the_first_try_waits_for_it(world: World, ground: Ground) -> None:
    batch = BatchWrite((Increment(b"a"), Increment(b"z")))
    asked = Token(b"client", 9)
    first = begun(ground, batch, 2, asked=asked)
    again = Ground(world, b"other")
    second = Drive(again, crossing(again, batch, asked).run())
    for _ in range(10):
        second.step()
    assert not second.ended
    first.run()
    assert isinstance(second.run(), AnswerNotKeptError), "nobody has finished the first"
    assert world.value(b"a") == world.value(b"z") == b"1"


def test_a_retry_that_runs_out_of_time_does_not_say_that_nothing_was_done(
    world: World, ground: Ground
) -> None:
    """`januskv sim --seed 7 --seconds 20 --faults all,splits,merges,bank`."""
    asked = Token(b"client", 9)
    first = begun(ground, TWO, 2, asked=asked)
    while world.value(b"a") is None:
        first.step()
    again = Ground(world, b"other")
    second = Drive(again, crossing(again, TWO, asked).run())
    for _ in range(4):
        second.step()
    assert not second.ended
    world.clock_ms = again.deadline_ms + 1
    assert isinstance(second.run(), AnswerNotKeptError)


# --- splits, merges, restarts -------------------------------------------------------------------


def test_locks_and_parts_are_cut_by_a_split(world: World, ground: Ground) -> None:
    for key in (b"q", b"s", b"u"):
        world.do(Put(key))
    drive = begun(ground, Txn((), (Put(b"a"), Delete(b"q", TO_THE_END))), 2)
    assert world.split(b"s")
    assert isinstance(world.do(Put(b"r")), LockedError)
    assert isinstance(world.do(Put(b"x")), LockedError)
    result = drive.run().result
    assert result.responses[1].deleted == 3
    assert world.value(b"q") is world.value(b"u") is None
    assert not isinstance(world.do(Put(b"x")), LockedError)


def test_a_record_goes_with_its_anchor(world: World, ground: Ground) -> None:
    drive = begun(ground, BatchWrite((Put(b"f"), Put(b"z"))), 2)
    assert world.split(b"c")
    assert isinstance(drive.run(), CrossResult)
    assert world.value(b"f") == world.value(b"z") == b""


def test_a_merge_unites_parts_of_one_transaction(world: World, ground: Ground) -> None:
    for key in (b"c", b"k"):
        world.do(Put(key))
    made = crossing(ground, Txn((), (Delete(b"b", b"m"), Put(b"z"))))
    drive = Drive(ground, made.run())
    until_locked(drive, world, 3)
    world.clock_ms += 5
    world.merge(1)
    assert isinstance(world.do(Put(b"k")), LockedError)
    result = drive.run().result
    assert result.responses[0].deleted == 2
    assert made.after is not None
    Drive(ground, made.after).run()
    assert not world.locked


def test_locks_and_records_outlive_a_restart(world: World, ground: Ground) -> None:
    drive = begun(ground, TWO, 2)
    world.reopen()
    assert isinstance(world.do(Put(b"z")), LockedError)
    assert isinstance(drive.run(), CrossResult)
    world.reopen()
    assert (world.value(b"a"), world.value(b"z")) == (b"1", b"2")
