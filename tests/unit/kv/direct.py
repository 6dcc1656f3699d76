"""A strong keyspace of one shard without Raft: its machine in memory, and the real hubs over it.

A command is applied when it is asked for. The faces' tests make their regimes of it, each with its
own time and its own failures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from kv.model import PLAIN_READ, ReadOptions
from kv.regime import Done, Give
from kv.strong.hubs import ShardHubs
from kv.strong.joined import alone
from kv.strong.machine import ServedMachine
from kv.strong.reader import ReplicaReader
from kv.watch.messages import Encode
from kv.watch.shard_watches import ShardWatches
from kv.watch.watcher import WatchLimits
from raftgroups.machine_parts import ShardPlace
from storage.clock import Clock
from storage.latest import Latest
from storage.memory import MemoryEngine


class DirectShard:
    """What of kv/regime.py Strong does not depend on how one writes and reads. Use it from its
    loop."""

    single = True

    def __init__(self, place: ShardPlace, clock: Clock, limits: WatchLimits | None = None) -> None:
        self.limits = limits
        self._clock = clock
        self._place = place
        self._hubs: ShardHubs | None = None
        self.engine = MemoryEngine()
        self.machine = ServedMachine(Latest(self.engine, clock), place)
        self.machine.restored(0)

    def now_ms(self) -> int:
        """The shard's time."""
        return int(self._clock.monotonic() * 1000)

    def apply_payload(self, index: int, payload: bytes) -> object:
        result = self.machine.apply(index, payload)
        if self._hubs is not None:
            self._hubs.after_turn()
        return result

    def reader(self, term: int) -> ReplicaReader:
        reader = ReplicaReader(self.machine, self._place.shard, self.now_ms)
        reader.term = term
        return reader

    def ground(self, watches: object, page: object) -> None:
        """One shard for ever."""

    def get(self, key: bytes, asker: Any, give: Give) -> None:
        self.read(*alone((key, asker, give)))

    def read(
        self,
        evaluate: Callable[[ReplicaReader], Any],
        done: Done[Any],
        options: ReadOptions = PLAIN_READ,
    ) -> None:
        raise NotImplementedError("a regime of a face has its own")

    def shard_of(self, key: bytes) -> int:
        return self._place.shard

    def watches(self, encode: Encode) -> ShardWatches:
        if self._hubs is None:
            self._hubs = ShardHubs(
                self.machine,
                readable=lambda: True,
                scheduler=asyncio.get_running_loop(),
                clock=self._clock,
                limits=self.limits,
            )
        return self._hubs.make(encode, 0)

    @property
    def hubs(self) -> list[ShardWatches]:
        return [] if self._hubs is None else self._hubs.hubs

    def stop(self) -> None:
        if self._hubs is not None:
            self._hubs.stop()
