"""The simulated world: virtual time, one queue of events, seeded dice and a trace.

Time moves only from event to event, so a minute of it costs what the work in it costs. Events of
one moment run in the order in which they were asked for (a sequence number breaks ties), so nothing
depends on hashing or on the machine. Dice come in named streams, each derived from the seed and its
name alone: a new die in one part leaves the throws of all others as they were.

A Process is an operating system process of a node. Its callbacks die with it (`alive`), and wait
while it is stopped (`freeze`). A frozen process that wakes finds frames and timers due at once, in
an order that real event loops do not promise either; `timers_first` decides for one life.

Everything worth knowing goes through `trace`: it feeds a running hash, which is equal for two runs
if and only if they did the same, and a short memory of lines for people.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final

SAME_INSTANT_LIMIT: Final = 200_000
TRACE_BLOCK: Final = 512
FAST_RATE: Final = 1.01

Callback = Callable[..., object]


class SpinError(Exception):
    """Events went on for ever while the virtual clock stood still."""


class Process:
    """One life of one simulated process. Invariant: once dead, never alive again."""

    __slots__ = ("alive", "frozen_until", "late", "name", "timers_first")

    def __init__(self, name: str, *, timers_first: bool = True) -> None:
        self.name = name
        self.alive = True
        self.frozen_until = 0.0
        self.timers_first = timers_first
        self.late: list[SimTimer] = []
        """What fell due while it was frozen, in order."""

    def freeze(self, until: float) -> None:
        self.frozen_until = max(self.frozen_until, until)


class SimTimer:
    """An event that may be cancelled; satisfies storage.clock.Timer."""

    __slots__ = ("args", "callback", "frame", "owner")

    def __init__(
        self,
        callback: Callback | None,
        args: tuple[Any, ...],
        owner: Process | None,
        frame: bool,
    ) -> None:
        self.callback = callback
        self.args = args
        self.owner = owner
        self.frame = frame

    def cancel(self) -> None:
        self.callback = None


class World:
    def __init__(self, seed: int, *, memory: int = 60, sink: Callable[[str], None] | None = None):
        self.seed = seed
        self.now = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, int, SimTimer]] = []
        self._sequence = 0
        self._digest = blake2b(digest_size=8)
        self._block: list[str] = []
        self._sink = sink
        self.recent: deque[str] = deque(maxlen=memory)
        self.stop_reason: str | None = None

    # --- dice and trace ----------------------------------------------------------------------

    def rng(self, purpose: str) -> random.Random:
        """The stream of dice of this purpose; each call starts it anew."""
        return random.Random(derive(self.seed, purpose))

    def trace(self, line: str) -> None:
        line = f"{self.now:10.6f} {line}"
        self._block.append(line)
        self.recent.append(line)
        if self._sink is not None:
            self._sink(line)
        if len(self._block) >= TRACE_BLOCK:
            self._fold()

    def _fold(self) -> None:
        self._digest.update("\n".join(self._block).encode())
        self._digest.update(b"\n")
        self._block.clear()

    def trace_hash(self) -> str:
        if self._block:
            self._fold()
        return self._digest.copy().hexdigest()

    # --- events ------------------------------------------------------------------------------

    def at(
        self,
        when: float,
        callback: Callback,
        *args: Any,
        owner: Process | None = None,
        frame: bool = False,
    ) -> SimTimer:
        """Call at a moment of virtual time. With an owner: only while that process lives and runs.
        `frame` marks arrivals from outside, as opposed to the process's own timers."""
        timer = SimTimer(callback, args, owner, frame)
        self._sequence += 1
        if when < self.now:
            when = self.now
        heapq.heappush(self._heap, (when, 0, self._sequence, timer))
        return timer

    def after(
        self,
        delay_s: float,
        callback: Callback,
        *args: Any,
        owner: Process | None = None,
        frame: bool = False,
    ) -> SimTimer:
        return self.at(self.now + delay_s, callback, *args, owner=owner, frame=frame)

    def stop(self, reason: str) -> None:
        """End `run` after the event under way."""
        self.stop_reason = reason

    def run(self, until: float) -> None:
        """Run every event up to and including `until`; then the clock stands at `until`."""
        heap = self._heap
        at_this_instant = 0
        while heap and self.stop_reason is None:
            if heap[0][0] > until:
                break
            when, _, _, timer = heapq.heappop(heap)
            callback = timer.callback
            if callback is None:
                continue
            owner = timer.owner
            if owner is not None:
                if not owner.alive:
                    continue
                if owner.frozen_until > when:
                    self._defer(timer, owner)
                    continue
            if when > self.now:
                self.now = when
                at_this_instant = 0
            at_this_instant += 1
            if at_this_instant > SAME_INSTANT_LIMIT:
                raise SpinError(
                    f"{SAME_INSTANT_LIMIT} events at {self.now:.6f} s and the clock does not move; "
                    f"the last one belongs to {owner.name if owner else 'the world'}: {callback!r}"
                )
            self.events += 1
            timer.callback = None
            callback(*timer.args)
        if self.stop_reason is None:
            self.now = max(self.now, until)

    def _defer(self, timer: SimTimer, owner: Process) -> None:
        if not owner.late:
            self.at(owner.frozen_until, self._thaw, owner)
        owner.late.append(timer)

    def wake(self, process: Process) -> None:
        """End a freeze before its time."""
        process.frozen_until = min(process.frozen_until, self.now)
        self._thaw(process)

    def _thaw(self, process: Process) -> None:
        if process.frozen_until > self.now:
            self.at(process.frozen_until, self._thaw, process)
            return
        for timer in process.late:
            self._sequence += 1
            later = 1 if timer.frame == process.timers_first else 0
            heapq.heappush(self._heap, (self.now, later, self._sequence, timer))
        process.late.clear()


