"""A shard's machine that tells this node's watchers, and nothing else, what happens to it."""

from __future__ import annotations

from collections.abc import Callable

from raftgroups.machine import Observer, ShardMachine
from raftgroups.machine_parts import CommittedState, ShardPlace


class ServedMachine(ShardMachine):
    """`on_restored` is called when the state was replaced (a snapshot) or read (at the start)."""

    on_restored: Callable[[], None] | None = None

    def __init__(self, source: CommittedState, place: ShardPlace) -> None:
        super().__init__(source, place)
        self.place = place

    def restored(self, index: int) -> None:
        super().restored(index)
        if self.on_restored is not None:
            self.on_restored()

    def observe(self, observer: Observer | None) -> None:
        """Without watchers there is no observer, so that a put pays nothing for them."""
        self.observer = observer
