"""Placement as one node has it: the parts put together, and what replicas coming and going mean.

    Attendant, Mover --> this --> keeper: replicas of shards are made and erased
                              '-> meta service: a replica of group 0 is hosted once it votes
    Admission, Newcomer           nodes become members
    PlacementService              what operators ask for

A node that the map does not name any more, or calls dead, ends: nothing that it holds counts.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from kv.cluster.cards import Card
from kv.placement.attendant import Attendant
from kv.placement.joining import JOIN, Admission, JoinRefusedError, Newcomer, why_not_member
from kv.placement.mover import Mover
from kv.placement.service import PlacementService
from raftgroups.group import Group
from raftgroups.meta.commands import MetaCommand
from raftgroups.meta.machine import META_GROUP
from raftgroups.meta.records import ShardRecord
from raftgroups.meta.view import MetaView
from raftgroups.status import Role
from raftgroups.transport import NodeId
from storage.clock import Timer
from storage.errors import JanusError

if TYPE_CHECKING:
    from kv.node import Node

_log = logging.getLogger(__name__)

EXIT_REMOVED: Final = 73
FOLLOW_S: Final = 0.5
LEAVE_S: Final = 1.0
"""Whoever asked this very node to remove itself gets the answer first."""


class NodePlacement:
    """For the node's loop only."""

    def __init__(self, node: Node) -> None:
        self._node = node
        loop = node.loop
        self.attendant = Attendant(
            host=node.host,
            notes=node.mail,
            replicas=self,
            view=lambda: self.view,
            full=lambda: node.guard.raised,
            scheduler=loop,
            clock=node.clock,
        )
        self.mover = Mover(
            node_id=node.node_id,
            meta=self,
            notes=node.mail,
            attendant=self.attendant,
            scheduler=loop,
            clock=node.clock,
            settings=node.settings.mover,
        )
        self.admission = Admission(
            view=lambda: self.view, propose=node.meta.propose, tasks=node.tasks
        )
        node.mail.on(JOIN, self.admission.asked)
        self.service = PlacementService(
            node_id=node.node_id,
            meta=node.meta,
            view=lambda: self.view,
            mover=self.mover,
            mail=node.mail,
            link=node.link,
            ring=node.stand,
        )
        self._timer: Timer | None = None
        self._leaving = False

    def start(self) -> None:
        self._node.meta.map.on_change(self._check_membership)
        self._node.meta.map.on_change(lambda _: self.mover.hurry())
        self.attendant.start()
        self.mover.start()
        self._follow()

    def stop(self) -> None:
        self.attendant.stop()
        self.mover.stop()
        if self._timer is not None:
            self._timer.cancel()

    # --- kv.placement.mover.Meta ----------------------------------------------------------------

    @property
    def leads(self) -> bool:
        return self._node.meta.leads and not self._node.draining

    @property
    def view(self) -> MetaView:
        return self._node.meta.map.view

    def propose(self, command: MetaCommand) -> None:
        self._node.tasks.spawn(self._propose(command), "correction of the map")

    async def _propose(self, command: MetaCommand) -> None:
        try:
            await self._node.meta.propose(command)
        except JanusError as error:
            _log.info("the meta group did not take %s: %s", type(command).__name__, error)

    # --- kv.placement.attendant.Replicas --------------------------------------------------------

    def admit(self, shard: ShardRecord) -> None:
        if shard.shard == META_GROUP:
            self._node.host.join(META_GROUP)
        else:
            self._node.keeper.join(shard)

    def release(self, group: int) -> None:
        if group == META_GROUP:
            self._node.meta.unhost()
            self._node.host.forget(META_GROUP, lambda: None)
        else:
            self._node.keeper.forget(group)

    def size_of(self, group: int) -> tuple[int, int]:
        machine = self._node.serving.machines.get(group)
        if machine is None:
            return (0, 0)
        state = machine.shard.state
        return state.keys, state.keys + state.revision - max(1, state.compact_revision)

    # --- what follows from configurations -------------------------------------------------------

    def _follow(self) -> None:
        """Replicas become voters, or none, by entries of their groups, which tell nobody."""
        self._timer = self._node.loop.call_later(FOLLOW_S, self._follow)
        self._node.keeper.look_soon()
        self.follow_meta()

    def follow_meta(self) -> None:
        """A replica of group 0 that votes knows the map; one that is being filled, or was removed,
        would only keep this node from asking those who do."""
        node = self._node
        group = node.host.groups.get(META_GROUP)
        if group is None or not votes(group):
            if node.meta.group is not None:
                node.meta.unhost()
        elif node.meta.group is not group:
            node.serving.host_meta()
            node.beginning.keep_leading()

    def _check_membership(self, view: MetaView) -> None:
        reason = why_not_member(view, self._node.node_id, self._node.host.incarnation)
        if reason and not self._leaving and not self._node.draining:
            self._leaving = True
            _log.critical("%s", reason)
            self._node.loop.call_later(LEAVE_S, self._node.on_fatal, EXIT_REMOVED, reason)

    # --- coming in ------------------------------------------------------------------------------

    async def join(self) -> None:
        """Returns once the map names this node. Raises what cannot be mended by waiting."""
        node = self._node
        if node.host.groups:
            raise JoinRefusedError(
                f"{node.settings.data} holds replicas of an earlier life and no map of the "
                "cluster; empty it, and start again: the node joins as a new one"
            )
        record = node.neighbours.record_of(node.node_id)
        assert record is not None, "the own card is whole"
        newcomer = Newcomer(node.link, node.mail, node.settings.join, route=node.neighbours.route)
        view = await newcomer.join(record)
        node.neighbours.learn(
            {
                NodeId(each.node): Card(each.node, each.name, each.peer, each.client)
                for each in view.nodes.values()
                if each.node != node.node_id
            }
        )
        node.meta.learn(view)
        _log.info("this node joined the cluster %s of %d nodes", node.cluster_id, len(view.nodes))


def votes(group: Group) -> bool:
    """It has a state of its own and counts: neither blank, nor being filled, nor removed."""
    return not group.blank and group.readable and group.role not in (Role.LEARNER, Role.REMOVED)
