"""One watcher of the gateway's hub as something to wait for, until its client hangs up.

follow = Follow(watches, request, caller)
try:
    while messages := await follow.next(): ...      [] once the client is gone
finally:
    follow.close()
"""

from __future__ import annotations

import asyncio
from typing import Final

from kv.errors import UnavailableError
from kv.etcd.presence import Caller
from kv.watch.messages import Cancelled, EventBatch, Message
from kv.watch.watcher import WatchRequest
from kv.watch.watches import Watches


class Follow:
    def __init__(self, watches: Watches, request: WatchRequest, caller: Caller) -> None:
        """Raises UnavailableError if the node has no room for another watcher."""
        self._watches: Final = watches
        self._caller: Final = caller
        self._awake: Final = asyncio.Event()
        made = watches.create(request, self._awake.set)
        if isinstance(made, Cancelled):
            raise UnavailableError(made.message)
        self._identity: Final = made.identity
        caller.notify = self._awake.set

    async def next(self) -> list[Message]:
        while not self._caller.is_gone:
            self._awake.clear()
            messages = self._watches.take(self._identity)
            if messages:
                self._watches.room(self._identity)
                return messages
            await self._awake.wait()
        return []

    def close(self) -> None:
        self._watches.cancel(self._identity)
        self._caller.notify = None


def event_parts(messages: list[Message]) -> list[bytes]:
    """The encoded events among them."""
    return [
        part for message in messages if isinstance(message, EventBatch) for part in message.parts
    ]


def ending(messages: list[Message]) -> Cancelled | None:
    last = messages[-1] if messages else None
    return last if isinstance(last, Cancelled) else None
