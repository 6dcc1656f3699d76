"""Who makes a committer's synced writes: the loop, a thread, the kernel's workers.

    small batch            the loop writes and syncs it: handing a quick write to somebody costs
                           more than it saves
    SYNC_APART_BYTES and   written by the loop, synced apart, where readers may see what is not
    more                   synced yet: the loop hears the next requests meanwhile. The kernel makes
                           that sync if it and the engine can (KernelSyncs), else the thread
    APART_BYTES and more   the thread writes and syncs it
    syncs are slow         the thread writes and syncs everything, until they are quick again: a
                           slow one on the loop would freeze it

The thread fights the loop for the interpreter lock twice a batch, which a sync of the kernel does
not; figures stand in ARCHITECTURE.md. This file knows no asyncio: what a loop does for it (calls
from another thread, watching a descriptor) is given to it.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, Protocol

from storage.clock import Clock
from storage.engine import Batch, Engine, SyncsApart, syncs_apart
from storage.errors import KernelSyncUnavailableError
from storage.kernel_sync import KernelSync

SYNC_APART_BYTES: Final = 512
"""A batch of this size is more than one small operation: others wait for the loop, too."""
INLINE_BELOW_S: Final = 0.002
THREAD_ABOVE_S: Final = 0.003
APART_BYTES: Final = 256 * 1024
"""A batch of this size is written by the thread, not only synced."""
SAMPLES: Final = 31
LEAST_SAMPLES: Final = 5

Done = Callable[[BaseException | None, float], None]
"""Called on the loop with the failure, if any, and the seconds that the write took."""


class Writer(Protocol):
    """Runs one write and calls `done` exactly once, on the loop."""

    def submit(self, engine: Engine, batch: Batch, done: Done) -> None: ...

    def close(self) -> None: ...


class InlineWriter:
    """Writes at once, on the loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def submit(self, engine: Engine, batch: Batch, done: Done) -> None:
        done(*self.write(engine, batch))

    def write(self, engine: Engine, batch: Batch) -> tuple[BaseException | None, float]:
        """The failure, if any, and the seconds that it took."""
        started = self._clock.monotonic()
        failure: BaseException | None = None
        try:
            engine.write(batch, sync=True)
        except Exception as error:  # noqa: BLE001 - whatever it is, the committer must see it
            failure = error
        return failure, self._clock.monotonic() - started

    def close(self) -> None:
        pass


class ThreadWriter:
    """Writes on one dedicated thread (LMDB begins and commits on the same one)."""

    def __init__(self, clock: Clock, call_soon_threadsafe: Callable[..., object]) -> None:
        self._inline = InlineWriter(clock)
        self._post = call_soon_threadsafe
        self._work: SimpleQueue[tuple[Engine, Batch, Done] | None] = SimpleQueue()
        """One write at a time, which the committer sees to; None: no more."""
        self._thread: threading.Thread | None = None

    def submit(self, engine: Engine, batch: Batch, done: Done) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="janus-writer", daemon=True)
            self._thread.start()
        self._work.put((engine, batch, done))

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            engine, batch, done = work
            self._inline.submit(engine, batch, partial(self._report, done))

    def _report(self, done: Done, failure: BaseException | None, seconds: float) -> None:
        self._post(done, failure, seconds)

    def close(self) -> None:
        """Waits for the write in flight."""
        self._work.put(None)
        if self._thread is not None:
            self._thread.join()


class Readers(Protocol):
    """The part of an event loop that watches descriptors."""

    def add_reader(self, descriptor: int, callback: Callable[..., object], /, *args: Any) -> Any:
        """Call it on the loop whenever the descriptor can be read."""
        ...

    def remove_reader(self, descriptor: int, /) -> Any: ...


class KernelSyncs:
    """Syncs of an engine that the kernel makes, one at a time, and a loop that hears of them."""

    def __init__(self, clock: Clock, kernel: KernelSync, readers: Readers) -> None:
        self._clock = clock
        self._kernel = kernel
        self._readers = readers
        self._begun: Callable[[int], None] | None = None
        """What the outcome of the sync in flight is told to."""
        self.refused = 0
        """Syncs that could not be begun."""
        readers.add_reader(kernel.descriptor, self._ended)

    def begin(self, engine: SyncsApart, started: float, done: Done) -> bool:
        """Everything written is synced, then `done`, with the seconds since `started`. False:
        nothing was begun, and a write that syncs does it or says why not."""
        begun = engine.begin_sync()
        if begun is None:
            return False
        try:
            self._kernel.submit(begun.descriptor)
        except OSError:
            self.refused += 1
            return False
        self._begun = partial(self._tell, engine, begun.number, started, done)
        return True

    def _ended(self) -> None:
        code = self._kernel.end()
        if code is not None and self._begun is not None:
            tell, self._begun = self._begun, None
            tell(code)

    def _tell(self, engine: SyncsApart, number: int, started: float, done: Done, code: int) -> None:
        failure: BaseException | None = None
        try:
            engine.end_sync(number, OSError(code, os.strerror(code)) if code else None)
        except Exception as error:  # noqa: BLE001 - whatever it is, the committer must see it
            failure = error
        done(failure, self._clock.monotonic() - started)

    def close(self) -> None:
        """Waits for the sync in flight, which is told then."""
        self._readers.remove_reader(self._kernel.descriptor)
        if self._begun is not None:
            self._kernel.wait()
            self._ended()
        self._kernel.close()


