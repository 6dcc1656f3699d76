"""Whether the nodes of a keyspace serve it yet: asked of each until all say so, or enough in time.

A keyspace is made once the map has it, and each node serves it when it has heard of that. Whoever
made it wants to write then: he is answered once every node of its ring serves it, or after a short
grace as many as one of its writes needs, so that a node that is away holds nobody up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Final

from kv.cluster.mail import Mail, NoAnswerError
from raftgroups.transport import NodeId
from storage.clock import Clock

SERVES: Final = "ring-serves"
ASK_WITHIN_S: Final = 0.5
LOOK_S: Final = 0.02
GRACE_S: Final = 1.0
"""How long all are waited for although enough serve it."""
WITHIN_S: Final = 5.0
_YES: Final = b"\x01"


class Serving:
    def __init__(
        self, mail: Mail, node: Callable[[], str], clock: Clock, serves: Callable[[int], bool]
    ) -> None:
        """`serves`: whether this node serves the keyspace of this number."""
        self._mail = mail
        self._node = node
        self._clock = clock
        self._serves = serves
        mail.on(SERVES, self._asked)

    async def count(self, keyspace: int, nodes: Collection[str], enough: int) -> int:
        """How many of these serve it, once these are all, or enough, or the time is over."""
        begun_s = self._clock.monotonic()
        waiting, served = set(nodes), 0
        while True:
            asked = sorted(waiting)
            answers = await asyncio.gather(*(self._ask(node, keyspace) for node in asked))
            waiting -= {node for node, yes in zip(asked, answers, strict=True) if yes}
            served = len(nodes) - len(waiting)
            passed_s = self._clock.monotonic() - begun_s
            if not waiting or passed_s >= (GRACE_S if served >= enough else WITHIN_S):
                return served
            await asyncio.sleep(LOOK_S)

    async def _ask(self, node: str, keyspace: int) -> bool:
        if node == self._node():
            return self._serves(keyspace)
        try:
            body = keyspace.to_bytes(4, "big")
            return await self._mail.ask(NodeId(node), SERVES, body, ASK_WITHIN_S) == _YES
        except NoAnswerError:
            return False

    def _asked(self, peer: NodeId, body: bytes) -> bytes:
        return _YES if self._serves(int.from_bytes(body, "big")) else b""
