"""The machine of group 0 over an engine: answers, rows, restarts."""

from __future__ import annotations

import pytest

from raftgroups.meta.commands import (
    BeginOperation,
    CreateLeaderless,
    PutNode,
    RemoveNode,
    SetReplicas,
    StepOperation,
    decode_answer,
    encode,
)
from raftgroups.meta.machine import REMEMBERED_MAX, MetaMachine
from raftgroups.meta.records import KeyspaceOptions, OperationRecord, RingRecord, RingSeat
from raftgroups.meta.view import MetaView
from raftgroups.refusals import NewerCommandError
from raftgroups.results import Failure, MetaAnswer, decode_result, encode_result
from storage.engine import Batch
from storage.latest import Latest
from storage.memory import MemoryEngine
from storage.system_clock import SystemClock
from tests.unit.raftgroups.meta.conftest import bootstrap, node


class Bench:
    def __init__(self) -> None:
        self.engine = MemoryEngine()
        self.index = 0
        self.machine = self.open()

    def open(self) -> MetaMachine:
        latest = Latest(self.engine, SystemClock())
        return MetaMachine(latest, latest.renew)

    def apply(self, payload: bytes) -> MetaAnswer | Failure:
        self.index += 1
        return self.machine.apply(self.index, payload)

    def commit(self) -> None:
        batch = Batch()
        self.machine.prepare(batch)
        self.engine.write(batch, sync=True)
        self.machine.after_commit()


def request(number: int) -> bytes:
    return number.to_bytes(16, "big")


def an_operation() -> tuple[Bench, StepOperation]:
    """One that began, and the command for another attempt at its step: each execution counts."""
    bench = Bench()
    bench.apply(encode(bootstrap(1)))
    operation = OperationRecord(0, "split", "begin", shards=(1,), key=b"9")
    bench.apply(encode(BeginOperation(operation, (1,), new_shards=1, new_segments=2)))
    return bench, StepOperation(1, "begin", "begin")


def attempts(bench: Bench) -> int:
    return bench.machine.view.operations[1].attempts


def test_what_was_committed_is_there_after_a_restart() -> None:
    bench = Bench()
    bench.apply(encode(bootstrap(3)))
    bench.apply(encode(PutNode(node("d", 14))))
    bench.commit()
    bench.apply(encode(CreateLeaderless("x", KeyspaceOptions(), (RingSeat("a", 16),))))
    assert bench.open().view.ring is None
    bench.commit()
    assert bench.open().view.ring == RingRecord((RingSeat("a", 16),))
    bench.apply(encode(RemoveNode("d")))
    assert bench.open().view.nodes.keys() == {"a", "b", "c", "d"}
    bench.commit()
    again = bench.open()
    again.restored(bench.index)
    assert again.view == bench.machine.view
    assert again.view.nodes.keys() == {"a", "b", "c"}


def test_asking_again_does_nothing_twice() -> None:
    bench, again = an_operation()
    payload = encode(again, request(7))
    first = bench.apply(payload)
    bench.commit()
    bench.machine = bench.open()
    second = bench.apply(payload)
    assert isinstance(first, MetaAnswer)
    assert isinstance(second, MetaAnswer)
    assert decode_answer(first.body) == decode_answer(second.body)
    assert attempts(bench) == 1


def test_the_oldest_answers_are_forgotten() -> None:
    bench, again = an_operation()
    for number in range(1, REMEMBERED_MAX + 2):
        bench.apply(encode(again, request(number)))
    bench.commit()
    bench.machine = bench.open()
    before = attempts(bench)
    bench.apply(encode(again, request(2)))
    assert attempts(bench) == before
    bench.apply(encode(again, request(1)))
    assert attempts(bench) == before + 1


def test_a_refusal_is_an_answer_and_changes_nothing() -> None:
    bench = Bench()
    bench.apply(encode(bootstrap(1)))
    before = bench.machine.view
    answer = bench.apply(encode(SetReplicas(99, 1, ())))
    assert isinstance(answer, Failure)
    assert answer.code == "no_such_shard"
    assert bench.machine.view is before
    malformed = bench.apply(b"\x01nonsense")
    assert isinstance(malformed, Failure)
    assert malformed.code == "unknown_command"


def test_a_newer_command_stops_the_replica() -> None:
    bench = Bench()
    with pytest.raises(NewerCommandError):
        bench.apply(b"\x02" + encode(bootstrap(1))[1:])


def test_whoever_watches_is_told_of_versions_only() -> None:
    bench = Bench()
    seen: list[MetaView] = []
    bench.machine.observer = seen.append
    bench.apply(encode(bootstrap(1)))
    bench.apply(encode(bootstrap(1)))
    bench.apply(encode(SetReplicas(1, 1, ("a",))))
    assert [view.version for view in seen] == [1, 2]


def test_an_answer_survives_its_bytes() -> None:
    bench = Bench()
    answer = bench.apply(encode(bootstrap(1)))
    assert decode_result(encode_result(answer)) == answer
