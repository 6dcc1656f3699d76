"""Procedures: steps on a scheduler, owned, and their failures seen."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from chaos.sim.world import NodeClock, NodeScheduler, Process, World
from kv.leaderless.procedure import Procedures, Signal


class Stage:
    def __init__(self) -> None:
        self.world = World(1)
        self.failures: list[BaseException] = []
        scheduler = NodeScheduler(self.world, Process("p"), NodeClock(self.world))
        self.procedures = Procedures(scheduler, self.failures.append)
        self.seen: list[object] = []

    def run(self, seconds: float = 1.0) -> None:
        self.world.run(self.world.now + seconds)


def test_steps_wait_for_signals_and_pauses_and_never_run_inside_a_call() -> None:
    stage = Stage()
    early: Signal[str] = Signal()
    late: Signal[str] = Signal()
    early.set("early")

    async def steps() -> None:
        stage.seen.append(await early)
        await stage.procedures.pause(0.5)
        stage.seen.append(stage.world.now)
        stage.seen.append(await late)

    stage.procedures.start(steps, "steps")
    assert stage.seen == []
    stage.run()
    assert stage.seen == ["early", 0.5]
    assert stage.procedures.running == ["steps"]
    late.set("late")
    assert len(stage.seen) == 2, "not inside set"
    stage.run()
    assert stage.seen[2:] == ["late"]
    assert stage.procedures.running == []


def test_a_failure_goes_to_the_owner() -> None:
    stage = Stage()

    async def steps() -> None:
        await stage.procedures.pause(0.1)
        raise ValueError("broken")

    stage.procedures.start(steps, "steps")
    stage.run()
    assert [str(failure) for failure in stage.failures] == ["broken"]
    assert stage.procedures.running == []


def test_what_ends_before_its_first_pass_was_never_begun() -> None:
    """A coroutine that was made and never ran is a warning of the interpreter's when it goes."""
    stage = Stage()
    begun: list[str] = []

    def work() -> Coroutine[Any, Any, None]:
        begun.append("begun")
        return steps()

    async def steps() -> None:
        await stage.procedures.pause(10.0)

    stage.procedures.start(work, "stopped")
    stage.procedures.stop()
    stage.run()
    assert begun == []
    stage = Stage()
    stage.procedures.start(work, "not stopped")
    assert begun == []
    stage.run()
    assert begun == ["begun"]


def test_stop_closes_them_where_they_stand() -> None:
    stage = Stage()

    async def steps() -> None:
        try:
            await stage.procedures.pause(10.0)
            stage.seen.append("went on")
        finally:
            stage.seen.append("closed")

    stage.procedures.start(steps, "steps")
    stage.run(0.1)
    stage.procedures.stop()
    assert stage.seen == ["closed"]
    stage.procedures.start(steps, "never")
    stage.run(20.0)
    assert stage.seen == ["closed"]
    assert stage.failures == []
