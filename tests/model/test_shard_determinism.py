"""Replicas that are fed one log agree, whatever falls between their entries.

From a seed comes a log of every kind of command, with clocks, tokens, nonsense and entries of
several operations, many of them plain puts that follow one another. Three replicas apply it: one
that applies each entry at once and writes after it; one that applies each operation by itself, and
writes and crashes at random; and one that cuts the entries at random and, half way, gets a snapshot
of the second in place of what it had. All results, rows, digests and the events that the observers
were told must be equal.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from raftgroups.commands import (
    BatchWrite,
    Cas,
    Compact,
    Compare,
    Delete,
    Expire,
    Increment,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseRevoke,
    Put,
    Range,
    SetTtl,
    Tick,
    Token,
    Txn,
    encode,
)
from raftgroups.dedupe import Limits
from raftgroups.machine import ShardMachine
from raftgroups.machine_parts import ShardPlace
from raftgroups.putrun import plain_puts
from storage.clock import ManualClock
from storage.engine import Batch
from storage.latest import Latest
from storage.memory import MemoryEngine
from storage.mvcc_hash import ShardHash

PLACE = ShardPlace(group=1, shard=1, keyspace=1, segment=1)
LIMITS = Limits(retention_ms=20_000, answers=40, answer_bytes=4_000, clients=4)
ENTRIES = 400


def make_log(rng: Random) -> list[list[bytes]]:
    """Entries, each a list of payloads."""
    clock_ms, log = 0, []
    for _ in range(ENTRIES):
        clock_ms += rng.choice([0, 1, 300, 2_000])
        payloads = []
        plain = rng.random() < 0.3
        for _ in range(rng.choice([1, 1, 1, 4, 9])):
            token = None
            if rng.random() < (0.1 if plain else 0.4):
                sequence = rng.randrange(30)
                settled = rng.choice([0, 0, 0, sequence])
                token = Token(b"%02d" % rng.randrange(clock_ms // 60_000 + 5), sequence, settled)
            stamp = rng.choice([clock_ms, clock_ms, 0, max(0, clock_ms - 500)])
            wall_ms = 2**41 - clock_ms if len(log) % 5 else 0  # goes back, or is not known
            command = make_put(rng) if plain and rng.random() < 0.9 else make_command(rng)
            payload = encode(command, token, stamp, wall_ms)
            if rng.random() < 0.02:
                payload = payload[: rng.randrange(len(payload))]
            payloads.append(payload)
        log.append(payloads)
    return log


def make_put(rng: Random) -> Put:
    """Plain, and refused now and then."""
    key = rng.choice([b"%c" % rng.randrange(97, 105)] * 20 + [b"", b"k" * 433])
    return Put(key, b"%d" % rng.randrange(9), want_previous=rng.random() < 0.3)


def make_command(rng: Random) -> Any:
    def key() -> bytes:
        return b"%c" % rng.randrange(97, 105)

    def put() -> Put:
        value = b"%d" % rng.randrange(9) if rng.random() < 0.9 else b"x" * 400
        keeps = rng.random() < 0.1
        return Put(
            key(),
            b"" if keeps else value,
            rng.choice([0, 0, 1, 2, 3]),
            rng.random() < 0.5,
            keeps,
            ttl_ms=rng.choice([0, 0, 500, 4_000]),
        )

    def delete() -> Delete:
        return Delete(key(), rng.choice([b"", b"", b"e", b"\x00"]), rng.random() < 0.5)

    def cas() -> Cas:
        return Cas(key(), rng.choice([None, b"1"]), rng.choice([-1, 0]), rng.choice([None, b"1"]))

    def txn(nested: bool = True) -> Txn:
        def side() -> tuple[Any, ...]:
            kinds = [put, delete, lambda: Range(key(), b"\x00", revision=rng.choice([0, 9]))]
            if nested:
                kinds.append(lambda: txn(nested=False))
            return tuple(rng.choice(kinds)() for _ in range(rng.randrange(3)))

        compare = Compare(key(), b"", rng.choice([0, 1, 2, 4]), rng.randrange(4), rng.randrange(4))
        return Txn((compare,), side(), side())

    leases = (rng.randrange(1, 5), rng.randrange(1, 5))
    some = [put, put, put, delete, cas, txn, txn, lambda: Increment(key(), rng.randrange(-2, 3))]
    rare = [
        lambda: BatchWrite(tuple(rng.choice([put, delete, cas])() for _ in range(3))),
        lambda: LeaseGrant(leases[0], rng.randrange(1, 20)),
        lambda: LeaseRevoke(leases[0]),
        lambda: LeaseKeepAlive(leases),
        lambda: Expire(leases, (key(), key(), key())),
        lambda: SetTtl(key(), rng.choice([0, 700])),
        lambda: Compact(rng.randrange(200)),
        lambda: Tick(),
    ]
    return rng.choice(some if rng.random() < 0.6 else rare)()


class Replica:
    def __init__(self) -> None:
        self.engine = MemoryEngine()
        self.results: dict[tuple[int, int], Any] = {}
        self.told: dict[int, list[bytes]] = {}
        self.open()

    def open(self) -> None:
        self.machine = ShardMachine(
            Latest(self.engine, ManualClock()), PLACE, observer=self.observe, limits=LIMITS
        )
        self.machine.restored(self.written)

    @property
    def written(self) -> int:
        return self.machine.shard.state.applied_index

    def observe(self, revision: int, bodies: Any) -> None:
        assert self.told.setdefault(revision, list(bodies)) == list(bodies)

    def apply(self, index: int, payloads: list[bytes], cuts: Iterable[int]) -> None:
        """In pieces that begin at 0 and at these places."""
        bounds = sorted({0, *cuts, len(payloads)})
        for first, end in pairwise(bounds):
            results = self.machine.apply_each(index, payloads[first:end])
            assert len(results) == end - first
            for place, result in enumerate(results, first):
                assert self.results.setdefault((index, place), result) == result

    def write(self) -> None:
        batch = Batch()
        self.machine.prepare(batch)
        self.engine.write(batch, sync=True)
        self.machine.after_commit()

    def finish(self) -> None:
        self.write()
        while self.machine.shard.sweep_pending or self.machine.shard.dirty:
            self.write()

    def rows(self) -> list[tuple[bytes, bytes]]:
        with self.engine.snapshot() as snapshot:
            return snapshot.scan().items

    def install(self, other: Replica, index: int) -> None:
        self.machine.reset()
        batch = Batch()
        for start, end in self.machine.owned_ranges():
            batch.delete_range(start, end)
        for key, value in other.rows():
            batch.put(key, value)
        self.engine.write(batch, sync=True)
        self.machine.restored(index)


@pytest.mark.parametrize("seed", range(8))
def test_replicas_agree(seed: int) -> None:
    rng = Random(seed)
    log = make_log(rng)
    steady, crashing, follower = Replica(), Replica(), Replica()
    for index, payloads in enumerate(log, 1):
        steady.apply(index, payloads, ())
        crashing.apply(index, payloads, range(len(payloads)))
        cuts = [rng.randrange(len(payloads)) for _ in range(rng.randrange(3))]
        steady.write()
        if rng.random() < 0.2:
            crashing.write()
        if rng.random() < 0.1:
            crashing.open()
            for again in range(crashing.written + 1, index + 1):
                crashing.apply(again, log[again - 1], range(len(log[again - 1])))
        if index < ENTRIES // 3:
            follower.apply(index, payloads, cuts)
        elif index == ENTRIES // 2:
            crashing.write()
            follower.install(crashing, index)
        elif index > ENTRIES // 2:
            follower.apply(index, payloads, cuts)
    replicas = (steady, crashing, follower)
    for replica in replicas:
        replica.finish()
    digests = {ShardHash(replica.machine.view).step(replica.machine.view) for replica in replicas}
    assert len(digests) == 1
    assert steady.rows() == crashing.rows() == follower.rows()
    assert steady.results == crashing.results
    assert follower.results.items() <= steady.results.items()
    assert steady.told == crashing.told
    assert follower.told.items() <= steady.told.items()
    # The log was worth it: most kinds of answers came up, tokens were forgotten early.
    codes = {getattr(result, "code", type(result).__name__) for result in steady.results.values()}
    assert {"TxnResult", "ExpireResult", "token_too_old", "CasResult", "BatchResult"} <= codes
    assert {"lease_not_found", "unknown_command", "compacted", "KeepAliveResult"} <= codes
    assert {"empty_key", "key_too_long"} <= codes
    runs = [len(plain_puts(payloads, at)[0]) for payloads in log for at in range(len(payloads))]
    assert max(runs) > 4
    assert steady.machine.dedupe.forgotten_early
    assert steady.machine.dedupe.forgotten
