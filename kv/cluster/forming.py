"""Finding the founders of a cluster: addresses in, node ids out.

`initial` is the same list on every founder. Each asks every address who lives there until all have
answered, itself among them; then all know the same set of ids and can form the first group. What
may pass by waiting (nobody listens yet) is asked again with a backoff, for as long as it takes: a
founder may be started by hand much later. What cannot pass (a foreign cluster, a wrong secret) ends
the start with a sentence.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from kv.cluster.link_discovery import DiscoveryError
from kv.cluster.link_handshake import Peer
from raftgroups.transport import NodeId
from storage.errors import InvalidOptionError

_log = logging.getLogger(__name__)

FIRST_WAIT_S: Final = 0.05
LONGEST_WAIT_S: Final = 2.0
SAY_EVERY_S: Final = 10.0

Address = tuple[str, int]


class Asker(Protocol):
    async def discover(self, address: Address, timeout_s: float | None = None) -> Peer: ...


async def find_founders(
    link: Asker,
    own: NodeId,
    initial: Sequence[Address],
    *,
    route: Callable[[Address], Address] = lambda address: address,
) -> Mapping[NodeId, Address]:
    """Every founder's id and the address that `initial` names it by. `route` says where to dial
    instead (a proxy). Raises DiscoveryError for what waiting cannot mend, InvalidOptionError for a
    list that cannot be meant."""
    if len(set(initial)) != len(initial):
        raise InvalidOptionError("[cluster] initial names an address twice; name each node once")
    found = await asyncio.gather(*(_find(link, own, address, route) for address in initial))
    founders: dict[NodeId, Address] = {}
    for node, address in zip(found, initial, strict=True):
        if node in founders:
            first = founders[node]
            raise InvalidOptionError(
                f"[cluster] initial names one node twice: {first[0]}:{first[1]} and "
                f"{address[0]}:{address[1]} are both {node}"
            )
        founders[node] = address
    if own not in founders:
        raise InvalidOptionError(
            "[cluster] initial does not name this node: none of its addresses is answered by it; "
            "add [node] peer_advertise to the list, or use [cluster] join to enter a cluster that "
            "exists"
        )
    return founders


async def _find(
    link: Asker, own: NodeId, address: Address, route: Callable[[Address], Address]
) -> NodeId:
    wait_s, waited_s, said_s = FIRST_WAIT_S, 0.0, 0.0
    while True:
        try:
            return (await link.discover(route(address))).node_id
        except DiscoveryError as error:
            if error.reason == "self":
                return own
            if not error.may_pass or error.reason == "closing":
                raise
            if waited_s >= said_s:
                _log.info("waiting for the founder at %s:%d (%s)", *address, error.reason)
                said_s = waited_s + SAY_EVERY_S
        await asyncio.sleep(wait_s)
        waited_s += wait_s
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
