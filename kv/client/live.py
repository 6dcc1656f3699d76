"""What stays: watches, leases and locks of the client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

from kv.client import other_operations as other
from kv.client.core import Core
from kv.client.forms import Bytes
from kv.client.leases import Lease
from kv.client.locks import Lock
from kv.client.records import LeaseInfo, LockState
from kv.client.watches import Watch


class Live(Core):
    """Part of Client."""

    def watch(
        self,
        key: Bytes | None = None,
        *,
        prefix: Bytes | None = None,
        start: Bytes | None = None,
        end: Bytes | None = None,
        from_revision: int = 0,
        cursor: str = "",
        previous: bool = False,
        only: Literal["put", "delete"] | None = None,
    ) -> Watch:
        """Of a key, a prefix (empty: everything) or a range. `from_revision` 0: what comes next;
        `cursor`: what comes behind the change that had it; `previous`: events say what was there
        before. Keys in several shards are followed alike, also while shards split and merge."""

        def target(following: int | str) -> str:
            return other.watch_target(
                key=key,
                prefix=prefix,
                start=start,
                end=end,
                following=following,
                previous=previous,
                only=only,
            )

        return Watch(self._caller, self._owner_of_tasks(), target, cursor or from_revision)

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
