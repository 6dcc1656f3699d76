"""The groups of this node follow the map: they are formed, served and erased as it says.

    FORMING, and we are a founder    form the group, exactly once; report it when it is on the disk
    a replica is here, and votes     serve it
    it was removed from its group    stop serving
    its shard is over by the map     stop serving; erase, unless one here may have yet to absorb it
    RETIRED                          stop serving, erase, report
    to join, to be forgotten         `join`, `forget`: whoever moves replicas asks for it

A replica that is being filled is not served: requests go to the others, as if none were here.

Forming is safe at any time and in any order: all founders form with the same voters, bound to the
same directories; one that comes late is like one that was down since the beginning. But it must
happen once: whoever reported a group and does not have it any more does not form it again.

A replica that the map does not name is not erased for that: the map may be old, and groups remove
members by themselves. One whose shard is over is: views are what the meta group has committed, and
what is over in one of them is in every later one (`MetaView.is_over`), so no view is too old to say
it. Its node was away when it was moved and the shard absorbed elsewhere; nobody would ever tell it,
and the snapshot of a shard that has these keys now would be refused beside it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from kv.cluster.tasks import TaskOwner
from kv.meta.service import MetaService
from kv.strong.places import forget_place, is_formed, write_place
from raftgroups.group import Group
from raftgroups.host import GroupHost
from raftgroups.machine_parts import ShardPlace
from raftgroups.meta.commands import MetaCommand, ReportErased, ReportFormed
from raftgroups.meta.machine import META_GROUP
from raftgroups.meta.records import ShardRecord, ShardState
from raftgroups.meta.view import MetaView
from raftgroups.status import Role
from raftgroups.transport import NodeId
from storage.engine import Engine
from storage.errors import JanusError

_log = logging.getLogger(__name__)

LOOK_S: Final = 0.02
REPORT_AGAIN_S: Final = 1.0


class Keeper:
    """For the node's loop only."""

    def __init__(
        self,
        *,
        host: GroupHost,
        engine: Engine,
        meta: MetaService,
        serve: Callable[[int], None],
        leave: Callable[[int], None],
        served: Callable[[], Iterable[int]],
        tasks: TaskOwner,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """`serve` and `leave` begin and end to serve a group that is here."""
        self._host = host
        self._engine = engine
        self._meta = meta
        self._serve = serve
        self._leave = leave
        self._served = served
        self._tasks = tasks
        self._loop = loop
        self._formed: set[int] = set()
        """To be reported."""
        self._erased: set[int] = set()
        self._erasing: set[int] = set()
        self._reporting = False
        self._scheduled = False
        self._stopped = False

    def start(self) -> None:
        self._meta.map.on_change(lambda _: self.look_soon())

    def look_soon(self) -> None:
        """Views are told in the middle of a turn, and a turn is no time to form groups."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._scheduled = False
        if self._stopped:
            return
        view = self._meta.map.view
        for shard in view.shards_on(self._host.node_id):
            if shard.shard != META_GROUP:
                self._follow(shard)
        self._erase_what_is_over(view)
        served = set(self._served())
        for group in list(self._host.groups):
            if group not in served and self.is_due(group):
                self._serve(group)  # whatever made it: a start, a join, a split
        for group in served:
            if not self._counts(group):
                self._leave(group)
        if self._formed or self._erased:
            self._report_soon()

    def _follow(self, shard: ShardRecord) -> None:
        here = shard.shard in self._host.groups
        if shard.state is ShardState.RETIRED:
            if here:
                self._erase(shard.shard)
            elif shard.shard not in self._erasing:
                self._erased.add(shard.shard)
        elif shard.state is ShardState.FORMING:
            founders = {NodeId(node): incarnation for node, incarnation in shard.founders}
            own = self._host.node_id
            if founders.get(own) != self._host.incarnation or own in shard.formed:
                return
            if not here:
                write_place(self._engine, place_of(shard))
                self._host.create(shard.shard, sorted(founders), founders)
            self._formed.add(shard.shard)

    def _erase_what_is_over(self, view: MetaView) -> None:
        for group in list(self._host.groups):
            if group != META_GROUP and view.is_over(group) and not self._host.awaited(group):
                _log.info("shard %d is over, and what this node had of it is erased", group)
                self._erase(group, told=False)

    def is_due(self, group: int) -> bool:
        """It is here and to be served."""
        return group != META_GROUP and group not in self._erasing and self._counts(group)

    def _counts(self, group: int) -> bool:
        found = self._host.groups.get(group)
        return found is not None and counts(found, self._meta.map.view)

    def join(self, shard: ShardRecord) -> None:
        """An empty replica that waits to be added to the group as a learner."""
        if shard.shard not in self._host.groups and shard.shard not in self._erasing:
            write_place(self._engine, place_of(shard))
            self._host.join(shard.shard)

    def forget(self, group: int) -> None:
        """Erase a replica that was removed from its group, or never admitted. It may join again."""
        self._leave(group)
        self._erasing.add(group)

        def erased() -> None:
            forget_place(self._engine, group)
            self._erasing.discard(group)

        self._host.forget(group, erased)

    def _erase(self, group: int, *, told: bool = True) -> None:
        """`told`: the meta group waits to hear of it."""
        self._leave(group)
        self._erasing.add(group)

        def erased() -> None:
            forget_place(self._engine, group)
            self._erasing.discard(group)
            if told:
                self._erased.add(group)
                self._report_soon()

        self._host.retire(group, erased)

    # --- reports ------------------------------------------------------------------------------

    def _report_soon(self) -> None:
        if not self._reporting and not self._stopped:
            self._reporting = True
            self._tasks.spawn(self._report(), "report of groups")

    async def _report(self) -> None:
        try:
            while (self._formed or self._erased) and not self._stopped:
                await self._report_once()
        finally:
            self._reporting = False

    async def _report_once(self) -> None:
        formed = {each for each in self._formed if is_formed(self._engine, each)}
        erased = set(self._erased)
        own = self._host.node_id
        if formed and await self._told(ReportFormed(own, tuple(sorted(formed)))):
            self._formed -= formed
        if erased and await self._told(ReportErased(own, tuple(sorted(erased)))):
            self._erased -= erased
        if self._formed or self._erased:
            await asyncio.sleep(LOOK_S)

    async def _told(self, command: MetaCommand) -> bool:
        try:
            await self._meta.propose(command)
        except JanusError as error:
            _log.debug("a report will be made again: %s", error)
            await asyncio.sleep(REPORT_AGAIN_S)
            return False
        return True

    def stop(self) -> None:
        self._stopped = True


def place_of(shard: ShardRecord) -> ShardPlace:
    return ShardPlace(
        shard.shard, shard.shard, shard.keyspace, shard.segment, shard.start, shard.end
    )


def replicas_here(view: MetaView, node: str) -> list[int]:
    return sorted(each.shard for each in view.shards_on(node))


def counts(group: Group, view: MetaView) -> bool:
    """It has a state of its own: neither blank, nor a learner, nor removed. (A snapshot may be put
    in its place: then it refuses by itself for a while, and its watchers wait.) And its shard is
    one still: who was away when its replica was moved and the shard absorbed elsewhere, is told by
    nobody, and would hold on to keys that are another one's now. Pure."""
    if group.blank or view.is_over(group.group_id):
        return False
    return group.role not in (Role.LEARNER, Role.REMOVED)
