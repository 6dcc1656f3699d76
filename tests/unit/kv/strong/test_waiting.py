"""What waits is tried again until its deadline and answered once, and nothing is called undone that
an earlier try may have done."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest

from kv.errors import OutcomeUnknownError, OverloadedError, StoppingError, UnavailableError
from kv.strong.operations import Operation, SessionRead, Write
from kv.strong.waiting import RETRY_S, WaitingRoom
from raftgroups.outcomes import Refused


class Shard:
    """Counts what is started."""

    def __init__(self) -> None:
        self.started: list[Operation] = []
        self.reads = self

    def start_each(self, writes: Sequence[Write]) -> None:
        self.started += writes

    def may_read_session(self, read: SessionRead) -> bool:
        self.started.append(read)
        return False


class Rig:
    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.shard: Any = Shard()
        self.answers: list[Any] = []
        self.room = WaitingRoom(scheduler=loop, clock=loop.clock, parked_max=2, session_waits_max=1)

    def write(self, deadline_s: float = 5.0) -> Write:
        return Write(self.shard, self.answers.append, deadline_s, payload=b"", repeatable=False)

    def session(self, seen: int) -> SessionRead:
        return SessionRead(
            self.shard, self.answers.append, 5.0, evaluate=lambda reader: None, seen=seen
        )

    @property
    def kinds(self) -> list[type]:
        return [type(answer) for answer in self.answers]


@pytest.fixture
def rig(loop: Any) -> Rig:
    return Rig(loop)


def test_what_is_parked_is_started_again_until_its_deadline(rig: Rig) -> None:
    write = rig.write(deadline_s=3 * RETRY_S)
    rig.room.refused(write, Refused("no leader"))
    rig.loop.advance(1.5 * RETRY_S)
    assert rig.shard.started == [write]
    assert not rig.room.parked
    rig.room.refused(write, Refused("no leader"))
    rig.loop.advance(10 * RETRY_S)
    rig.room.refused(write, Refused("still no leader"))
    assert rig.kinds == [UnavailableError]
    assert "still no leader" in str(rig.answers[0])


def test_a_full_queue_elsewhere_is_told_at_once_and_counted(rig: Rig) -> None:
    overloads: list[None] = []
    rig.room.on_overload = lambda: overloads.append(None)
    rig.room.refused(rig.write(), Refused("full", busy=True))
    assert rig.kinds == [OverloadedError]
    assert len(overloads) == 1


def test_what_may_have_been_done_is_never_called_refused(rig: Rig) -> None:
    write = rig.write()
    write.unsure = True
    rig.room.refused(write, Refused("full", busy=True))
    assert rig.kinds == [OutcomeUnknownError]


def test_what_waits_is_bounded_and_refused_later(rig: Rig) -> None:
    for _ in range(3):
        rig.room.park(rig.write(), "no leader")
    rig.room.wait_for_session(rig.session(7), 6)
    rig.room.wait_for_session(rig.session(8), 6)
    assert rig.answers == []
    rig.loop.run()
    assert rig.kinds == [OverloadedError, OverloadedError]


def test_sessions_wake_when_the_replica_has_seen_enough(rig: Rig) -> None:
    read = rig.session(7)
    rig.room.wait_for_session(read, 5)
    rig.room.wake_sessions(6)
    assert rig.shard.started == []
    rig.room.wake_sessions(7)
    assert rig.shard.started == [read]
    assert not rig.room.sessions


def test_the_deadline_of_the_request_ends_it_exactly(rig: Rig) -> None:
    parked, sent, read = rig.write(), rig.write(), rig.session(9)
    rig.room.limit(parked, 1.0)
    rig.room.park(parked, "no leader is known")
    rig.room.limit(sent, 1.0)
    rig.room.limit(read, 1.0)
    rig.room.wait_for_session(read, 3)
    rig.loop.clock.advance(1.0)  # nothing tries again meanwhile
    for _, timer, callback, args in rig.loop.later:
        if args and not timer.cancelled:
            callback(*args)
    assert rig.kinds == [UnavailableError, OutcomeUnknownError, UnavailableError]
    assert "no leader is known" in str(rig.answers[0])
    assert "at revision 3" in str(rig.answers[2])


def test_stopping_answers_everything_and_takes_nothing_more(rig: Rig) -> None:
    rig.room.park(rig.write(), "no leader")
    rig.room.wait_for_session(rig.session(9), 3)
    rig.room.stop()
    rig.room.park(rig.write(), "late")
    assert rig.kinds == [StoppingError] * 3
    rig.loop.advance(1.0)
    assert rig.shard.started == []


def test_an_answer_is_given_once_and_a_defect_in_taking_it_stays_there(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("a defect")

    write = rig.write()
    assert rig.room.take(write)
    assert not rig.room.take(write)
    write.answer("late")
    assert rig.answers == []
    with caplog.at_level(logging.ERROR):
        Write(rig.shard, broken, 1.0, payload=b"", repeatable=False).answer("answer")
    assert len(caplog.records) == 1
