"""Leadership moves to another node: of one group, or of all that this node leads before it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from functools import partial
from typing import Final

from kv.errors import OutcomeUnknownError, UnavailableError
from raftgroups.group import Group
from raftgroups.outcomes import ChangeResult, Done, Unknown
from raftgroups.transport import NodeId

_log = logging.getLogger(__name__)

WITHIN_S: Final = 3.0
RETRY_S: Final = 0.05


def heir_of(group: Group) -> NodeId | None:
    """The connected voter that is least behind."""
    status = group.status()
    heirs = [
        (peer.lag, node)
        for node, peer in status.peers.items()
        if node in status.voters and peer.connected
    ]
    return min(heirs)[1] if heirs else None


async def hand_over_all(groups: Iterable[Group]) -> None:
    """Somebody else leads what this node leads, where that can be had."""
    for group in list(groups):
        if group.leads and (heir := heir_of(group)) is not None:
            await _persist(group, heir)


async def hand_over(group: Group, heir: NodeId) -> None:
    """Once. Raises UnavailableError if nothing was changed, and OutcomeUnknownError."""
    result = await _ask(group, heir)
    if not isinstance(result, Done):
        kind = OutcomeUnknownError if isinstance(result, Unknown) else UnavailableError
        raise kind(f"the leadership was not handed over: {result.reason}")


async def _persist(group: Group, heir: NodeId) -> None:
    """Ask until it worked or WITHIN_S have passed: another change may be under way."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + WITHIN_S
    reason = "the transfer was not answered"
    while group.leads and loop.time() < until_s:
        try:
            result = await asyncio.wait_for(_ask(group, heir), max(0.01, until_s - loop.time()))
        except TimeoutError:
            break
        if isinstance(result, Done):
            _log.info("group %d is led by %s now", group.group_id, heir)
            return
        reason = result.reason
        await asyncio.sleep(RETRY_S)
    if group.leads:
        _log.warning("group %d did not change its leader in time: %s", group.group_id, reason)


async def _ask(group: Group, heir: NodeId) -> ChangeResult:
    done: asyncio.Future[ChangeResult] = asyncio.get_running_loop().create_future()
    group.transfer(heir, partial(_answer, done))
    return await done


def _answer(future: asyncio.Future[ChangeResult], result: ChangeResult) -> None:
    if not future.done():
        future.set_result(result)
