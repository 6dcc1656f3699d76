"""The client: one method a use case, each of them an operation and how to ask it.

    async with Client("127.0.0.1:7400,127.0.0.1:7410") as client:
        await client.put("greeting", "hello")
        record = await client.get("greeting")

Keys and values are bytes; text may be given for them. Every call has a deadline (`timeout_s`, 10 s)
that holds for all its tries. Writes carry an idempotency token, so that a try whose answer was lost
is repeated safely; without tokens (`use_tokens=False`) such a write ends in OutcomeUnknownError.

Every client remembers what it has seen and sends it along: a read with Level.SESSION sees at least
that, on whatever node. `session()` makes another such memory over the same connections.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from kv.api.admin_bodies import ClusterState, NodeStatus
from kv.client import key_operations as keys
from kv.client import many_operations as many
from kv.client import other_operations as other
from kv.client.calls import SessionState
from kv.client.forms import Bytes
from kv.client.live import Live
from kv.client.many_operations import BatchOperation
from kv.client.records import (
    BatchItem,
    CasResult,
    CountResult,
    DeleteResult,
    Entry,
    IncrementResult,
    Page,
    PutResult,
    Record,
    TtlResult,
    TxnDelete,
    TxnResult,
)
from kv.client.txn import Txn
from kv.model import Level, SessionToken


class Client(Live):
    """Made in any loop, used in one. `close` it, or use it as a context manager."""

    def session(self, token: str = "") -> Client:
        """A client over the same connections with a memory of its own, whose reads see what it has
        seen (Level.SESSION)."""
        made = object.__new__(Client)
        made._caller = self._caller
        made._level = Level.SESSION
        made._session = SessionState(SessionToken.parse(token))
        made._background = self._background
        made._owner = False
        return made

    # --- one key ---

    async def get(
        self,
        key: Bytes,
        *,
        revision: int | None = None,
        level: Level | str | None = None,
        timeout_s: float | None = None,
    ) -> Record | None:
        """None: it does not exist (at that revision)."""
        return await self._call(keys.get(key, revision), level, timeout_s)

    async def put(
        self,
        key: Bytes,
        value: Bytes,
        *,
        ttl: float | None = None,
        lease: int | None = None,
        if_version: int | None = None,
        if_absent: bool = False,
        timeout_s: float | None = None,
    ) -> PutResult:
        """`if_version` (0: absent) and `if_absent` raise VersionMismatchError and KeyExistsError,
        whose `version` is the present one."""
        operation = keys.put(
            key, value, ttl=ttl, lease=lease, if_version=if_version, if_absent=if_absent
        )
        return await self._call(operation, None, timeout_s)

    async def delete(
        self, key: Bytes, *, if_version: int | None = None, timeout_s: float | None = None
    ) -> DeleteResult:
        return await self._call(keys.delete(key, if_version=if_version), None, timeout_s)

    async def cas(
        self,
        key: Bytes,
        new_value: Bytes | None,
        *,
        expected_version: int | None = None,
        expected_value: Bytes | None = None,
        ttl: float | None = None,
        lease: int | None = None,
        timeout_s: float | None = None,
    ) -> CasResult:
        """Write (None: delete) if the key is what was expected. Losing is an answer, no error."""
        operation = keys.cas(
            key,
            new_value,
            expected_version=expected_version,
            expected_value=expected_value,
            ttl=ttl,
            lease=lease,
        )
        return await self._call(operation, None, timeout_s)

    async def incr(
        self, key: Bytes, delta: int = 1, *, timeout_s: float | None = None
    ) -> IncrementResult:
        """Add to a decimal number; an absent key counts as 0."""
        return await self._call(keys.increment(key, delta), None, timeout_s)

    async def ttl(
        self, key: Bytes, ttl_s: float | None, *, timeout_s: float | None = None
    ) -> TtlResult:
        """Give a key a new time to live; None takes it away. Raises KeyNotFoundError."""
        return await self._call(keys.set_ttl(key, ttl_s), None, timeout_s)

    # --- many keys ---

    async def page(
        self,
        *,
        prefix: Bytes | None = None,
        start: Bytes | None = None,
        end: Bytes | None = None,
        limit: int = many.PAGE_KEYS,
        cursor: str | None = None,
        reverse: bool = False,
        values: bool = False,
        revision: int | None = None,
        level: Level | str | None = None,
        timeout_s: float | None = None,
    ) -> Page:
        """One page of a listing; `cursor` of the page before goes on at the same revision."""
        operation = many.list_page(
            prefix=prefix,
            start=start,
            end=end,
            limit=limit,
            cursor=cursor,
            reverse=reverse,
            values=values,
            revision=revision,
        )
        return await self._call(operation, level, timeout_s)

    async def list(
        self,
        prefix: Bytes | None = None,
        *,
        start: Bytes | None = None,
        end: Bytes | None = None,
        limit: int | None = None,
        reverse: bool = False,
        values: bool = False,
        revision: int | None = None,
        level: Level | str | None = None,
    ) -> AsyncIterator[Entry]:
        """All keys of a range in order, as of one revision, page by page. CompactedError: the
        listing took so long that its revision is gone."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            page = await self.page(
                prefix=prefix,
                start=start,
                end=end,
                limit=many.PAGE_KEYS if left is None else min(many.PAGE_KEYS, left),
                cursor=cursor,
                reverse=reverse,
                values=values,
                revision=revision,
                level=level,
            )
            for entry in page.entries:
                yield entry
            cursor = page.cursor
            if cursor is None:
                return
            if left is not None:
                left -= len(page.entries)

    async def scan(
        self,
        prefix: Bytes | None = None,
        *,
        values: bool = False,
        level: Level | str | None = None,
    ) -> AsyncIterator[Entry]:
        """All keys, each page as of then: for walks of any length. A key that is there all the time
        comes once."""
        cursor: str | None = None
        while True:
            page = await self._call(
                many.scan_page(prefix=prefix, cursor=cursor, values=values), level, None
            )
            for entry in page.entries:
                yield entry
            cursor = page.cursor
            if cursor is None:
                return

    async def count(
        self,
        prefix: Bytes | None = None,
        *,
        start: Bytes | None = None,
        end: Bytes | None = None,
        revision: int | None = None,
        level: Level | str | None = None,
        timeout_s: float | None = None,
    ) -> CountResult:
        operation = many.count(prefix=prefix, start=start, end=end, revision=revision)
        return await self._call(operation, level, timeout_s)

    async def get_many(
        self,
        keys: Iterable[Bytes],
        *,
        level: Level | str | None = None,
        timeout_s: float | None = None,
    ) -> dict[bytes, Record | None]:
        """Up to 1,000 keys as of one moment."""
        return await self._call(many.batch_get(keys), level, timeout_s)

    async def batch(
        self,
        operations: Sequence[BatchOperation],
        *,
        atomic: bool = False,
        timeout_s: float | None = None,
    ) -> tuple[BatchItem, ...]:
        """Up to 1,000 BatchPut and BatchDelete. `atomic`: all as one revision, or none. What became
        of each says its item."""
        return await self._call(many.batch(operations, atomic), None, timeout_s)

    async def delete_prefix(self, prefix: Bytes, *, timeout_s: float | None = None) -> int:
        """All keys with a prefix (empty: all keys), as one revision; how many."""
        result = await self.txn(Txn().delete_prefix(prefix), timeout_s=timeout_s)
        (deletion,) = result.results
        assert isinstance(deletion, TxnDelete)
        return deletion.deleted

    async def txn(
        self,
        txn: Txn,
        *,
        level: Level | str | None = None,
        timeout_s: float | None = None,
    ) -> TxnResult:
        return await self._call(many.txn(txn), level, timeout_s)

    # --- nodes ---

    async def status(
        self, endpoint: str | None = None, *, timeout_s: float | None = None
    ) -> NodeStatus:
        """What a node says of itself; of one endpoint, or of whichever answers."""
        return await self._call(other.status(), None, timeout_s, endpoint)

    async def cluster(
        self, endpoint: str | None = None, *, timeout_s: float | None = None
    ) -> ClusterState:
        """All nodes and shards, as one node sees them."""
        return await self._call(other.cluster(), None, timeout_s, endpoint)

    async def admin(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """An admin call of GET /openapi.json, as it is: its body in, its reply out."""
        return await self._call(other.admin(method, path, body), None, timeout_s)

    async def ping(self, endpoint: str | None = None, *, timeout_s: float | None = None) -> float:
        """Seconds that a linearizable read takes. Raises what the read raises."""
        clock = self._caller.clock
        began = clock.monotonic()
        await self._call(keys.get(b"\x00ping"), Level.LINEARIZABLE, timeout_s, endpoint)
        return clock.monotonic() - began

    async def transfer_leader(
        self, target: str | None = None, *, timeout_s: float | None = None
    ) -> str:
        """Let another node (id or name) lead; its id."""
        return await self._call(other.transfer_leader(target), None, timeout_s)

    async def compact(self, revision: int, *, timeout_s: float | None = None) -> int:
        """Give up history before a revision."""
        return await self._call(other.compact(revision), None, timeout_s)
