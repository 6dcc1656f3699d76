"""When a key was last modified: the wall time of the entry, in its records, events and results.

It is information and no rule: the clock of leases and tokens is another one, and it may go back.
"""

from __future__ import annotations

from typing import Any

import pytest

from raftgroups.commands import (
    BatchWrite,
    Cas,
    Command,
    Compare,
    Delete,
    Expire,
    Increment,
    LeaseGrant,
    LeaseRevoke,
    Put,
    Range,
    SetTtl,
    Tick,
    Token,
    Txn,
    encode,
    stamp,
)
from raftgroups.dedupe import ANSWER_MAX_BYTES
from raftgroups.results import Failure, RangeAnswer, decode_result, encode_result

THEN = 2**41
NOW = THEN - 5_000
"""The leader's clock was set back."""


def modified_ms(rig: Any, key: bytes, revision: int = 0) -> int:
    record = rig.machine.view.get(key, revision)
    assert record is not None
    return int(record.modified_ms)


@pytest.fixture
def old(rig: Any) -> Any:
    """The key k was written then; what follows happens now."""
    rig.wall_ms = THEN
    rig.do(LeaseGrant(1, 60))
    rig.do(Put(b"k", b"1", lease=1))
    rig.wall_ms = NOW
    return rig


WRITES: list[Command] = [
    Put(b"k", b"2"),
    Put(b"k", b"2", lease=1, want_previous=True),
    Put(b"k", b"2", ttl_ms=9),
    Put(b"k", ignore_value=True),
    Put(b"k", b"2", ignore_lease=True),
    Increment(b"k"),
    Cas(b"k", b"2", expected_value=b"1"),
    BatchWrite((Put(b"a"), Increment(b"k"), Cas(b"b", b"2"))),
    Txn((), (Put(b"a"), Txn((), (Put(b"k", b"2"),)))),
    Txn((Compare(b"k", operand=7),), (), (Range(b"k"), Put(b"k", ignore_value=True))),
]


@pytest.mark.parametrize("command", WRITES, ids=str)
@pytest.mark.parametrize("turn", [False, True])
def test_every_write_sets_it(old: Any, command: Command, turn: bool) -> None:
    before = old.machine.view.get(b"k")
    result = old.do(command)
    if turn:
        old.turn()
    assert not isinstance(result, Failure), result
    assert result.modified_ms == NOW
    assert modified_ms(old, b"k") == NOW
    assert old.machine.view.get(b"k", before.mod_revision) == before
    assert before.modified_ms == THEN
    revision, events = old.events[-1]
    assert revision == result.revision
    assert {event.kv.modified_ms for event in events} == {NOW}
    assert [event.prev for event in events if event.kv.key == b"k"] == [before]
    assert decode_result(encode_result(result)) == result


def test_previous_records_tell_theirs(old: Any) -> None:
    assert old.do(Put(b"k", want_previous=True)).previous.modified_ms == THEN
    assert old.do(Delete(b"k", want_previous=True)).previous[0].modified_ms == NOW
    old.wall_ms = 0
    old.do(Put(b"k", b"3"))
    assert modified_ms(old, b"k") == 0, "no time is no time, not the last one"
    failed = old.do(Cas(b"k", b"4", expected_revision=1))
    assert (failed.current.value, failed.current.modified_ms) == (b"3", 0)


@pytest.mark.parametrize(
    "command",
    [
        Delete(b"k"),
        Delete(b"a", b"z"),
        Cas(b"k", None),
        Txn((), (Delete(b"k"),)),
        BatchWrite((Delete(b"k"),)),
    ],
    ids=str,
)
def test_a_delete_tells_when_it_was(old: Any, command: Command) -> None:
    assert old.do(command).modified_ms == NOW
    _, (event,) = old.events[-1]
    assert (event.is_delete, event.kv.modified_ms, event.prev.modified_ms) == (True, NOW, THEN)