def kernel_syncs(
    clock: Clock, readers: Readers, tell: Callable[[str], object]
) -> KernelSyncs | None:
    """None where the kernel cannot, after telling why."""
    try:
        kernel = KernelSync()
    except KernelSyncUnavailableError as error:
        tell(f"the kernel does not sync the log here, a thread does: {error}")
        return None
    return KernelSyncs(clock, kernel, readers)


class AdaptiveWriter:
    """Inline while the median sync is quick, a thread while it is slow.

    The two thresholds differ so that a disk near the border does not flip at every write. An engine
    `under_pressure` (its write_pressure() is not NONE) may make a write wait: that one goes to the
    thread whatever the median is. With `sync_apart` large batches are synced apart, by the thread
    or by `kernel`: snapshots see them a moment before they are safe. Very large ones, rows of a
    snapshot say, are written by the thread: they take long on any disk, and tell nothing of how
    long the others will. Nor do the kernel's syncs: nobody waits for them, and how long they took
    also depends on when the loop had time to look.
    """

    def __init__(
        self,
        clock: Clock,
        call_soon_threadsafe: Callable[..., object],
        *,
        under_pressure: Callable[[], bool] = lambda: False,
        sync_apart: bool = False,
        kernel: KernelSyncs | None = None,
    ) -> None:
        self._clock = clock
        self._inline = InlineWriter(clock)
        self._thread = ThreadWriter(clock, call_soon_threadsafe)
        self._samples: deque[float] = deque(maxlen=SAMPLES)
        self._slow = self._quick = 0
        """How many of them are above THREAD_ABOVE_S, and below INLINE_BELOW_S."""
        self._under_pressure = under_pressure
        self._sync_apart = sync_apart
        self._kernel = kernel
        self.threaded = False

    def submit(self, engine: Engine, batch: Batch, done: Done) -> None:
        if batch.size_bytes > APART_BYTES:
            self._thread.submit(engine, batch, done)
        elif self.threaded or self._under_pressure():
            self._thread.submit(engine, batch, self._measured(done))
        elif self._sync_apart and batch.size_bytes >= SYNC_APART_BYTES:
            self._write_then_sync(engine, batch, done)
        else:
            failure, seconds = self._inline.write(engine, batch)
            self._observe(seconds)
            done(failure, seconds)

    def _write_then_sync(self, engine: Engine, batch: Batch, done: Done) -> None:
        started = self._clock.monotonic()
        try:
            engine.write(batch, sync=False)
        except Exception as error:  # noqa: BLE001 - whatever it is, the committer must see it
            done(error, self._clock.monotonic() - started)
            return
        if (
            self._kernel is not None
            and (offer := syncs_apart(engine)) is not None
            and self._kernel.begin(offer, started, done)
        ):
            return
        written_s = self._clock.monotonic() - started
        self._thread.submit(engine, Batch(), self._measured(done, written_s))

    def _measured(self, done: Done, before_s: float = 0.0) -> Done:
        def measured(failure: BaseException | None, seconds: float) -> None:
            self._observe(before_s + seconds)
            done(failure, before_s + seconds)

        return measured

    def _observe(self, seconds: float) -> None:
        """Whether the typical one (the median) is above or below a bound is told by how many are:
        sorting them each time took 1 percent of a lone put."""
        samples = self._samples
        if len(samples) == SAMPLES:
            oldest = samples[0]
            self._slow -= oldest > THREAD_ABOVE_S
            self._quick -= oldest < INLINE_BELOW_S
        samples.append(seconds)
        self._slow += seconds > THREAD_ABOVE_S
        self._quick += seconds < INLINE_BELOW_S
        count = len(samples)
        if count < LEAST_SAMPLES:
            return
        if self.threaded:
            self.threaded = self._quick <= count // 2
        else:
            self.threaded = self._slow >= count - count // 2

    def close(self) -> None:
        """Waits for the write in flight."""
        if self._kernel is not None:
            self._kernel.close()
        self._thread.close()
