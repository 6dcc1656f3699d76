"""What a face uses to serve watchers, be it of one shard or of a keyspace. A protocol only: the
contract is that of ShardWatches (shard_watches.py)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from kv.watch.hub import Created
from kv.watch.messages import Cancelled, Message
from kv.watch.shard_watches import Wake
from kv.watch.watcher import WatchRequest


class Watches(Protocol):
    def create(self, request: WatchRequest, wake: Wake) -> Created | Cancelled: ...

    def cancel(self, identity: int) -> bool: ...

    def take(self, identity: int, max_bytes: int = 0) -> list[Message]: ...

    def room(self, identity: int) -> None: ...

    def reached(self, identities: Iterable[int]) -> int: ...

    @property
    def revision(self) -> int: ...

    @property
    def watching(self) -> int: ...

    def close(self, message: str) -> None: ...
