"""The simulated disk: storage.writers.Writer on virtual time, and what a crash leaves behind.

A write takes a seeded time and is applied to the engine at its end. Two manners, as in production:
`inline`, where the process does nothing else meanwhile, and the writer thread, where frames are
handled while the write is under way. Which one is drawn for each life of a node.

A crash during a write leaves the batch wholly on the disk or not at all: a killed process had
handed it to the kernel or not, and a power cut lets the faulty engine throw its dice over whatever
was not synced. A failing write (`fail_next`) is the faulty engine's as well: its outcome shows
after the restart, and every later write fails too, so the process is expected to end.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from chaos.sim.world import Process, SimTimer, World
from storage.engine import Batch, Engine
from storage.errors import WriteFailedError
from storage.faulty import FaultyEngine
from storage.writers import Done

FATAL_AFTER_S: Final = 10.0
"""The watchdog's patience with one write (storage.committer.SyncWatchdog)."""


@dataclass(slots=True)
class DiskSettings:
    """One machine's disk; outlives the processes on it."""

    sync_s: tuple[float, float] = (0.0002, 0.002)
    spike_p: float = 0.01
    spike_s: float = 0.03
    slow_factor: float = 1.0
    stalled_until: float = 0.0
    fail_next: bool = False


class SimWriter:
    """Invariant: at most one write is pending, and `done` of each is called at most once."""

    def __init__(
        self,
        world: World,
        process: Process,
        settings: DiskSettings,
        rng: random.Random,
        *,
        inline: bool,
        on_hang: Callable[[float], object],
    ) -> None:
        """`on_hang` is what the watchdog thread does: it is called even while the loop stands."""
        self._world = world
        self._process = process
        self._settings = settings
        self._rng = rng
        self._inline = inline
        self._pending: tuple[Engine, Batch] | None = None
        self._started = -1.0
        self._finishing: SimTimer | None = None
        self._on_hang = on_hang
        self.writes = 0

    def submit(self, engine: Engine, batch: Batch, done: Done) -> None:
        assert self._pending is None, "one write at a time"
        assert self._process.alive, "a dead process writes"
        self._pending = (engine, batch)
        now = self._started = self._world.now
        ends = now + self._duration(now)
        if self._inline:
            self._process.freeze(ends)
        self._world.at(now + FATAL_AFTER_S, self._watch, now)
        self._finishing = self._world.at(ends, self._finish, done, now, owner=self._process)

    def _watch(self, started: float) -> None:
        if self._started == started and self._pending is not None and self._process.alive:
            self._on_hang(FATAL_AFTER_S)

    def hurry(self) -> None:
        """The disk is quick again: a write under way ends now."""
        old = self._finishing
        if old is None or old.callback is None:
            return
        self._finishing = self._world.after(0.001, old.callback, *old.args, owner=self._process)
        old.cancel()
        self._world.wake(self._process)

    def _duration(self, now: float) -> float:
        settings, rng = self._settings, self._rng
        took = rng.uniform(*settings.sync_s)
        if rng.random() < settings.spike_p:
            took += rng.uniform(0.0, settings.spike_s)
        return took * settings.slow_factor + max(0.0, settings.stalled_until - now)

    def _finish(self, done: Done, started: float) -> None:
        assert self._pending is not None
        engine, batch = self._pending
        self._pending = None
        if self._settings.fail_next and isinstance(engine, FaultyEngine):
            self._settings.fail_next = False
            engine.faults.fail_sync_in = 1
        failure: WriteFailedError | None = None
        try:
            engine.write(batch, sync=True)
            self.writes += 1
        except WriteFailedError as error:
            failure = error
        done(failure, self._world.now - started)

    def crash(self, *, keep: bool | None = None) -> None:
        """The process ends: the kernel has the write under way, unsynced, or it has not. The dice
        decide, unless a script does."""
        if keep is None:
            keep = self._rng.random() < 0.5
        if self._pending is not None and keep:
            engine, batch = self._pending
            with suppress(WriteFailedError):
                engine.write(batch, sync=False)
        self._pending = None

    def close(self) -> None:
        pass
