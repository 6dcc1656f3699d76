"""Forwarded writes at the leader: a frame's are looked at together, and end as each would alone."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kv.division.meter import Meter
from kv.metrics.instruments import Counter
from kv.metrics.metrics import Proposals
from kv.strong.admission import PLAIN_BYTES
from kv.strong.gate import Gate
from kv.strong.machine import ServedMachine
from kv.strong.operations import Write
from kv.strong.shard import ShardSettings, StrongShard
from raftgroups.commands import (
    VERSION,
    Delete,
    Put,
    Split,
    Thaw,
    Token,
    decode,
    encode,
    open_envelope,
    stamp,
)
from raftgroups.levels import LINEAGE_LEVEL
from raftgroups.machine_parts import ShardPlace
from raftgroups.outcomes import AppliedEach, EachResult, Refused
from raftgroups.results import Failure, PutResult
from storage.errors import NoSpaceError
from storage.latest import Latest
from storage.memory import MemoryEngine
from storage.space import SpaceGuard

PUTS = [encode(Put(b"key%d" % number, b"v" * number)) for number in range(5)]
ODD = {
    "a put with a token": encode(Put(b"t"), Token(b"c", 1)),
    "a put under a lease": encode(Put(b"l", lease=7)),
    "stamped": stamp(encode(Put(b"s")), 5, 6),
    "another command": encode(Delete(b"d")),
    "without a key": encode(Put(b"")),
    "a long key": encode(Put(b"k" * (PLAIN_BYTES + 1))),
    "a large value": encode(Put(b"k", b"v" * PLAIN_BYTES)),
    "of splits": encode(Split(b"m", 2, 2, 2)),
    "garbage": b"\x01" + bytes(17) + b"\xff\xff",
    "too short": b"\x01",
    "of a newer program": bytes((VERSION + 1,)) + bytes(20),
}


class Rig:
    def __init__(self, loop: Any, *, level: int = LINEAGE_LEVEL) -> None:
        self.loop = loop
        self.machine = ServedMachine(Latest(MemoryEngine(), loop.clock), ShardPlace(1, 1, 3, 1))
        self.runs: list[list[bytes]] = []
        self.told: dict[int, EachResult] = {}
        self.guard = SpaceGuard(1000)
        group = SimpleNamespace(group_id=1, leader=None, leads=True, feature_level=level)
        group.propose_each = lambda payloads, askers, done: self.runs.append(list(payloads))
        self.gate = Gate(self.guard)
        self.shard = StrongShard(
            cast(Any, group),
            self.machine,
            cast(Any, None),
            scheduler=loop,
            clock=loop.clock,
            gate=self.gate,
            settings=ShardSettings(),
            meter=Meter(Random(1)),
        )

    def lead(self, payloads: Sequence[bytes]) -> None:
        def done(askers: Sequence[int], result: EachResult) -> None:
            for asker in askers:
                assert asker not in self.told
                self.told[asker] = result

        self.shard.lead_each(payloads, range(len(payloads)), done)
        assert not self.told, "never from inside the call"
        self.loop.run()

    def left(self, available_bytes: int) -> None:
        self.guard.observe(
            cast(Any, SimpleNamespace(disk_free_bytes=available_bytes, reusable_bytes=0))
        )


def test_puts_of_a_frame_are_proposed_together(loop: Any) -> None:
    rig = Rig(loop)
    rig.lead(PUTS)
    assert (rig.runs, rig.told) == ([PUTS], {})


@pytest.mark.parametrize("odd", ODD)
def test_whatever_else_a_frame_has_ends_as_it_would_alone(loop: Any, odd: str) -> None:
    alone, together = Rig(loop, level=1), Rig(loop, level=1)
    alone.lead([ODD[odd]])
    together.lead([*PUTS[:2], ODD[odd], *PUTS[2:]])
    assert [*together.told.values()] == [*alone.told.values()]
    (run,) = together.runs
    assert run == [*PUTS[:2], *(alone.runs[0] if alone.runs else []), *PUTS[2:]]


def test_writes_are_counted_against_the_space_that_is_left(loop: Any) -> None:
    rig = Rig(loop)
    sizes = [len(payload) for payload in PUTS]
    rig.left(1000 + sum(sizes[:3]))
    rig.lead(PUTS)
    assert rig.runs == [PUTS[:3]], "those for which there is room"
    for asker in (3, 4):
        result = rig.told[asker]
        assert isinstance(result, AppliedEach)
        (failure,) = result.results
        assert isinstance(failure, Failure)
        assert failure.code == "no_space"
    rig.left(1000 + 2 * sum(sizes))
    rig.runs.clear()
    rig.told.clear()
    rig.lead(PUTS)
    assert rig.runs == [PUTS]
    assert rig.guard.available_bytes == 1000 + sum(sizes)


def test_a_full_peer_refuses_what_grows_and_nothing_else(loop: Any) -> None:
    rig = Rig(loop)
    rig.gate.full_peers = ("n2",)
    rig.lead([PUTS[0], ODD["another command"], PUTS[1]])
    assert rig.runs == [[ODD["another command"]]]
    assert sorted(rig.told) == [0, 2]


def test_a_frozen_shard_takes_nothing_but_what_thaws_it(loop: Any) -> None:
    rig = Rig(loop)
    rig.machine.shard.state.frozen_by = 9
    thaw = encode(Thaw(9))
    rig.lead([*PUTS, thaw])
    assert rig.runs == [[thaw]]
    results = [result for result in rig.told.values() if isinstance(result, AppliedEach)]
    assert [cast(Failure, each.results[0]).code for each in results] == ["wrong_shard"] * 5


def test_older_members_refuse_what_they_cannot_execute(loop: Any) -> None:
    rig = Rig(loop, level=1)
    rig.lead([ODD["of splits"]])
    assert isinstance(rig.told[0], Refused)
    assert rig.runs == []


def test_the_answers_of_a_run_are_each_writes_own(loop: Any) -> None:
    rig, answers = Rig(loop), list[Any]()
    rig.shard.tries = tries = Proposals(Counter(), Counter(), Counter())
    done = [lambda answer, number=n: answers.append((number, answer)) for n in range(4)]
    writes = [Write(rig.shard, each, 5.0, payload=PUTS[0], repeatable=False) for each in done]

    def broken(answer: Any) -> None:
        raise ValueError("a defect of the caller")

    writes[1].done = broken
    refusal = Failure(7, "invalid_request", "no")
    results = [PutResult(5), PutResult(6), refusal, NoSpaceError("full")]
    rig.shard.proposed_each(writes, AppliedEach(9, results))
    assert [number for number, _ in answers] == [0, 2, 3]
    assert answers[0][1] == PutResult(5)
    assert [str(answer) for _, answer in answers[1:]] == ["no", "full"]
    assert [each.value for each in tries] == [4, 0, 0]
    rig.shard.proposed_each(writes, AppliedEach(9, results))
    assert len(answers) == 3, "once each"


def test_a_defect_after_one_refusal_leaves_the_others_their_answers(loop: Any) -> None:
    rig, answers = Rig(loop), list[Any]()

    def broken(operation: Any, error: Any) -> None:
        raise ValueError("a defect of whoever takes over")

    rig.shard.on_moved = broken
    writes = [
        Write(rig.shard, answers.append, 5.0, payload=PUTS[0], repeatable=False) for _ in range(2)
    ]
    rig.shard.proposed_each(
        writes, AppliedEach(9, [Failure(7, "wrong_shard", "split"), PutResult(5)])
    )
    assert answers == [PutResult(5)]


def test_a_run_that_was_refused_is_tried_again_each(loop: Any) -> None:
    rig = Rig(loop)
    writes = [Write(rig.shard, print, 9.0, payload=each, repeatable=False) for each in PUTS]
    rig.shard.proposed_each(writes, Refused("moved"))
    assert list(rig.shard.waiting.parked) == writes
    loop.advance(0.05)
    assert rig.runs == [[payload] for payload in PUTS]


def test_an_entry_has_one_moment(loop: Any) -> None:
    rig = Rig(loop)
    loop.advance(3.0)
    first = rig.shard.stamped(PUTS)
    assert [decode(payload)[0] for payload in first] == [decode(payload)[0] for payload in PUTS]
    assert {open_envelope(payload)[1] for payload in first} == {int(loop.clock.wall() * 1000)}
    assert {open_envelope(payload)[0] for payload in first} == {0}, "it does not lead yet"
    rig.shard.duties.observe(settled=True)
    loop.advance(1.5)
    assert {open_envelope(payload)[0] for payload in rig.shard.stamped(PUTS)} == {1500}
