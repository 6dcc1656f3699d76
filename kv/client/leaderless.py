"""The client of a leaderless keyspace: contexts, siblings, quorums.

    async with LeaderlessClient("127.0.0.1:7400,127.0.0.1:7410") as client:
        await client.put("cart", "apples")
        state = await client.get("cart")
        await client.put("cart", b"apples, figs", context=state)
        await client.update("cart", lambda values: b", ".join(sorted(values)))

A write with the context of a read replaces what that read showed; without one it becomes a sibling.
A call is tried again, at another endpoint too, while it has surely not been done; a write that may
have been done ends in OutcomeUnknownError, because nobody can tell a repetition from a new write.

`session()` gives reads that see what the session has read and written (monotonic reads,
read-your-writes): it remembers a token for each key, the `keys_max` touched last.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from kv.api.admin_bodies import ClusterState, NodeStatus, RepairReply, RingState
from kv.client import leaderless_operations as operations
from kv.client import other_operations as other
from kv.client.calls import SessionState
from kv.client.core import Core
from kv.client.endpoints import DEFAULT_ENDPOINT
from kv.client.forms import Bytes, as_bytes
from kv.client.leaderless_operations import Asking
from kv.client.leaderless_records import Context, Counted, KeyState, Listed, Written
from kv.client.leaderless_watch import CursorPosition, KeysChange, watch_target
from kv.client.watches import Following
from kv.leaderless.session import BEGIN
from kv.model import Level
from storage.errors import JanusError

SESSION_KEYS: Final = 10_000
PAGE_KEYS: Final = 500


class LeaderlessClient(Core):
    """Made in any loop, used in one. `close` it, or use it as a context manager."""

    def __init__(
        self,
        endpoints: str | Iterable[str] = DEFAULT_ENDPOINT,
        *,
        level: str | None = None,
        strict: bool | None = None,
        **options: Any,
    ) -> None:
        """`level`: ONE, QUORUM or ALL for every call that names none; None: as the keyspace says.
        `strict`: only owners of a key count. `options`: as of kv.client.Client."""
        super().__init__(endpoints, use_tokens=False, **options)
        self._quorum = level
        self._strict = strict
        self._tokens: OrderedDict[bytes, str] | None = None
        self._keys_max = SESSION_KEYS

    def session(self, *, keys_max: int = SESSION_KEYS) -> LeaderlessClient:
        """A client over the same connections that sees what it has seen."""
        made = object.__new__(LeaderlessClient)
        made._caller = self._caller
        made._level = Level.LINEARIZABLE
        made._session = SessionState()
        made._background = self._background
        made._owner = False
        made._quorum, made._strict = self._quorum, self._strict
        made._tokens, made._keys_max = OrderedDict(), keys_max
        return made

    def _asking(
        self, key: Bytes | None = None, level: str | None = None, strict: bool | None = None
    ) -> Asking:
        level = self._quorum if level is None else level
        strict = self._strict if strict is None else strict
        if self._tokens is None or key is None:
            return Asking(level, strict)
        raw = as_bytes(key)
        return Asking(
            level, strict, self._tokens.get(raw, BEGIN), lambda token: self._saw(raw, token)
        )

    def _saw(self, key: bytes, token: str) -> None:
        assert self._tokens is not None
        self._tokens[key] = token
        self._tokens.move_to_end(key)
        if len(self._tokens) > self._keys_max:
            self._tokens.popitem(last=False)

    def watch(
        self,
        key: Bytes | None = None,
        *,
        prefix: Bytes | None = None,
        start: Bytes | None = None,
        end: Bytes | None = None,
        cursor: str = "",
        only: Literal["put", "delete"] | None = None,
    ) -> Following[str, KeysChange]:
        """Of a key, a prefix (empty: everything) or a range, at least once. `cursor`: of a change
        that was seen; without one it begins with what comes next."""

        def target(following: str) -> str:
            return watch_target(
                key=key, prefix=prefix, start=start, end=end, cursor=following, only=only
            )

        position = CursorPosition(cursor)
        return Following(self._caller, self._owner_of_tasks(), target, position, leads=False)

    # --- one key ---

    async def get(
        self,
        key: Bytes,
        *,
        level: str | None = None,
        strict: bool | None = None,
        timeout_s: float | None = None,
    ) -> KeyState | None:
        """None: it does not exist, as far as is known."""
        operation = operations.get(key, self._asking(key, level, strict))
        return await self._call(operation, None, timeout_s)

    async def put(
        self,
        key: Bytes,
        value: Bytes,
        *,
        context: Context = None,
        ttl: float | None = None,
        level: str | None = None,
        strict: bool | None = None,
        timeout_s: float | None = None,
    ) -> Written:
        """`context`: of the read that this replaces; without one it becomes a sibling."""
        operation = operations.put(key, value, context, ttl, self._asking(key, level, strict))
        return await self._call(operation, None, timeout_s)

    async def delete(
        self,
        key: Bytes,
        *,
        context: Context = None,
        level: str | None = None,
        strict: bool | None = None,
        timeout_s: float | None = None,
    ) -> Written:
        """Removes what the context covers; without one nothing that others wrote."""
        operation = operations.delete(key, context, self._asking(key, level, strict))
        return await self._call(operation, None, timeout_s)

    async def update(
        self,
        key: Bytes,
        merge: Callable[[tuple[bytes, ...]], Bytes],
        *,
        ttl: float | None = None,
        level: str | None = None,
        timeout_s: float | None = None,
    ) -> Written:
        """Read, let `merge` make one value of all (none, one or several), and put it with the
        context of that read. A write in between becomes a sibling of it: nothing is lost."""
        state = await self.get(key, level=level, timeout_s=timeout_s)
        value = merge(() if state is None else state.values)
        return await self.put(key, value, context=state, ttl=ttl, level=level, timeout_s=timeout_s)

    async def incr(
        self,
        key: Bytes,
        delta: int = 1,
        *,
        level: str | None = None,
        timeout_s: float | None = None,
    ) -> Counted:
        """Add to a counter, wherever: no increment is lost. Never repeated once it may be done."""
        operation = operations.increment(key, delta, self._asking(key, level))
        return await self._call(operation, None, timeout_s)

    async def set_ttl(
        self, key: Bytes, ttl_s: float | None, *, timeout_s: float | None = None
    ) -> Written:
        """A read and a write with its context. None: for ever."""
        return await self._call(operations.set_ttl(key, ttl_s, self._asking(key)), None, timeout_s)

    # --- many keys ---

    async def get_many(
        self, keys: Sequence[Bytes], *, level: str | None = None, timeout_s: float | None = None
    ) -> list[KeyState | JanusError | None]:
        """Each as a read of its own; an error stands where its key could not be read."""
        operation = operations.get_many(keys, self._asking(None, level))
        return await self._call(operation, None, timeout_s)

    async def put_many(
        self,
        values: Mapping[Bytes, Bytes | None],
        *,
        contexts: Mapping[Bytes, Context] | None = None,
        level: str | None = None,
        timeout_s: float | None = None,
    ) -> list[Written | JanusError]:
        """Each as a write of its own, None a deletion, in the order of the mapping."""
        given = contexts or {}
        items = [(key, value, given.get(key)) for key, value in values.items()]
        operation = operations.put_many(items, self._asking(None, level))
        return await self._call(operation, None, timeout_s)

    async def list(
        self,
        prefix: Bytes | None = None,
        *,
        start: Bytes | None = None,
        end: Bytes | None = None,
        values: bool = False,
        limit: int | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Listed]:
        """Eventually consistent, page by page."""
        cursor, left = None, limit
        while left is None or left > 0:
            size = PAGE_KEYS if left is None else min(PAGE_KEYS, left)
            operation = operations.list_page(
                prefix, start=start, end=end, values=values, limit=size, cursor=cursor
            )
            page = await self._call(operation, None, timeout_s)
            for entry in page.entries:
                yield entry
            if left is not None:
                left -= len(page.entries)
            cursor = page.cursor
            if cursor is None:
                return

    async def count(self, prefix: Bytes | None = None, *, timeout_s: float | None = None) -> int:
        return await self._call(operations.count(prefix), None, timeout_s)

    # --- the cluster ---

    async def status(
        self, endpoint: str | None = None, *, timeout_s: float | None = None
    ) -> NodeStatus:
        return await self._call(other.status(), None, timeout_s, endpoint)

    async def cluster(
        self, endpoint: str | None = None, *, timeout_s: float | None = None
    ) -> ClusterState:
        return await self._call(other.cluster(), None, timeout_s, endpoint)

    async def repair(self, endpoint: str | None = None, *, within_s: float = 3600.0) -> RepairReply:
        """One node compares all that it has with all others; done when both are alike."""
        return await self._call(operations.repair(within_s), None, None, endpoint)

    async def ring(
        self, endpoint: str | None = None, *, timeout_s: float | None = None
    ) -> RingState:
        """Who owns what, as one node sees it."""
        return await self._call(operations.ring(), None, timeout_s, endpoint)