class NodeClock:
    """What one machine believes the time is: a rate and an offset of the true time, and jumps.

    Satisfies storage.clock.Clock. `monotonic` never goes back; `wall` may.
    """

    __slots__ = ("_base_local", "_base_true", "_fast_at", "_wall_offset", "_world", "rate")

    def __init__(self, world: World, *, rate: float = 1.0, wall_offset: float = 0.0) -> None:
        self._world = world
        self.rate = rate
        self._base_true = world.now
        self._base_local = 1_000.0 + world.now
        self._wall_offset = wall_offset
        self._fast_at = float("-inf")

    @property
    def fast_at(self) -> float:
        """When more time last passed on it than truly did, by more than a clock may be off."""
        return self._world.now if self.rate > FAST_RATE else self._fast_at

    def monotonic(self) -> float:
        return self._base_local + (self._world.now - self._base_true) * self.rate

    def wall(self) -> float:
        return 1_700_000_000.0 + self.monotonic() + self._wall_offset

    def jump(self, forward_s: float) -> None:
        """The monotonic clock leaps, as after a suspended virtual machine."""
        assert forward_s >= 0.0, "a monotonic clock never goes back"
        self._base_local += forward_s
        self._fast_at = self._world.now

    def jump_wall(self, seconds: float) -> None:
        self._wall_offset += seconds

    def drift(self, rate: float) -> None:
        self._fast_at = self.fast_at
        self._base_local = self.monotonic()
        self._base_true = self._world.now
        self.rate = rate


class NodeScheduler:
    """The part of an event loop that a core may use, for one process; delays are of its clock."""

    __slots__ = ("_clock", "_process", "_world")

    def __init__(self, world: World, process: Process, clock: NodeClock) -> None:
        self._world = world
        self._process = process
        self._clock = clock

    def call_soon(self, callback: Callback, /, *args: Any) -> SimTimer:
        return self._world.at(self._world.now, callback, *args, owner=self._process)

    def call_later(self, delay_s: float, callback: Callback, /, *args: Any) -> SimTimer:
        when = self._world.now + max(0.0, delay_s) / self._clock.rate
        return self._world.at(when, callback, *args, owner=self._process)


def derive(seed: int, purpose: str) -> int:
    """A number from a seed and a name, the same in every process (hash() is not)."""
    return int.from_bytes(blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest(), "big")
