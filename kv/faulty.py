"""A node that fails when it is told to: a bad disk, lost power, a wrong clock. For tests alone.

The configuration refuses it for anything that looks like a real node (`_testing` in
kv/config/rules.py). It takes one JSON object a line at a loopback address and answers each with
one:

    {"do": "disk", "sync_s": 0.05, "free_bytes": 2097152, "fail_sync": true}    the rest heals
    {"do": "clock", "offset_s": 3600, "drift": 0.05}
    {"do": "power-cut"}   unsynced writes are lost as the dice say, and the process ends; no answer

Invariant: a power cut never falls into the middle of a write, because both hold the engine's lock.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from storage.clock import Clock
from storage.engine import Batch, BegunSync, Engine
from storage.errors import InvalidOptionError
from storage.faulty import FaultyEngine

_log = logging.getLogger(__name__)

EXIT_POWER_CUT: Final = 79
LINE_MAX: Final = 4096


class WrongClock:
    """Follows another clock, but faster or slower, and with another date. Its monotonic time never
    goes back, however often it is set."""

    def __init__(self, right: Clock) -> None:
        self._right = right
        self._anchor = (right.monotonic(), right.monotonic())
        self._rate = 1.0
        self._offset_s = 0.0

    def monotonic(self) -> float:
        real, shown = self._anchor
        return shown + (self._right.monotonic() - real) * self._rate

    def wall(self) -> float:
        return self._right.wall() + self._offset_s

    def set(self, offset_s: float, drift: float) -> None:
        assert drift > -1.0, "time does not stand still"
        self._anchor = (self._right.monotonic(), self.monotonic())
        self._rate = 1.0 + drift
        self._offset_s = offset_s


class _LockedEngine(FaultyEngine):
    """Writes come from the loop or from a writer thread, orders from the loop."""

    def __init__(self, inner: Engine) -> None:
        super().__init__(inner, rng=random.Random(os.urandom(16)), sleep=time.sleep)
        self.lock = threading.Lock()

    def write(self, batch: Batch, *, sync: bool) -> None:
        with self.lock:
            super().write(batch, sync=sync)

    def begin_sync(self) -> BegunSync | None:
        with self.lock:
            return super().begin_sync()

    def end_sync(self, number: int, failure: OSError | None) -> None:
        with self.lock:
            super().end_sync(number, failure)


class NodeFaults:
    """What is wrong with one node. `wrap` each engine before use; `clock` is the node's."""

    def __init__(self, clock: Clock, end: Callable[[int], None] = os._exit) -> None:
        self.clock = WrongClock(clock)
        self._engines: list[_LockedEngine] = []
        self._end = end
        self._server: asyncio.Server | None = None

    def wrap(self, engine: Engine) -> Engine:
        faulty = _LockedEngine(engine)
        self._engines.append(faulty)
        return faulty

    async def start(self, host: str, port: int) -> None:
        try:
            self._server = await asyncio.start_server(self._serve, host, port, limit=LINE_MAX)
        except OSError as error:
            raise InvalidOptionError(
                f"testing.control: cannot listen on {host}:{port}: {error.strerror}"
            ) from error
        _log.warning("this node is for tests: it loses data when %s:%d is told to", host, port)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(self._obey(line)).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError):
            pass
        finally:
            writer.close()

    def _obey(self, line: bytes) -> dict[str, str]:
        try:
            self.obey(json.loads(line))
        except (ValueError, TypeError, KeyError, AssertionError) as error:
            return {"error": f"{type(error).__name__} {error}"}
        return {}

    def obey(self, order: dict[str, Any]) -> None:
        match order["do"]:
            case "disk":
                self._set_disk(order)
            case "clock":
                self.clock.set(float(order.get("offset_s", 0)), float(order.get("drift", 0)))
            case "power-cut":
                self._cut_power()
            case other:
                raise ValueError(f"no such order: {other}")

    def _set_disk(self, order: dict[str, Any]) -> None:
        sync_s, free = float(order.get("sync_s", 0)), order.get("free_bytes")
        for engine in self._engines:
            engine.faults.slow_sync_s = sync_s
            engine.faults.disk_bytes_left = None if free is None else int(free)
            engine.faults.fail_sync_in = 1 if order.get("fail_sync") else None

    def _cut_power(self) -> None:
        for engine in self._engines:
            engine.lock.acquire()  # for good: nothing is written any more
            engine.power_cut()
        self._end(EXIT_POWER_CUT)
