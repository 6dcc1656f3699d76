"""The watchers of one face over all shards of a keyspace that are on this node.

Each shard has its hub (shard_watches.py); a watcher lives in one of them, the one that holds all
its keys. Identities are unique over the hubs: the upper bits say whose they are, so that taking and
the rest go straight there. With one shard they ARE its hub's methods.

A watch over keys of several shards has no single revision to be resumed from, so it is refused
here with CancelReason.SPLIT; merged.py follows them, with a cursor, for faces that can pass one on.
A watch of a shard that has no replica here is refused here, too: ask a node that has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from kv.watch.hub import Created
from kv.watch.index import KeyRange
from kv.watch.messages import Cancelled, CancelReason, Message
from kv.watch.shard_watches import ShardWatches, Wake
from kv.watch.watcher import WatchRequest

HUB_BITS: Final = 40
"""Of an identity: more watchers than a hub ever makes."""

Find = Callable[[KeyRange], "int | Cancelled"]
"""The shard that holds all of a range and is here; or why there is none."""


class KeyspaceWatches:
    """For the node's loop only."""

    def __init__(self, find: Find, quota: Callable[[], int] = lambda: 0) -> None:
        """`quota`: how many watchers there may be; 0: any number."""
        self._quota = quota
        self._find = find
        self._hubs: dict[int, ShardWatches] = {}
        """By number; never given twice, so an identity of a hub that went finds nothing."""
        self._of_shard: dict[int, int] = {}
        self._next_number = 0
        self._closed = ""

    def attach(self, shard: int, make: Callable[[int], ShardWatches]) -> None:
        """A shard is served here. `make`: its hub, with identities from a number on."""
        number = self._next_number
        self._next_number += 1
        hub = self._hubs[number] = make(number << HUB_BITS)
        self._of_shard[shard] = number
        if self._closed:
            hub.close(self._closed)
        self._rebind()

    def detach(self, shard: int) -> None:
        """Its watchers were told the end by the shard; they take that and are gone."""
        self._of_shard.pop(shard, None)
        self._rebind()

    def _rebind(self) -> None:
        """With one hub ever there is nothing to find."""
        only = self._hubs[0] if len(self._hubs) == 1 else None
        for name in ("take", "room", "cancel"):
            self.__dict__.pop(name, None)
            if only is not None:
                setattr(self, name, getattr(only, name))

    def hub_of(self, shard: int) -> ShardWatches | None:
        number = self._of_shard.get(shard)
        return None if number is None else self._hubs[number]

    @property
    def closed(self) -> str:
        """Why nothing is watched here any more; empty while it is."""
        return self._closed

    def over_quota(self) -> Cancelled | None:
        most = self._quota()
        if not most or self.watching < most:
            return None
        return Cancelled(
            CancelReason.LIMIT,
            f"this keyspace has {self.watching} watchers on this node, which is its quota; "
            "raise it, or watch at another node",
        )

    def create(self, request: WatchRequest, wake: Wake) -> Created | Cancelled:
        refused = self.over_quota()
        if refused is not None:
            return refused
        found = self._find(request.keys)
        if isinstance(found, Cancelled):
            return found
        hub = self.hub_of(found)
        if hub is None:
            return Cancelled(
                CancelReason.CLOSED,
                f"shard {found}, which holds these keys, has no replica on this node that could be "
                "watched; watch at a node that GET /api/v1/admin/shards names for it",
            )
        return hub.create(request, wake)

    def cancel(self, identity: int) -> bool:
        hub = self._hubs.get(identity >> HUB_BITS)
        return hub is not None and hub.cancel(identity)

    def take(self, identity: int, max_bytes: int = 0) -> list[Message]:
        hub = self._hubs.get(identity >> HUB_BITS)
        return [] if hub is None else hub.take(identity, max_bytes)

    def room(self, identity: int) -> None:
        hub = self._hubs.get(identity >> HUB_BITS)
        if hub is not None:
            hub.room(identity)

    def reached(self, identities: Iterable[int]) -> int:
        """The least of what each hub says: true of every one of these watchers."""
        by_hub: dict[int, list[int]] = {}
        for identity in identities:
            by_hub.setdefault(identity >> HUB_BITS, []).append(identity)
        found = [
            self._hubs[each].reached(own) for each, own in by_hub.items() if each in self._hubs
        ]
        return min(found, default=self.revision)

    @property
    def revision(self) -> int:
        """Of the first shard here; 0 if there is none."""
        for _, number in sorted(self._of_shard.items()):
            return self._hubs[number].revision
        return 0

    @property
    def watching(self) -> int:
        return sum(hub.watching for hub in self._hubs.values())

    def close(self, message: str) -> None:
        self._closed = message
        for hub in self._hubs.values():
            hub.close(message)
