"""The owner of tasks: nothing dies unseen, nothing starts after the end."""

from __future__ import annotations

import asyncio

import pytest

from kv.cluster.tasks import Tasks, TasksClosedError


class Failures(list[tuple[str, BaseException]]):
    def __call__(self, name: str, error: BaseException) -> None:
        self.append((name, error))


async def nothing() -> None:
    pass


async def failing() -> None:
    raise ValueError("broken")


async def forever(ended: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        ended.append("cleaned up")


async def test_a_failure_is_seen_once_with_its_name(caplog: pytest.LogCaptureFixture) -> None:
    failures = Failures()
    tasks = Tasks(asyncio.get_running_loop(), failures)
    task = tasks.spawn(failing(), "breaks")
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert [(name, str(error)) for name, error in failures] == [("breaks", "broken")]
    assert "task 'breaks' failed" in caplog.text
    assert (tasks.spawned, tasks.failed, tasks.running) == (1, 1, 0)
    await tasks.close()


async def test_closing_cancels_what_runs_and_waits_for_it() -> None:
    failures, ended = Failures(), list[str]()
    tasks = Tasks(asyncio.get_running_loop(), failures)
    for number in range(3):
        tasks.spawn(forever(ended), f"forever {number}")
    await asyncio.sleep(0)
    await tasks.close()
    assert ended == ["cleaned up"] * 3
    assert tasks.running == 0
    assert failures == [], "an end on purpose is no failure"
    await tasks.close()


async def test_a_task_that_ends_well_or_is_cancelled_by_its_starter_is_no_failure() -> None:
    failures, ended = Failures(), list[str]()
    tasks = Tasks(asyncio.get_running_loop(), failures)
    await tasks.spawn(nothing(), "nothing")
    task = tasks.spawn(forever(ended), "forever")
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert tasks.running == 0
    assert failures == []


async def test_nothing_starts_once_it_is_closed() -> None:
    tasks = Tasks(asyncio.get_running_loop(), Failures())
    await tasks.close()
    with pytest.raises(TasksClosedError, match="'late' was not started"):
        tasks.spawn(nothing(), "late")
