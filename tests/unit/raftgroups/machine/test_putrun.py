"""Plain puts of an entry as a run: the same as each by itself, whatever stands between them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest

from raftgroups.commands import (
    CLOCK_MAX_MS,
    Delete,
    Freeze,
    LeaseGrant,
    Piece,
    Prepare,
    Put,
    Resolve,
    SetTtl,
    Split,
    Thaw,
    Token,
    decode,
    encode,
)
from raftgroups.machine import ShardMachine
from raftgroups.machine_parts import ShardPlace
from raftgroups.putrun import plain_puts
from raftgroups.refusals import NewerCommandError, UnknownCommandError
from raftgroups.results import Failure, PutResult
from raftgroups.txnref import TxnRef
from storage.clock import ManualClock
from storage.engine import Batch
from storage.latest import Latest
from storage.memory import MemoryEngine

HEAD = 18


def random_put(rng: Random) -> Put:
    return Put(
        rng.randbytes(rng.choice([0, 1, 5, 31, 32, 40, 255, 256, 433])),
        rng.randbytes(rng.choice([0, 1, 31, 32, 128, 255] * 4 + [256, 66_000])),
        want_previous=rng.random() < 0.5,
    )


def odd(rng: Random, put: Put, payload: bytes) -> bytes:
    """Bytes that may or may not be a put."""
    cut = rng.randrange(len(payload))
    flipped = bytearray(payload)
    flipped[rng.choice([rng.randrange(min(30, len(payload))), -1 - rng.randrange(8)])] ^= 1 << (
        rng.randrange(8)
    )
    fields: list[Any] = [1, *msgspec.structs.astuple(put)]
    fields[rng.randrange(len(fields))] = rng.choice([0, 1, -1, True, None, b"", "x", 2**63, 0.0])
    return rng.choice(
        [
            payload[:cut],
            bytes(flipped),
            payload + b"\x00",
            payload[:HEAD] + msgspec.msgpack.encode(fields),
            payload[:HEAD] + msgspec.msgpack.encode(fields[: rng.randrange(1, 8)]),
            encode(put, Token(b"c", 1), 5, 6),
            encode(msgspec.structs.replace(put, lease=1), None, 5, 6),
            encode(msgspec.structs.replace(put, ttl_ms=1), None, 5, 6),
            encode(msgspec.structs.replace(put, ignore_value=True), None, 5, 6),
            encode(msgspec.structs.replace(put, ignore_lease=True), None, 5, 6),
            encode(Delete(put.key), None, 5, 6),
        ]
    )


def test_what_is_taken_is_what_the_command_says() -> None:
    rng = Random(7)
    taken = passed = 0
    for _ in range(2_000):
        put = random_put(rng)
        clock_ms, wall_ms = rng.choice([0, 1, CLOCK_MAX_MS]), rng.choice([0, 1, CLOCK_MAX_MS])
        payload = encode(put, None, clock_ms, wall_ms)
        expected = [(put.key, put.value, wall_ms, put.want_previous)]
        assert plain_puts([payload]) == (expected, clock_ms)
        payload = odd(rng, put, payload)
        puts, latest_ms = plain_puts([payload])
        if not puts:
            passed += 1
            continue
        taken += 1
        command, token, clock_ms, wall_ms = decode(payload)
        assert token is None
        assert isinstance(command, Put)
        assert command == Put(command.key, command.value, want_previous=command.want_previous)
        assert puts == [(command.key, command.value, wall_ms, command.want_previous)]
        assert latest_ms == clock_ms
    assert taken > 80
    assert passed > 1_000


def test_a_run_ends_before_what_is_no_plain_put() -> None:
    plain = [encode(Put(b"%d" % number), None, 9 - number, number) for number in range(6)]
    entry = [*plain[:3], encode(Delete(b"1")), *plain[3:]]
    assert plain_puts(entry) == ([(b"%d" % n, b"", n, False) for n in range(3)], 9)
    assert plain_puts(entry, 3) == ([], 0)
    assert plain_puts(entry, 4) == ([(b"%d" % n, b"", n, False) for n in range(3, 6)], 6)
    assert plain_puts([]) == ([], 0)


class Side:
    """One machine, and what its observer was told."""

    def __init__(self, start: bytes = b"") -> None:
        self.engine = MemoryEngine()
        self.told: list[tuple[int, list[bytes]]] = []
        place = ShardPlace(group=1, shard=1, keyspace=7, segment=3, start=start)
        self.machine = ShardMachine(
            Latest(self.engine, ManualClock()),
            place,
            observer=lambda revision, bodies: self.told.append((revision, list(bodies))),
        )
        self.machine.restored(0)

    def state(self) -> Any:
        batch = Batch()
        self.machine.prepare(batch)
        self.engine.write(batch, sync=True)
        self.machine.after_commit()
        with self.engine.snapshot() as rows:
            return rows.scan().items, self.told, self.machine.clock_ms


@pytest.fixture
def both() -> Callable[..., list[Any]]:
    """Answers of entries, each at once, which are those of their operations one by one."""

    def apply(*entries: list[bytes], start: bytes = b"") -> list[Any]:
        run, single = Side(start), Side(start)
        answers: list[Any] = []
        for index, payloads in enumerate(entries, 1):
            found = run.machine.apply_each(index, payloads)
            assert found == [single.machine.apply(index, payload) for payload in payloads]
            answers += found
            if index % 2:
                assert run.state() == single.state()
        assert run.state() == single.state()
        return answers

    return apply


def test_puts_of_one_key_see_each_other(both: Callable[..., list[Any]]) -> None:
    puts = [encode(Put(b"k", b"%d" % n, want_previous=True), None, 5, 70 - n) for n in range(40)]
    answers = both(puts[:20], puts[20:])
    assert answers[0] == PutResult(2, None, 70)
    for number, answer in enumerate(answers[1:], 1):
        assert answer.revision == number + 2
        assert answer.previous.value == b"%d" % (number - 1)
        assert answer.previous.version == number
        assert answer.modified_ms == 70 - number


def test_a_refused_put_is_alone(both: Callable[..., list[Any]]) -> None:
    keys = [b"c", b"a", b"", b"d", b"x" * 433, b"b", b"e"]
    answers = both([encode(Put(key)) for key in keys], start=b"b")
    assert [getattr(answer, "code", None) for answer in answers] == [
        *(None, "wrong_shard", "empty_key", None, "key_too_long", None, None)
    ]
    assert [answer.revision for answer in answers] == [2, 2, 2, 3, 3, 4, 5]


def test_a_key_of_a_lease_is_taken_off_it(both: Callable[..., list[Any]]) -> None:
    leased = [encode(LeaseGrant(5, 10)), *(encode(Put(key, b"l", 5)) for key in (b"a", b"c"))]
    again = [encode(Put(key, b"n", want_previous=True)) for key in (b"a", b"b", b"c", b"a")]
    answers = both(leased, again)[3:]
    assert [answer.revision for answer in answers] == [4, 5, 6, 7]
    assert [answer.previous and answer.previous.lease for answer in answers] == [5, None, 5, 0]


def test_a_deleted_key_begins_again(both: Callable[..., list[Any]]) -> None:
    again = Put(b"a", b"2", want_previous=True)
    entry = [encode(Put(b"a")), encode(Delete(b"a")), encode(again), encode(again)]
    answers = both([*entry, encode(SetTtl(b"a", 50)), encode(again)], entry)
    assert answers[2].previous is None
    assert answers[3].previous.version == 1


def test_a_run_ends_where_the_shard_gets_smaller(both: Callable[..., list[Any]]) -> None:
    puts = [encode(Put(key)) for key in (b"a", b"z")]
    answers = both([*puts, encode(Split(b"m", 2, 8, 9)), *puts, *puts])
    assert [isinstance(answer, Failure) for answer in answers] == [
        *(False, False, False, False, True, False, True)
    ]


def test_a_frozen_shard_takes_none(both: Callable[..., list[Any]]) -> None:
    puts = [encode(Put(key), None, 50) for key in (b"m", b"z")]
    entry = [*puts, encode(Freeze(4, 1), None, 60), *puts, encode(Thaw(1), None, 70), *puts]
    answers = both(entry, start=b"m")
    assert [getattr(answer, "code", None) for answer in answers] == [
        *(None, None, None, "wrong_shard", "wrong_shard", None, None, None)
    ]


def test_a_locked_key_is_not_put(both: Callable[..., list[Any]]) -> None:
    txn = TxnRef(b"c", 1, 5, b"a")
    puts = [encode(Put(key), None, 50) for key in (b"a", b"b")]
    lock = encode(Prepare(txn, (Piece(0, True, Put(b"a")),), lifetime_ms=900), None, 50)
    free = encode(Resolve(txn, False, False, b"a"), None, 60)
    answers = both([*puts, lock, *puts, free, *puts])
    assert [getattr(answer, "code", None) for answer in answers] == [
        *(None, None, None, "locked", None, None, None, None)
    ]


def test_a_run_raises_the_clock_to_its_latest() -> None:
    side = Side()
    for index, clocks in enumerate(((5, 9, 7), (8, 3), (0, 11)), 1):
        side.machine.apply_each(index, [encode(Put(b"a"), None, clock) for clock in clocks])
        assert side.machine.clock_ms == max(9, *clocks)
    side.machine.apply(4, encode(Put(b"a"), None, 12))
    assert side.machine.clock_ms == 12


def test_what_stands_behind_a_newer_command_is_not_applied() -> None:
    side = Side()
    newer = b"\x09" + encode(Put(b"b"))[1:]
    with pytest.raises(NewerCommandError):
        side.machine.apply_each(1, [encode(Put(b"a")), newer, encode(Put(b"c"))])
    assert side.machine.revision == 2


def test_bytes_that_are_no_command_are_refused_alone(both: Callable[..., list[Any]]) -> None:
    put = encode(Put(b"a"))
    answers = both([put, b"", put[:19], put, put + b"\x00", put])
    assert [getattr(answer, "code", None) for answer in answers] == [
        *(None, UnknownCommandError.code, UnknownCommandError.code),
        *(None, UnknownCommandError.code, None),
    ]


def test_an_entry_without_operations_does_nothing() -> None:
    side = Side()
    assert side.machine.apply_each(4, []) == []
    assert side.machine.shard.state.applied_index == 0