def test_what_ends_by_itself_tells_when_it_was(old: Any) -> None:
    old.do(Put(b"short", ttl_ms=5))
    old.do(LeaseGrant(2, 1))
    old.do(Put(b"leased", lease=2))
    old.clock_ms, old.wall_ms = 10_000, NOW + 1
    old.do(Expire((2,), (b"short",)))
    old.wall_ms = NOW + 2
    old.do(LeaseRevoke(1))
    ends = [(event.kv.key, event.kv.modified_ms) for _, (event,) in old.events if event.is_delete]
    assert ends == [(b"leased", NOW + 1), (b"short", NOW + 1), (b"k", NOW + 2)]


@pytest.mark.parametrize(
    "command",
    [
        Cas(b"k", b"2", expected_revision=9),
        Cas(b"missing", None),
        Delete(b"missing"),
        BatchWrite((Put(b"k", b"2"), Cas(b"k", b"3", expected_revision=9))),
        Txn((), (Range(b"k"),)),
        Txn((), (Delete(b"missing"),)),
    ],
    ids=str,
)
def test_what_writes_nothing_has_no_time(old: Any, command: Command) -> None:
    assert old.do(command).modified_ms == 0
    assert modified_ms(old, b"k") == THEN


def test_a_key_is_not_modified_by_its_time_to_live_or_lease(old: Any) -> None:
    old.do(SetTtl(b"k", 500))
    old.do(Tick())
    assert modified_ms(old, b"k") == THEN


def test_reads_do_not_tell_of_the_last_entry(old: Any) -> None:
    answer = old.machine.read_txn(Txn((), (Range(b"k"),)))
    assert answer.modified_ms == 0
    (read,) = answer.responses
    assert isinstance(read, RangeAnswer)
    assert read.items[0].modified_ms == THEN
    assert old.machine.range(Range(b"k", keys_only=True)).items[0].modified_ms == THEN


def test_a_retry_is_answered_with_the_time_of_the_first_try(old: Any) -> None:
    commands = [Put(b"k", b"2"), Increment(b"n"), Cas(b"c", b"1"), BatchWrite((Put(b"b"),))]
    first = [old.do(command, Token(b"c", nth)) for nth, command in enumerate(commands)]
    assert {answer.modified_ms for answer in first} == {NOW}
    for written in (False, True):
        old.wall_ms += 1_000
        if written:
            old.turn()
            old.crash()
        again = [old.do(command, Token(b"c", nth)) for nth, command in enumerate(commands)]
        assert again == first
    assert modified_ms(old, b"k") == NOW


def test_a_token_of_a_large_answer_keeps_the_note(old: Any) -> None:
    old.do(Put(b"big", bytes(ANSWER_MAX_BYTES)))
    delete = Delete(b"big", want_previous=True)
    assert old.do(delete, Token(b"c", 1)).modified_ms == NOW
    assert old.do(delete, Token(b"c", 1)).code == "answer_not_kept"


def test_it_moves_no_clock(old: Any) -> None:
    """Leases, times to live and tokens go by the shard's clock alone."""
    old.do(Put(b"t", ttl_ms=1_000))
    old.wall_ms = THEN * 2
    old.do(Tick(), Token(b"c", 1))
    assert old.machine.clock_ms == 0
    assert old.machine.due(999) is None
    assert old.machine.leases.remaining_s(1, 0) == 60
    assert len(old.machine.dedupe) == 1


def test_the_leader_sets_it_in_forwarded_bytes(rig: Any) -> None:
    assert rig.apply(stamp(encode(Put(b"k"), Token(b"c", 1)), 700, NOW)).modified_ms == NOW
    assert (rig.machine.clock_ms, modified_ms(rig, b"k")) == (700, NOW)


def test_it_comes_back_from_the_disk_and_from_the_log(old: Any) -> None:
    old.do(Put(b"k", b"2"))
    old.turn()
    old.wall_ms = NOW + 7
    answer = old.do(Put(b"l"))
    told = list(old.events)
    old.crash()
    assert (modified_ms(old, b"k"), modified_ms(old, b"k", 2)) == (NOW, THEN)
    assert modified_ms(old, b"l") == answer.modified_ms == NOW + 7
    assert old.events[-1] == told[-1]
