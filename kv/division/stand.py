"""Division as one node has it: the parts put together over its link, meta service and groups."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from kv.cluster.mail import NoAnswerError
from kv.division.attendant import Attendant
from kv.division.divider import Divider
from kv.division.wishes import Wishes
from raftgroups.meta.commands import MetaCommand
from raftgroups.meta.view import MetaView
from raftgroups.outcomes import ProposeResult
from raftgroups.transport import NodeId
from storage.errors import JanusError

if TYPE_CHECKING:
    from kv.node import Node

WHY: Final = "division-why"
ANSWER_WITHIN_S: Final = 0.5
_log = logging.getLogger(__name__)


class NodeDivision:
    def __init__(self, node: Node) -> None:
        self._node = node
        self.attendant = Attendant(
            host=node.host,
            notes=node.mail,
            scheduler=node.loop,
            clock=node.clock,
            rng=random.Random(os.urandom(16)),
        )
        self.divider = Divider(
            node_id=node.node_id,
            meta=self,
            notes=node.mail,
            attendant=self.attendant,
            propose=self._propose_to_group,
            leader_of=node.serving.leader_of,
            scheduler=node.loop,
            clock=node.clock,
            settings=node.settings.divider,
        )
        self.wishes = Wishes(
            meta=node.meta,
            view=lambda: self.view,
            why=self._why,
            clock=node.clock,
        )

        node.mail.on(WHY, self._asked_why)

    async def _why(self, operation: int) -> str:
        """Asked of every node that may have given it up."""
        node, own = self._node, self.divider.refusals.get(operation)
        if own is not None:
            return own
        for host in self.view.meta_replicas:
            try:
                answer = await node.mail.ask(NodeId(host), WHY, b"%d" % operation, ANSWER_WITHIN_S)
            except NoAnswerError:
                continue
            if answer:
                return answer.decode(errors="replace")
        return "the log of the meta group's leader says why"

    def _asked_why(self, peer: NodeId, body: bytes) -> bytes:
        number = int(body) if body.isdigit() else 0
        return self.divider.refusals.get(number, "").encode()

    def start(self) -> None:
        self._node.meta.map.on_change(lambda _: self.divider.hurry())
        self.attendant.start()
        self.divider.start()

    def stop(self) -> None:
        self.attendant.stop()
        self.divider.stop()

    def _propose_to_group(
        self,
        target: NodeId,
        group: int,
        payload: bytes,
        within_s: float,
        done: Callable[[ProposeResult], None],
    ) -> None:
        node = self._node
        if target == node.node_id:
            node.serving.lead(group, payload, done)
        else:
            until_s = node.clock.monotonic() + within_s
            node.forwarder.send(target, group, payload, until_s, done, repeatable=True)

    # --- kv.division.divider.Meta ---------------------------------------------------------------

    @property
    def leads(self) -> bool:
        return self._node.meta.leads and not self._node.draining

    @property
    def view(self) -> MetaView:
        return self._node.meta.map.view

    def propose(self, command: MetaCommand, done: Callable[[bool], None]) -> None:
        self._node.tasks.spawn(self._propose(command, done), "step of a split or merge")

    async def _propose(self, command: MetaCommand, done: Callable[[bool], None]) -> None:
        applied = False
        try:
            await self._node.meta.propose(command)
            applied = True
        except JanusError as error:
            _log.info("the meta group did not take %s: %s", type(command).__name__, error)
        done(applied)
