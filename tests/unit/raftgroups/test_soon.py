"""What a host puts off to the next pass of the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import pytest

from raftgroups.soon import Soon
from storage.clock import Scheduler


class Passes:
    def __init__(self) -> None:
        self.calls: list[Callable[[], Any]] = []

    def call_soon(self, call: Callable[[], Any]) -> None:
        self.calls.append(call)

    def run(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


def test_answers_are_given_in_the_next_pass_and_their_end_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    passes, seen = Passes(), list[str]()
    soon = Soon(cast(Scheduler, passes), lambda groups: None)
    soon.on_answered = lambda: seen.append("end")

    def broken() -> None:
        raise ValueError("a defect of whoever asked")

    soon.answer(lambda: seen.append("first"))
    soon.answer(broken)
    soon.answer(lambda: seen.append("second"))
    assert seen == []
    passes.run()
    assert seen == ["first", "second", "end"]
    assert "a done callback raised" in caplog.text
    passes.run()
    assert seen == ["first", "second", "end"]


def test_held_answers_are_given_at_the_end_of_the_work_and_not_again() -> None:
    passes, seen = Passes(), list[str]()
    soon = Soon(cast(Scheduler, passes), lambda groups: None)
    soon.on_answered = lambda: seen.append("end")
    soon.answer(lambda: seen.append("before"))
    soon.held = True
    soon.answer(lambda: soon.answer(lambda: seen.append("of an answer")))
    assert seen == []
    soon.held = False
    soon.give()
    assert seen == ["before", "end"]
    passes.run()
    assert seen == ["before", "end", "of an answer", "end"]
    passes.run()
    assert seen == ["before", "end", "of an answer", "end"]


def test_what_is_to_be_said_is_written_once_a_pass_after_the_reads_have_left() -> None:
    passes, seen = Passes(), list[str]()
    soon = Soon(cast(Scheduler, passes), lambda groups: seen.append(f"left {[*groups]}"))
    soon.flush = lambda: seen.append("written")
    soon.leave()
    soon.reads_arrived(2)
    soon.reads_arrived(1)
    soon.reads_arrived(2)
    soon.leave()
    assert seen == []
    passes.run()
    assert seen == ["left [2, 1]", "written"]
    soon.leave()
    passes.run()
    assert seen[2:] == ["written"], "what is alone waits for nothing else"
    assert passes.calls == []


def test_who_arrives_by_a_departure_leaves_with_the_next_pass() -> None:
    passes, seen = Passes(), list[list[int]]()

    def depart(groups: Iterable[int]) -> None:
        seen.append([*groups])
        if len(seen) == 1:
            soon.leave()
            soon.reads_arrived(8)
        else:
            raise ValueError("a defect")

    soon = Soon(cast(Scheduler, passes), depart)
    written = list[None]()
    soon.flush = lambda: written.append(None)
    soon.reads_arrived(7)
    passes.run()
    assert (seen, len(written)) == ([[7]], 1)
    with pytest.raises(ValueError, match="a defect"):
        passes.run()
    assert (seen, len(written)) == ([[7], [8]], 2)
    assert passes.calls == []


def test_what_is_said_while_writing_is_written_in_the_next_pass() -> None:
    passes, left = Passes(), ["a", "b"]
    soon = Soon(cast(Scheduler, passes), lambda groups: None)

    def flush() -> None:
        left.pop()
        if left:
            soon.leave()

    soon.flush = flush
    soon.leave()
    passes.run()
    assert left == ["a"]
    passes.run()
    assert left == []
    assert passes.calls == []


def test_a_pass_is_one_call_and_says_when_it_begins_and_is_done() -> None:
    """Answers, then departures, then frames to peers; whoever writes to clients comes last."""
    passes, seen = Passes(), list[str]()
    soon = Soon(cast(Scheduler, passes), lambda groups: seen.append("left"))
    soon.flush = lambda: seen.append("written")
    soon.on_answered = lambda: seen.append("answered")
    soon.on_pass = lambda: seen.append("begins")
    soon.on_passed = lambda: seen.append("done")
    soon.reads_arrived(1)
    soon.answer(lambda: seen.append("answer"))
    soon.leave()
    assert len(passes.calls) == 1
    passes.run()
    assert seen == ["begins", "answer", "answered", "left", "written", "done"]
    seen.clear()
    soon.reads_arrived(1)
    passes.run()
    assert seen == ["begins", "left", "written", "done"]
    assert passes.calls == []


def test_reads_of_an_answer_leave_in_the_same_pass_and_its_answers_wait_for_the_next() -> None:
    passes, seen = Passes(), list[str]()
    soon = Soon(cast(Scheduler, passes), lambda groups: seen.append(f"left {[*groups]}"))

    def ask_more() -> None:
        seen.append("answer")
        soon.reads_arrived(4)
        soon.answer(lambda: seen.append("another"))

    soon.answer(ask_more)
    passes.run()
    assert seen == ["answer", "left [4]"]
    passes.run()
    assert seen == ["answer", "left [4]", "another"]
    assert passes.calls == []
