"""What a host puts off to the next pass of the loop."""

from __future__ import annotations

from collections.abc import Callable
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
    soon.hold()
    soon.answer(lambda: soon.answer(lambda: seen.append("of an answer")))
    assert seen == []
    assert soon.give()
    assert seen == ["before", "end"]
    passes.run()
    assert seen == ["before", "end", "of an answer", "end"]
    soon.hold()
    assert not soon.give()
    passes.run()
    assert seen == ["before", "end", "of an answer", "end"]
