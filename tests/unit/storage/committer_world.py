"""A committer in virtual time: its loop, a writer that is held, participants with a diary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from storage.clock import ManualClock
from storage.committer import Committer, Need
from storage.engine import Batch, Engine, iterate
from storage.memory import MemoryEngine
from storage.writers import Done, Writer


class Call:
    """A scheduled call; it is also its own timer."""

    def __init__(self, due_s: float, callback: Callable[..., object], arguments: Any) -> None:
        self.due_s = due_s
        self.cancelled = False
        self._callback = callback
        self._arguments = arguments

    def cancel(self) -> None:
        self.cancelled = True

    def __call__(self) -> None:
        if not self.cancelled:
            self._callback(*self._arguments)


class Loop:
    """An event loop in virtual time: `run` until nothing is due, `pass_once` for one pass."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self._soon: list[Call] = []
        self._later: list[Call] = []

    def call_soon(self, callback: Callable[..., object], /, *arguments: Any) -> Call:
        self._soon.append(Call(self.clock.monotonic(), callback, arguments))
        return self._soon[-1]

    def call_later(self, delay_s: float, callback: Callable[..., object], /, *args: Any) -> Call:
        self._later.append(Call(self.clock.monotonic() + delay_s, callback, args))
        return self._later[-1]

    def pass_once(self) -> None:
        calls, self._soon = self._soon, []
        for call in calls:
            call()

    def run(self) -> None:
        while self._soon:
            self.pass_once()

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        now = self.clock.monotonic()
        due = [call for call in self._later if call.due_s <= now]
        self._later = [call for call in self._later if call.due_s > now]
        self._soon.extend(due)
        self.run()


class HeldWriter:
    """A write that takes until the test says so."""

    def __init__(self) -> None:
        self.submitted: list[tuple[Engine, Batch, Done]] = []

    def submit(self, engine: Engine, batch: Batch, done: Done) -> None:
        self.submitted.append((engine, batch, done))

    def finish(self, failure: BaseException | None = None, seconds: float = 0.001) -> None:
        engine, batch, done = self.submitted.pop(0)
        assert not self.submitted, "one write at a time"
        if failure is None:
            engine.write(batch, sync=True)
        done(failure, seconds)

    def close(self) -> None:
        pass


class Actor:
    """A participant that records its calls in a diary shared by all."""

    def __init__(self, name: str, diary: list[str]) -> None:
        self.name = name
        self.need = Need.NOTHING
        self.acknowledged: list[bytes] = []
        self.raises: str | None = None
        self.on_begin: Callable[[], object] | None = None
        self._diary = diary
        self._queue: list[bytes] = []
        self._written: list[bytes] = []

    def put(self, key: bytes, need: Need = Need.NOW) -> None:
        self._queue.append(key)
        self.need = max(self.need, need)

    def begin_turn(self) -> Need:
        self._note("begin")
        if self.on_begin is not None:
            self.on_begin()
        return self.need

    def prepare(self, batch: Batch) -> None:
        self._note("prepare")
        for key in self._queue:
            batch.put(key, b"")
        self._written, self._queue, self.need = self._queue, [], Need.NOTHING

    def after_commit(self) -> None:
        self._note("after")
        self.acknowledged += self._written

    def stalled(self, seconds: float) -> None:
        self._note(f"stalled {seconds:g}")

    def _note(self, what: str) -> None:
        self._diary.append(f"{self.name} {what}")
        if self.raises == what:
            raise RuntimeError(f"defect in {what}")


class World:
    """A committer over a memory engine with two participants, in virtual time."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.loop = Loop(self.clock)
        self.engine = MemoryEngine(clock=self.clock)
        self.writer = HeldWriter()
        self.fatal: list[BaseException] = []
        self.diary: list[str] = []
        self.committer = self.build(self.writer)
        self.a, self.b = Actor("a", self.diary), Actor("b", self.diary)
        self.committer.add(self.a)
        self.committer.add(self.b)

    def build(self, writer: Writer) -> Committer:
        return Committer(
            self.engine, writer, self.loop, self.clock, on_fatal=self.fatal.append, lazy_limit_s=0.5
        )

    def kick(self) -> None:
        self.committer.kick()
        self.loop.run()

    def turns(self) -> int:
        return self.diary.count("a begin")

    def stored(self) -> list[bytes]:
        with self.engine.snapshot() as snapshot:
            return [key for key, _ in iterate(snapshot)]
