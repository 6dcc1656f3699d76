"""Deadlines of many requests on one timer: never early, at most a step late, gone when removed."""

from __future__ import annotations

import random

from chaos.sim.world import NodeClock, NodeScheduler, Process, World
from kv.leaderless.deadlines import STEP_S, Deadlines


class Request:
    def __init__(self, clock: NodeClock) -> None:
        self._clock = clock
        self.expired_s: float | None = None

    def expired(self) -> None:
        assert self.expired_s is None, "told twice"
        self.expired_s = self._clock.monotonic()


def test_each_is_told_once_never_early_and_at_most_a_step_late() -> None:
    world = World(1)
    clock, rng = NodeClock(world), random.Random(1)
    deadlines = Deadlines(NodeScheduler(world, Process("a"), clock), clock)
    wanted: list[tuple[float, Request]] = []
    removed: list[Request] = []
    for number in range(200):
        deadline_s = clock.monotonic() + rng.uniform(-0.1, 3.0)
        request = Request(clock)
        step = deadlines.add(deadline_s, request)
        if number % 3:
            wanted.append((max(deadline_s, clock.monotonic()), request))
        else:
            deadlines.remove(step, request)
            removed.append(request)
        world.run(world.now + 0.01)
    world.run(world.now + 4.0)
    assert all(request.expired_s is None for request in removed)
    for deadline_s, request in wanted:
        assert request.expired_s is not None
        assert deadline_s <= request.expired_s <= deadline_s + 2 * STEP_S


def test_nothing_is_kept_of_what_has_ended() -> None:
    world = World(1)
    clock = NodeClock(world)
    deadlines = Deadlines(NodeScheduler(world, Process("a"), clock), clock)
    requests = [Request(clock) for _ in range(10)]
    steps = [deadlines.add(100.0 + number, each) for number, each in enumerate(requests)]
    for step, request in zip(steps, requests, strict=True):
        deadlines.remove(step, request)
    assert not deadlines._steps
    world.run(world.now + 1.0)
    assert deadlines._timer is None
