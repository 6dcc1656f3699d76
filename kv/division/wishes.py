"""Splits and merges that operators ask for, on any node: checked, begun in the map, waited for.

What was begun goes on by itself, whoever leads the meta group, whether who asked stays or leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from kv.division.cuts import refusal_of
from kv.division.divider import begin
from kv.division.figures import Shown
from kv.division.limits import Due
from kv.division.words import GATHER, MERGE, SPLIT
from kv.errors import OutcomeUnknownError, UnavailableError
from raftgroups.meta.commands import EndOperation, MetaAnswerBody, MetaCommand, OperationMade
from raftgroups.meta.records import OperationRecord, ShardRecord
from raftgroups.meta.refusals import InvalidShardsError, ShardBusyError, UnknownShardError
from raftgroups.meta.view import MetaView
from storage.clock import Clock

LOOK_S: Final = 0.02
SPLIT_S: Final = 10.0
MERGE_S: Final = 8.0
"""So long who asked waits for the whole of it."""


class Meta(Protocol):
    """kv/meta/service.py MetaService."""

    async def propose(
        self, command: MetaCommand, deadline_s: float | None = None
    ) -> MetaAnswerBody: ...

    async def refresh(self) -> None: ...


class Wishes:
    """For the node's loop only. All raise MetaRefusedError (nothing was done), UnavailableError
    (nothing was done, perhaps it can be later), OutcomeUnknownError (it goes on)."""

    def __init__(
        self,
        *,
        meta: Meta,
        view: Callable[[], MetaView],
        why: Callable[[int], Awaitable[str]],
        clock: Clock,
    ) -> None:
        """`why` an operation was given up, as whoever did it says."""
        self._meta = meta
        self._view = view
        self._why = why
        self._clock = clock

    async def split(self, shard: int, key: bytes) -> tuple[ShardRecord, ShardRecord]:
        """Both halves, once the map has them."""
        record = self._shard(shard)
        if not (key > record.start and record.holds(key)):
            raise InvalidShardsError(
                f"shard {shard} holds {record.start!r} to {record.end!r}; split it at a key within"
            )
        if refusal := refusal_of(key, record.start):
            raise InvalidShardsError(refusal)
        operation = await self._begin(Due(SPLIT, (shard,), key, "asked for"))
        right = operation.new_shards[0]
        view = await self._done(operation, SPLIT_S, lambda view: right in view.shards)
        return view.shards[shard], view.shards[right]

    async def merge(self, left: int, right: int | None = None) -> ShardRecord:
        """A shard and its right neighbour, which `right` names if given; what they became."""
        record = self._shard(left)
        neighbour = next(
            (
                each
                for each in self._view().shards_of(record.keyspace)
                if record.end is not None and each.start == record.end
            ),
            None,
        )
        if neighbour is None:
            raise InvalidShardsError(
                f"shard {left} is the last one of its keyspace; name the left one of the two that "
                "are to be merged"
            )
        if right is not None and right != neighbour.shard:
            self._shard(right)
            raise InvalidShardsError(
                f"shard {right} is not the right neighbour of shard {left}: that is shard "
                f"{neighbour.shard}; only neighbours can be merged"
            )
        operation = await self._begin(Due(MERGE, (left, neighbour.shard), b"", "asked for"))
        gone = neighbour.shard
        view = await self._done(operation, MERGE_S, lambda view: gone not in view.shards)
        return view.shards[left]

    async def let_go(self, shard: int) -> OperationRecord:
        """End the merge of this shard and a neighbour while their replicas are still being brought
        together: nothing was merged, and what was moved stays where it is."""
        self._shard(shard)
        operation = self._view().operation_of(shard)
        if operation is None or operation.kind != MERGE:
            raise InvalidShardsError(f"shard {shard} is not being merged; there is nothing to end")
        if operation.step != GATHER:
            raise ShardBusyError(
                f"the replicas of shard {' and '.join(map(str, operation.shards))} are together "
                "and being made one: that is done or undone within some seconds; list the shards"
            )
        await self._meta.propose(EndOperation(operation.operation, GATHER))
        return operation

    def _shard(self, shard: int) -> ShardRecord:
        found = self._view().shards.get(shard)
        if found is None or not found.keyspace:
            raise UnknownShardError(f"there is no shard {shard} of a keyspace; list the shards")
        return found

    async def _begin(self, due: Due) -> OperationRecord:
        begun = await self._meta.propose(begin(self._view(), due, Shown()))
        assert isinstance(begun, OperationMade)
        return begun.record

    async def _done(
        self, operation: OperationRecord, within_s: float, done: Callable[[MetaView], bool]
    ) -> MetaView:
        number, shards = operation.operation, " and ".join(map(str, operation.shards))
        until_s = self._clock.monotonic() + within_s
        while self._clock.monotonic() < until_s:
            view = self._view()
            over = view.next.operation > number and number not in view.operations
            if over and not done(view):
                await self._meta.refresh()
                view = self._view()
            if over and done(view):
                return view
            if over:
                raise UnavailableError(
                    f"nothing was done: the {operation.kind} of shard {shards} was given up: "
                    + await self._why(number)
                )
            await asyncio.sleep(LOOK_S)
        raise OutcomeUnknownError(
            f"the {operation.kind} of shard {shards} has begun (operation {number}) and goes on by "
            "itself; list the shards to see it done"
        )
