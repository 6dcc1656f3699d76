"""Splitting shards, through the meta group, in steps that survive a crash of any node at any step.

    1  BeginOperation         the map says that the shard is busy, and has the new numbers
    2  Split, to the group    one entry of the shard's own log; its leader proposes it
    3  EndOperation           the map has both halves

Whoever leads the meta group does the next step of every split that the map holds, whoever began it.
Step 2 may be made twice: a shard that was split already answers that the key is not within it any
more, and since the map lets nobody else touch it meanwhile, that was this split.

Between 2 and 3 the left half refuses the keys of the right one, and whoever routes by the old map
tries again: that is the whole pause of a split.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from msgspec.structs import replace

from kv.errors import OutcomeUnknownError, UnavailableError
from kv.meta.service import MetaService
from kv.strong.forward import Forwarder
from raftgroups.commands import Command, Split, encode
from raftgroups.meta.commands import BeginOperation, EndOperation, OperationMade, StepOperation
from raftgroups.meta.records import OperationRecord, ShardRecord, ShardState
from raftgroups.meta.refusals import InvalidShardsError, UnknownShardError
from raftgroups.meta.view import MetaView
from raftgroups.outcomes import Applied, ProposeResult, Refused
from raftgroups.results import Failure, Result, SplitResult, error_of
from raftgroups.transport import NodeId
from storage.clock import Clock
from storage.errors import InvalidRequestError, JanusError, WrongShardError

_log = logging.getLogger(__name__)

SPLIT: Final = "split"
PROPOSE: Final = "propose"
LOOK_S: Final = 0.02
IDLE_LOOK_S: Final = 1.0
TRY_S: Final = 2.0
GROUP_DEADLINE_S: Final = 10.0
ATTEMPTS_MAX: Final = 20
"""Of the entry; then the split is given up, unless it may have been done."""

Lead = Callable[[int, bytes, float, Callable[[ProposeResult], None]], None]
"""(group, payload, seconds, done): propose it here if this node leads the group, else Refused."""


class Groups(Protocol):
    def leader_of(self, group: int) -> NodeId | None:
        """As this node knows it; None too if it has no replica."""
        ...


class Divider:
    """For the node's loop only."""

    def __init__(
        self,
        *,
        meta: MetaService,
        forwarder: Forwarder,
        lead: Lead,
        groups: Groups,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
    ) -> None:
        self._meta = meta
        self._forwarder = forwarder
        self._lead = lead
        self._groups = groups
        self._loop = loop
        self._clock = clock
        self._wake = asyncio.Event()
        self._refusals: dict[int, str] = {}
        """Why splits were given up here, until who asked is told."""

    # --- asked by an operator, or by the planner ----------------------------------------------

    async def split(self, shard: int, key: bytes) -> tuple[ShardRecord, ShardRecord]:
        """Both halves, once the map has them. Raises MetaRefusedError, UnavailableError,
        OutcomeUnknownError."""
        record = self._meta.map.view.shards.get(shard)
        if record is None or not record.keyspace:
            raise UnknownShardError(f"there is no shard {shard} of a keyspace; list the shards")
        if not (key > record.start and record.holds(key)):
            raise InvalidShardsError(
                f"shard {shard} holds {record.start!r} to {record.end!r}; split it at a key within"
            )
        wanted = OperationRecord(0, SPLIT, PROPOSE, shards=(shard,), key=key)
        begun = await self._meta.propose(
            BeginOperation(wanted, (record.epoch,), new_shards=1, new_segments=2)
        )
        assert isinstance(begun, OperationMade)
        self._wake.set()
        return await self._done(begun.record)

    async def _done(self, operation: OperationRecord) -> tuple[ShardRecord, ShardRecord]:
        left, right = operation.shards[0], operation.new_shards[0]
        until_s = self._clock.monotonic() + GROUP_DEADLINE_S
        while self._clock.monotonic() < until_s:
            view = self._meta.map.view
            if right in view.shards:
                return view.shards[left], view.shards[right]
            if view.version > 0 and operation.operation not in view.operations:
                await self._meta.refresh()
                view = self._meta.map.view
                known = view.next.operation > operation.operation
                if known and right not in view.shards and not view.operation_of(left):
                    why = self._refusals.pop(
                        operation.operation, "the log of the meta group's leader says why"
                    )
                    raise UnavailableError(
                        f"nothing was done: the split of shard {left} was given up: {why}"
                    )
            await asyncio.sleep(LOOK_S)
        raise OutcomeUnknownError(
            f"the split of shard {left} has begun (operation {operation.operation}) and goes on by "
            "itself; list the shards to see it done"
        )

    # --- done by whoever leads the meta group -------------------------------------------------

    async def run(self) -> None:
        """For as long as the node runs."""
        self._meta.map.on_change(lambda _: self._wake.set())
        while True:
            due = self._due(self._meta.map.view) if self._meta.leads else []
            for operation in due:
                try:
                    await self._step(operation)
                except JanusError as error:
                    _log.info("operation %d waits: %s", operation.operation, error)
                    await asyncio.sleep(LOOK_S)
            if not due:
                try:
                    await asyncio.wait_for(self._wake.wait(), IDLE_LOOK_S)
                except TimeoutError:
                    continue
                self._wake.clear()

    def _due(self, view: MetaView) -> list[OperationRecord]:
        return [each for each in view.operations.values() if each.kind == SPLIT]

    async def _step(self, operation: OperationRecord) -> None:
        (shard,) = operation.shards
        parent = self._meta.map.view.shards[shard]
        (right,), (left_segment, right_segment) = operation.new_shards, operation.new_segments
        command = Split(operation.key, right, left_segment, right_segment)
        try:
            result = await self._ask_group(parent, command)
            assert isinstance(result, SplitResult), result
        except WrongShardError:
            pass  # done by an earlier try
        except InvalidRequestError as error:
            self._refusals[operation.operation] = str(error)
            await self._meta.propose(EndOperation(operation.operation, operation.step))
            _log.warning("the split of shard %d was given up: %s", shard, error)
            return
        except UnavailableError as error:
            await self._again(operation, str(error))
            return
        halves = (
            replace(parent, end=operation.key, segment=left_segment),
            replace(
                parent,
                shard=right,
                start=operation.key,
                segment=right_segment,
                founders=(),
                formed=(),
                state=ShardState.ACTIVE,
            ),
        )
        await self._meta.propose(
            EndOperation(operation.operation, operation.step, ((shard, parent.epoch),), halves)
        )
        _log.info("shard %d was split at %r: its right half is %d", shard, operation.key, right)

    async def _again(self, operation: OperationRecord, why: str) -> None:
        if operation.attempts >= ATTEMPTS_MAX:
            await self._meta.propose(EndOperation(operation.operation, operation.step))
            _log.warning("operation %d was given up: %s", operation.operation, why)
        else:
            step = operation.step
            await self._meta.propose(StepOperation(operation.operation, step, step, why[:200]))

    async def _ask_group(self, shard: ShardRecord, command: Command) -> Result:
        """Have a shard's leader propose it. A command that may be made twice. Raises what the
        machine refuses, UnavailableError (surely not done), OutcomeUnknownError."""
        payload = encode(command)
        hint = self._groups.leader_of(shard.shard)
        replicas = [NodeId(each) for each in shard.replicas]
        until_s = self._clock.monotonic() + GROUP_DEADLINE_S
        unsure, why, turn = False, "it has no replica", 0
        while replicas and self._clock.monotonic() < until_s:
            target = hint or replicas[turn % len(replicas)]
            turn += 1
            result = await self._try(target, shard.shard, payload)
            if isinstance(result, Applied):
                answer = result.result
                if isinstance(answer, Failure):
                    raise error_of(answer)
                return answer  # type: ignore[return-value]
            unsure = unsure or not isinstance(result, Refused)
            hint = result.leader if isinstance(result, Refused) else None
            why = result.reason
            await asyncio.sleep(LOOK_S)
        if unsure:
            raise OutcomeUnknownError(f"shard {shard.shard} has not answered: {why}")
        raise UnavailableError(f"shard {shard.shard} did not take it: {why}")

    async def _try(self, target: NodeId, group: int, payload: bytes) -> ProposeResult:
        answer: asyncio.Future[ProposeResult] = self._loop.create_future()
        done = partial(_settle, answer)
        if target == self._meta.node_id:
            self._lead(group, payload, TRY_S, done)
        else:
            until_s = self._clock.monotonic() + TRY_S
            self._forwarder.send(target, group, payload, until_s, done, repeatable=True)
        return await answer


def _settle(answer: asyncio.Future[ProposeResult], result: ProposeResult) -> None:
    if not answer.done():
        answer.set_result(result)
