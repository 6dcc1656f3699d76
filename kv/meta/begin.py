"""How this node comes to the meta group when it starts: the shell around beginning.py.

    a replica of group 0 is here      go on with it
    group 1 from before is here       serve it as it is; form group 0 from its members
    a map was kept, no replica        a member that hosts none
    nothing, and `join`               ask a member to be admitted (kv/placement/joining.py)
    nothing, and `initial` (or alone) find the founders, form group 0 with its hosts, begin

While group 0 is empty, its leader proposes what the cluster begins with.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from kv.leaderless.founding import seats_of_nodes
from kv.meta import beginning
from kv.placement.stand import votes
from kv.strong.places import is_from_before
from raftgroups.membership import Config
from raftgroups.meta.commands import Bootstrap, BootstrapLeaderless, PutNode
from raftgroups.meta.machine import META_GROUP
from raftgroups.meta.records import FIRST_SHARD
from raftgroups.transport import NodeId
from storage.errors import JanusError

if TYPE_CHECKING:
    from kv.node import Node

_log = logging.getLogger(__name__)

POLL_S: Final = 0.02
RENEW_S: Final = 2.0


class Beginning:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._founders: list[NodeId] = []
        self._leading = False

    async def begin(self) -> None:
        node = self._node
        groups = node.host.groups
        before = FIRST_SHARD in groups and is_from_before(node.engine, FIRST_SHARD)
        hosts = META_GROUP in groups and votes(groups[META_GROUP])
        if hosts:
            node.serving.host_meta()
        elif before:
            voters = groups[FIRST_SHARD].status().voters
            node.meta.map.learn(beginning.implied_view(voters))
            node.tasks.spawn(self._form_from_before(), "forming of the meta group")
            return
        elif node.meta.map.known:
            return
        elif node.settings.join:
            await node.placement.join()
            return
        elif META_GROUP in groups:
            node.serving.learn_from_removed_meta()
            return
        else:
            await self._form()
            hosts = META_GROUP in groups
        if before and not node.meta.map.known:
            node.meta.map.learn(beginning.implied_view(groups[FIRST_SHARD].status().voters))
        if hosts:
            self.keep_leading()

    def keep_leading(self) -> None:
        """From now on this node hosts a replica of group 0."""
        if not self._leading:
            self._leading = True
            self._node.tasks.spawn(self._lead(), "beginning of the meta group")

    async def _form(self) -> None:
        node = self._node
        self._founders = await node.neighbours.find_founders()
        hosts = beginning.meta_hosts(self._founders)
        if node.node_id in hosts:
            node.host.create(META_GROUP, [NodeId(each) for each in hosts])
            node.serving.host_meta()
            _log.info("formed the cluster %s with %d nodes", node.cluster_id, len(self._founders))

    async def _form_from_before(self) -> None:
        """Once the configuration of group 1 is bound to directories, and that is committed."""
        node = self._node
        while True:
            config = self._applied_config()
            if config.formed:
                break
            await asyncio.sleep(POLL_S)
        if node.node_id in config.voters:
            node.host.create(META_GROUP, sorted(config.voters), config.voters)
            node.serving.host_meta()
            _log.info("formed the meta group from the %d members of group 1", len(config.voters))
            self.keep_leading()

    def _applied_config(self) -> Config:
        journal = self._node.host.group(FIRST_SHARD).replica.journal
        return journal.config_at(journal.applied_index)[1]

    async def _lead(self) -> None:
        """For as long as the node runs: begin the cluster if nobody has, keep names new."""
        meta = self._node.meta
        while True:
            begun = meta.map.view.version > 0
            if meta.leads:
                command = self._renewal() if begun else await self._bootstrap()
                if command is not None:
                    try:
                        await meta.propose(command)
                    except JanusError as error:
                        _log.info("the meta group did not take it, it is tried again: %s", error)
                    continue
            await asyncio.sleep(RENEW_S if begun else POLL_S)

    async def _bootstrap(self) -> Bootstrap | BootstrapLeaderless | None:
        """None until every founder has shown its card."""
        node = self._node
        options = node.settings.options
        if FIRST_SHARD in node.host.groups and is_from_before(node.engine, FIRST_SHARD):
            bound = self._applied_config().voters
            old = [node.neighbours.record_of(each, bound[each]) for each in sorted(bound)]
            records = [record for record in old if record is not None]
            return beginning.upgraded(records, options) if len(records) == len(old) else None
        if not self._founders:  # restarted before it began
            self._founders = await node.neighbours.find_founders()
        found = [node.neighbours.record_of(each) for each in self._founders]
        records = [record for record in found if record is not None]
        if len(records) < len(found):
            await asyncio.sleep(POLL_S)
            return None
        hosts = beginning.meta_hosts(self._founders)
        leaderless, ring = node.settings.default_leaderless, node.settings.leaderless
        if leaderless is not None and ring is not None:
            seats = seats_of_nodes(records, ring.vnodes)
            return beginning.fresh_leaderless(records, leaderless, hosts, seats)
        return beginning.fresh(records, node.settings.shards, options, hosts)

    def _renewal(self) -> PutNode | None:
        """Of a node whose card says something else than the map."""
        node = self._node
        for known in node.meta.map.view.nodes.values():
            card = node.neighbours.all.get(NodeId(known.node))
            if card is None or card.incarnation != known.incarnation:
                continue
            shown = node.neighbours.record_of(NodeId(known.node))
            assert shown is not None
            kept = replace(shown, state=known.state, state_since_ms=known.state_since_ms)
            if kept != known:
                return PutNode(kept)
        return None
