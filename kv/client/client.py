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

import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Literal, Self, TypeVar

from kv.api.bodies import ClusterState, NodeStatus
from kv.client import key_operations as keys
from kv.client import many_operations as many
from kv.client import other_operations as other
from kv.client.background import Background
from kv.client.calls import Caller, How, SessionState
from kv.client.endpoints import DEFAULT_ENDPOINT, Endpoints, parse_endpoint, parse_endpoints
from kv.client.forms import Bytes
from kv.client.leases import Lease
from kv.client.locks import Lock
from kv.client.many_operations import BatchOperation
from kv.client.operations import Operation
from kv.client.records import (
    BatchItem,
    CasResult,
    CountResult,
    DeleteResult,
    Entry,
    IncrementResult,
    LeaseInfo,
    LockState,
    Page,
    PutResult,
    Record,
    TtlResult,
    TxnDelete,
    TxnResult,
)
from kv.client.retries import DEADLINE_S, TRY_S, RetryPolicy
from kv.client.transport import Transport
from kv.client.txn import Txn
from kv.client.watches import Watch
from kv.model import Level, SessionToken, parse_level
from storage.clock import Clock, Rng
from storage.system_clock import SystemClock

T = TypeVar("T")


class Client:
    """Made in any loop, used in one. `close` it, or use it as a context manager."""

    def __init__(
        self,
        endpoints: str | Iterable[str] = DEFAULT_ENDPOINT,
        *,
        level: Level | str = Level.LINEARIZABLE,
        session: str = "",
        timeout_s: float = DEADLINE_S,
        try_s: float = TRY_S,
        refused_s: float | None = None,
        use_tokens: bool = True,
        client_id: str | None = None,
        tls: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        rng: Rng | None = None,
    ) -> None:
        """`timeout_s`: of a call, `try_s`: after which an endpoint is given up for another one,
        `refused_s`: after which a call is given up of which nothing could be sent anywhere.
        `session`: a token to begin with (`session_token` of another client). Raises
        InvalidEndpointError, InvalidLevelError, InvalidSessionError."""
        urls = parse_endpoints(endpoints)
        dice = rng or random.SystemRandom()
        self._caller = Caller(
            Transport(tls=tls, headers=headers),
            Endpoints(urls, dice.randrange(0, len(urls))),
            clock=clock or SystemClock(),
            rng=dice,
            policy=RetryPolicy(timeout_s, min(try_s, timeout_s), refused_s),
            use_tokens=use_tokens,
            client_id=client_id,
        )
        self._level = parse_level(level)
        self._session = SessionState(SessionToken.parse(session))
        self._background: list[Background] = []
        self._owner = True

    # --- life ---

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End watches, keep no lease alive any more, close connections. A session only forgets."""
        if not self._owner or self._caller.closed:
            return
        for background in self._background:
            await background.close()
        self._caller.closed = True
        await self._caller.transport.close()

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

    @property
    def session_token(self) -> str:
        """What this client has seen: for another process to go on from."""
        return str(self._session.token)

    @property
    def endpoints(self) -> tuple[str, ...]:
        return self._caller.endpoints.urls

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

    # --- watches, leases, locks ---

    def watch(
        self,
        key: Bytes | None = None,
        *,
        prefix: Bytes | None = None,
        start: Bytes | None = None,
        end: Bytes | None = None,
        from_revision: int = 0,
        previous: bool = False,
        only: Literal["put", "delete"] | None = None,
    ) -> Watch:
        """Of a key, a prefix (empty: everything) or a range. `from_revision` 0: what comes next;
        `previous`: events say what was there before."""

        def target(following: int) -> str:
            return other.watch_target(
                key=key,
                prefix=prefix,
                start=start,
                end=end,
                from_revision=following,
                previous=previous,
                only=only,
            )

        return Watch(self._caller, self._owner_of_tasks(), target, from_revision)

    async def grant(
        self, ttl: float, *, lease: int | None = None, timeout_s: float | None = None
    ) -> Lease:
        """A lease that this client keeps alive until it is revoked, lost, or the client closes."""
        sent_at = self._caller.clock.monotonic()
        info = await self.grant_only(ttl, lease=lease, timeout_s=timeout_s)
        return Lease(self._caller, self._owner_of_tasks(), self._session, info, sent_at)

    async def grant_only(
        self, ttl: float, *, lease: int | None = None, timeout_s: float | None = None
    ) -> LeaseInfo:
        """A lease that nobody keeps alive."""
        return await self._call(other.grant(ttl, lease), None, timeout_s)

    async def keep_alive(self, lease: int, *, timeout_s: float | None = None) -> LeaseInfo:
        """Begin its time anew, once. Raises LeaseNotFoundError."""
        return await self._call(other.keep_alive(lease), None, timeout_s)

    async def keep(self, lease: int) -> Lease:
        """Keep a lease alive that somebody granted. Raises LeaseNotFoundError."""
        sent_at = self._caller.clock.monotonic()
        info = await self.keep_alive(lease)
        return Lease(self._caller, self._owner_of_tasks(), self._session, info, sent_at)

    async def revoke(self, lease: int, *, timeout_s: float | None = None) -> bool:
        """End a lease and delete its keys. False: there is none."""
        return await self._call(other.revoke(lease), None, timeout_s)

    async def lease(
        self, lease: int, *, keys: bool = False, timeout_s: float | None = None
    ) -> LeaseInfo | None:
        return await self._call(other.lease_info(lease, keys), None, timeout_s)

    async def leases(self) -> AsyncIterator[LeaseInfo]:
        cursor: str | None = None
        while True:
            found, cursor = await self._call(other.lease_page(cursor), None, None)
            for each in found:
                yield each
            if cursor is None:
                return

    def lock(
        self,
        name: Bytes,
        *,
        ttl: float = 10.0,
        wait_s: float | None = None,
        owner: str = "",
        cancel_on_loss: bool = True,
    ) -> Lock:
        """To be used in `async with`, or acquired and released. `ttl`: for how long it stays locked
        when this process dies; `owner`: for others to see."""
        return Lock(
            self._caller,
            self._session,
            self.grant,
            name,
            ttl=ttl,
            wait_s=wait_s,
            owner=owner,
            cancel_on_loss=cancel_on_loss,
        )

    async def lock_state(self, name: Bytes, *, timeout_s: float | None = None) -> LockState:
        """Who holds a lock, and how many wait."""
        return await self._call(other.lock_state(name), None, timeout_s)

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

    # --- inside ---

    def _call(
        self,
        operation: Operation[T],
        level: Level | str | None,
        timeout_s: float | None,
        endpoint: str | None = None,
    ) -> Awaitable[T]:
        wanted = self._level if level is None else parse_level(level)
        only = None if endpoint is None else parse_endpoint(endpoint)
        return self._caller.call(operation, How(self._session, wanted, timeout_s, only))

    def _owner_of_tasks(self) -> Background:
        self._caller.check_open()
        if not self._background:
            self._background.append(Background())
        return self._background[0]
