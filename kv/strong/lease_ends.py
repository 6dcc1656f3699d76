"""The ends of leases, driven from their home to every shard of a keyspace (raftgroups/lease.py).

    leases stand as ended at home, and this node leads it
        --> LeaseEnd to all shards at once, by the map; each answers for which range it was done
        --> what is not covered: a newer map, and again
        --> all of it is: LeaseForget at home

There is no memory but the home's own rows: whoever leads it next begins anew, and a LeaseEnd that
comes twice finds no keys. Splits and merges meanwhile only move what was done already, or show as a
gap. What was attached in between is fenced by the epoch that each LeaseEnd brings.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kv.cluster.tasks import TaskOwner, TasksClosedError
from kv.model import PLAIN_WRITE
from kv.router import HOME, Scope, of_key
from kv.strong.attached import OLD_VERSION
from kv.strong.coverage import Coverage
from kv.strong.routed import RoutedWrite
from raftgroups.commands import LeaseEnd, LeaseForget, encode
from raftgroups.levels import LINEAGE_LEVEL
from raftgroups.results import LeaseEndResult
from storage.errors import JanusError, WrongShardError

if TYPE_CHECKING:
    from kv.strong.keyspace import Keyspace
    from kv.strong.shard import StrongShard

_log = logging.getLogger(__name__)

TRY_S: Final = 2.0
AGAIN_S: Final = 0.05
TOGETHER: Final = 64
"""Shards that are told at once."""


class _Driven(RoutedWrite):
    """A command for whichever shard holds a key; it may be made twice."""

    __slots__ = ("_scope",)

    def __init__(
        self,
        keyspace: Keyspace,
        done: asyncio.Future[Any],
        command: LeaseEnd | LeaseForget,
        scope: Scope,
    ) -> None:
        super().__init__(
            keyspace,
            partial(_settle, done),
            keyspace.now_s() + TRY_S,
            command,
            encode(command),
            PLAIN_WRITE,
        )
        self.repeatable = True
        self._scope = scope

    def scope(self) -> Scope:
        return self._scope

    def hand_over(self, shard: StrongShard) -> None:
        if shard.group.leads and shard.group.feature_level < LINEAGE_LEVEL:
            self.try_again(OLD_VERSION)
        else:
            self.take_here(shard, self._answered_here, stays=True)

    def _answered_here(self, answer: Any) -> None:
        if isinstance(answer, WrongShardError):
            self.try_again(str(answer), look=True)  # it is being merged
        else:
            self.answer(answer)


class LeaseEnds:
    """Of one keyspace, on this node. At most one round is under way."""

    def __init__(self, keyspace: Keyspace, tasks: TaskOwner) -> None:
        self._keyspace = keyspace
        self._tasks = tasks
        self._driving = False
        self.rounds = 0
        """For tests and metrics."""

    def drive(self, home: StrongShard) -> None:
        """Called after every turn in which something stands as ended."""
        if not self._driving and not self._keyspace.stopped:
            try:
                self._tasks.spawn(self._drive(home), "ends of leases")
                self._driving = True
            except TasksClosedError:
                pass  # the next leader does it

    async def _drive(self, home: StrongShard) -> None:
        try:
            while self._leads(home) and (end := home.machine.ended_elsewhere()) is not None:
                self.rounds += 1
                try:
                    if await self._everywhere(home, end):
                        await self._ask(LeaseForget(end.leases), HOME)
                except JanusError as error:  # the map is not known, or the keyspace is gone
                    _log.info("the ends of leases go on later: %s", error)
                await asyncio.sleep(AGAIN_S)
        finally:
            self._driving = False

    def _leads(self, home: StrongShard) -> bool:
        return home.group.settled and not (self._keyspace.stopped or home.waiting.stopped)

    async def _everywhere(self, home: StrongShard, end: LeaseEnd) -> bool:
        """False: this node leads their home no longer."""
        coverage = Coverage()
        while gaps := coverage.gaps:
            if not self._leads(home):
                return False
            table = self._keyspace.table
            starts = [
                max(low, record.start)
                for low, high in gaps
                for record in table.overlapping(low, high)
            ]
            asked = [self._ask(end, of_key(start)) for start in starts[:TOGETHER]]
            for answer in await asyncio.gather(*asked):
                if isinstance(answer, LeaseEndResult):
                    coverage.add(answer.start, answer.end)
                else:
                    _log.debug("a shard was not told the end of leases: %s", answer)
            if coverage.gaps and len(starts) <= TOGETHER:
                await self._keyspace.look_anew()
                await asyncio.sleep(AGAIN_S)
        return True

    async def _ask(self, command: LeaseEnd | LeaseForget, scope: Scope) -> object:
        """A result, or a JanusError."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        _Driven(self._keyspace, done, command, scope).start()
        return await done


def _settle(done: asyncio.Future[Any], answer: Any) -> None:
    if not done.done():
        done.set_result(answer)
