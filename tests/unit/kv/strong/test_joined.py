"""Plain linearizable reads share a place in what waits for the next read point."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

import pytest

from kv.division.meter import Meter
from kv.errors import StoppingError, UnavailableError
from kv.strong.joined import JoinedReads
from raftgroups.outcomes import ReadReady, ReadResult, Refused
from raftgroups.readpath import Together
from storage.errors import JanusError, WrongShardError


class Points:
    """The part of a Group that gives read points."""

    def __init__(self) -> None:
        self.most = 3
        self.why_not: Refused | None = None
        self.opened: list[Together] = []

    def read_together(self, tell: Callable[[list[Any], ReadResult], None]) -> Together | Refused:
        if self.why_not is not None:
            return self.why_not
        self.opened.append(Together(tell, self.most))
        return self.opened[-1]

    def too_many_reads(self) -> Refused:
        return Refused("too many", busy=True)

    def tell(self, at: int, result: ReadResult) -> None:
        together = self.opened[at]
        together.left = True
        together.tell(together.reads, result)


class Replica:
    """The part of a ReplicaReader that gets are looked up in. A value that is an error is raised,
    by `get` as by `get_each`."""

    shard, revision, term = 1, 7, 3

    def __init__(self) -> None:
        self.held: dict[bytes, Any] = {b"a": "A", b"b": "B"}
        self.looked = 0
        self.view = self
        self.state = self

    def get(self, key: bytes, revision: int = 0) -> Any:
        found = self.held.get(key)
        if isinstance(found, Exception):
            raise found
        return found

    def get_each(self, keys: list[bytes]) -> list[Any]:
        self.looked += 1
        return [self.get(key) for key in keys]


class Rig:
    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.given: list[tuple[Any, Any, int, int]] = []
        self.stopped = False
        self.points = Points()
        self.local: Any = "replica"
        self.answers: list[Any] = []
        self.vouch: Any = None
        self.moved: list[tuple[Any, float, WrongShardError]] = []
        self.refused: list[tuple[Any, float, Refused]] = []
        self.joined = JoinedReads(
            self.points,  # type: ignore[arg-type]
            self._local,
            self._refused,
            self._moved,
            lambda: self.vouch,
            lambda: self.stopped,
            scheduler=loop,
            clock=loop.clock,
            deadline_s=5.0,
            meter=Meter(random.Random(1)),
        )

    def _local(self) -> Any:
        if isinstance(self.local, UnavailableError):
            raise self.local
        return self.local

    def _refused(self, evaluate: Any, done: Any, deadline_s: float, refused: Refused) -> None:
        self.refused.append((evaluate(None), deadline_s, refused))

    def _moved(self, evaluate: Any, done: Any, deadline_s: float, error: WrongShardError) -> None:
        self.moved.append((done, deadline_s, error))

    def give(self, askers: Any, found: Any, revision: int, term: int) -> None:
        each_found = [found] * len(askers) if isinstance(found, JanusError) else found
        for asker, each in zip(askers, each_found, strict=True):
            self.given.append((asker, each, revision, term))

    def get(self, key: bytes) -> None:
        self.joined.get(key, key.decode(), self.give)

    def read(self, name: str) -> None:
        self.joined.read(lambda reader: (name, reader), self.answers.append)


@pytest.fixture
def rig(loop: Any) -> Rig:
    return Rig(loop)


def test_reads_join_what_waits_and_never_what_has_left(rig: Rig) -> None:
    rig.read("a")
    rig.read("b")
    assert len(rig.points.opened) == 1
    rig.points.opened[0].left = True
    rig.read("late")
    assert len(rig.points.opened) == 2
    rig.points.tell(0, ReadReady(7))
    assert rig.answers == [("a", "replica"), ("b", "replica")]
    rig.points.tell(1, ReadReady(7))
    assert rig.answers[2:] == [("late", "replica")]


def test_a_refusal_lets_each_go_on_alone_until_the_deadline_of_the_first(rig: Rig) -> None:
    rig.read("a")
    rig.loop.advance(1.0)
    rig.read("b")
    rig.points.tell(0, Refused("no leader"))
    assert [(name, at) for (name, _), at, _ in rig.refused] == [("a", 5.0), ("b", 5.0)]
    assert rig.answers == []


def test_what_is_over_the_limit_is_refused_as_busy_and_not_inside_the_call(rig: Rig) -> None:
    for name in "abcd":
        rig.read(name)
    assert rig.refused == []
    rig.loop.run()
    assert [(name, refused.busy) for (name, _), _, refused in rig.refused] == [("d", True)]
    rig.points.tell(0, ReadReady(1))
    assert [name for name, _ in rig.answers] == ["a", "b", "c"]


def test_a_group_that_cannot_read_refuses_later_and_is_asked_again(rig: Rig) -> None:
    rig.points.why_not = Refused("this node stops")
    rig.read("a")
    assert rig.refused == []
    rig.loop.run()
    assert [name for (name, _), _, _ in rig.refused] == ["a"]
    rig.points.why_not = None
    rig.read("b")
    assert len(rig.points.opened) == 1


def test_a_group_whose_other_reads_take_all_room_refuses(rig: Rig) -> None:
    rig.points.most = 0
    rig.read("a")
    rig.read("b")
    rig.loop.run()
    assert [refused.busy for _, _, refused in rig.refused] == [True, True]
    assert len(rig.points.opened) == 1


def test_one_defect_costs_nobody_else_his_answer(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("a defect")

    rig.read("a")
    rig.joined.read(broken, rig.answers.append)
    rig.joined.read(lambda reader: reader, broken)
    with caplog.at_level(logging.ERROR):
        rig.points.tell(0, ReadReady(1))
    rig.read("b")
    rig.points.tell(1, ReadReady(1))
    assert [name for name, _ in rig.answers] == ["a", "b"]
    assert len(caplog.records) == 2


def test_a_replica_that_is_being_replaced_answers_why(rig: Rig) -> None:
    rig.local = UnavailableError("a snapshot is being put in place")
    rig.read("a")
    rig.points.tell(0, ReadReady(1))
    assert rig.answers == [rig.local]


def test_an_evaluation_that_refuses_is_the_answer(rig: Rig) -> None:
    error = UnavailableError("compacted")

    def refuse(_: object) -> None:
        raise error

    rig.joined.read(refuse, rig.answers.append)
    rig.points.tell(0, ReadReady(1))
    assert rig.answers == [error]


def test_a_key_of_another_shard_is_looked_for_there(rig: Rig) -> None:
    error = WrongShardError("the key is another shard's")

    def elsewhere(_: object) -> None:
        raise error

    rig.joined.read(elsewhere, rig.answers.append)
    rig.read("here")
    rig.points.tell(0, ReadReady(1))
    assert [name for name, _ in rig.answers] == ["here"]
    assert [(at, why) for _, at, why in rig.moved] == [(5.0, error)]


def test_an_answer_that_met_locks_is_given_by_whoever_vouches_for_it(rig: Rig) -> None:
    held: list[Any] = []

    def vouch(evaluate: Any, done: Any, deadline_s: float, answer: Any) -> bool:
        held.append((done, answer))
        return bool(answer[0] == "locked")

    rig.vouch = vouch
    rig.read("locked")
    rig.read("free")
    rig.points.tell(0, ReadReady(7))
    assert rig.answers == [("free", "replica")]
    assert [answer for _, answer in held] == [("locked", "replica"), ("free", "replica")]


# --- gets -------------------------------------------------------------------------------------


def test_gets_are_looked_up_and_given_together(rig: Rig) -> None:
    replica = rig.local = Replica()
    for key in (b"a", b"none", b"b"):
        rig.get(key)
    assert len(rig.points.opened) == 1
    rig.points.tell(0, ReadReady(7))
    assert rig.given == [("a", "A", 7, 3), ("none", None, 7, 3), ("b", "B", 7, 3)]
    assert replica.looked == 1


def test_gets_and_other_reads_share_a_read_point_and_faces_answer_their_own(rig: Rig) -> None:
    replica = rig.local = Replica()
    others: list[Any] = []
    rig.points.most = 9
    rig.get(b"a")
    rig.joined.read(lambda reader: reader.term, rig.answers.append)
    rig.joined.get(b"a", "other", lambda askers, *found: others.append((askers[0], *found)))
    rig.get(b"b")
    rig.points.tell(0, ReadReady(7))
    assert rig.given == [("a", "A", 7, 3), ("b", "B", 7, 3)]
    assert others == [("other", ["A"], 7, 3)]
    assert rig.answers == [3]
    assert replica.looked == 2


def test_a_get_that_cannot_be_answered_costs_the_others_nothing(rig: Rig) -> None:
    replica = rig.local = Replica()
    bad, elsewhere = UnavailableError("bad"), WrongShardError("the key is another shard's")
    replica.held |= {b"bad": bad, b"elsewhere": elsewhere}
    rig.points.most = 9
    for key in (b"a", b"bad", b"elsewhere", b"b"):
        rig.get(key)
    rig.joined.read(lambda reader: reader.term, rig.answers.append)
    rig.points.tell(0, ReadReady(7))
    assert rig.answers == [3]
    assert rig.given == [("a", "A", 7, 3), ("bad", bad, 0, 0), ("b", "B", 7, 3)]
    [(done, deadline_s, why)] = rig.moved
    assert (deadline_s, why) == (5.0, elsewhere)
    done(("found there", 9, 4))
    assert rig.given[3:] == [("elsewhere", "found there", 9, 4)]


def test_a_get_that_is_refused_goes_on_as_a_read_by_itself(rig: Rig) -> None:
    rig.joined._refused = lambda evaluate, done, deadline_s, refused: done(evaluate(Replica()))
    rig.get(b"a")
    rig.points.tell(0, Refused("no leader"))
    assert rig.given == [("a", "A", 7, 3)]


def test_a_get_from_a_replica_that_is_being_replaced_is_told_why(rig: Rig) -> None:
    rig.local = UnavailableError("a snapshot is being put in place")
    rig.get(b"a")
    rig.points.tell(0, ReadReady(1))
    assert rig.given == [("a", rig.local, 0, 0)]


def test_gets_that_met_locks_are_given_by_whoever_vouches_for_them(rig: Rig) -> None:
    rig.local = Replica()
    held: list[Any] = []

    def vouch(evaluate: Any, done: Any, deadline_s: float, answer: Any) -> bool:
        held.append((done, answer))
        return bool(answer[0] == "A")

    rig.vouch = vouch
    rig.get(b"a")
    rig.get(b"b")
    rig.points.tell(0, ReadReady(7))
    assert rig.given == [("b", "B", 7, 3)]
    done, answer = held[0]
    done(answer)
    assert rig.given[1:] == [("a", "A", 7, 3)]


def test_a_node_that_stops_takes_no_more_gets(rig: Rig) -> None:
    rig.stopped = True
    rig.get(b"a")
    assert rig.given == []
    rig.loop.run()
    [(done, why, _, _)] = rig.given
    assert done == "a"
    assert isinstance(why, StoppingError)
    assert rig.points.opened == []


def test_gets_are_metered_by_their_keys(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[bytes] = []
    monkeypatch.setattr(
        rig.joined._meter, "read", lambda count: noted.append(b"%d" % count) or True
    )
    monkeypatch.setattr(rig.joined._meter, "note_read", noted.append)
    rig.local = Replica()
    rig.get(b"a")
    rig.get(b"b")
    rig.points.tell(0, ReadReady(7))
    assert noted == [b"2", b"b"]
