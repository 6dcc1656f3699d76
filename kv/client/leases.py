"""Leases that are kept alive, by a task of the client, until they are revoked or lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from kv.client import other_operations as operations
from kv.client.background import Background
from kv.client.calls import Caller, How, SessionState
from kv.client.failures import LeaseLostError
from kv.client.records import LeaseInfo
from kv.client.renewal import Renewal
from kv.cluster.tasks import TaskHandle
from raftgroups.refusals import LeaseNotFoundError
from storage.errors import JanusError

_log = logging.getLogger(__name__)

RELEASE_S: Final = 2.0
SLACK_S: Final = 0.01


class Lease:
    """A lease and whoever keeps it alive. Its end is told three ways: `alive`, `wait_lost()`, and
    the callbacks of `on_lost`. As a context manager it is revoked at the end."""

    def __init__(
        self,
        caller: Caller,
        tasks: Background,
        session: SessionState,
        info: LeaseInfo,
        sent_at: float,
    ) -> None:
        self._caller = caller
        self._tasks = tasks
        self._how = How(session)
        self._session = session
        self.id: Final = info.id
        self._renewal = Renewal(info.ttl_s, sent_at)
        self._lost: LeaseLostError | None = None
        self._over = asyncio.Event()
        self._told: list[Callable[[], None]] = []
        self._keeper: TaskHandle | None = tasks.spawn(self._keep(), f"keep lease {info.id}")

    @property
    def ttl_s(self) -> float:
        return self._renewal.ttl_s

    @property
    def alive(self) -> bool:
        return not self._over.is_set() and not self._renewal.is_lost(self._caller.clock.monotonic())

    def check(self) -> None:
        """Raises LeaseLostError unless it surely lives."""
        if self._lost is not None:
            raise self._lost
        if not self.alive:
            raise LeaseLostError(f"the lease {self.id} is not kept alive any more")

    async def wait_lost(self) -> None:
        """Until it is lost, or revoked by this client."""
        await self._over.wait()

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Called once when it is lost; at once if it is already. Not when it is revoked."""
        if self._lost is not None:
            callback()
        else:
            self._told.append(callback)

    async def revoke(self, deadline_s: float | None = None) -> bool:
        """End it and delete its keys. False: it had ended already."""
        self.stop()
        how = How(self._session, deadline_s=deadline_s)
        return await self._caller.call(operations.revoke(self.id), how)

    def stop(self) -> None:
        """Keep it alive no longer: it ends by itself."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
        self._over.set()

    def abandon(self) -> None:
        """Revoke it, without waiting for that."""
        self.stop()
        self._tasks.farewell(self.revoke_quietly(), f"revoke lease {self.id}")

    async def revoke_quietly(self) -> None:
        """If this fails the lease ends by itself."""
        try:
            await self.revoke(RELEASE_S)
        except JanusError as error:
            _log.warning(
                "lease %d was not revoked and ends by itself within %g s: %s",
                self.id,
                self.ttl_s,
                error,
            )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.revoke_quietly()

    async def _keep(self) -> None:
        clock, renewal = self._caller.clock, self._renewal
        while True:
            now = clock.monotonic()
            await asyncio.sleep(max(0.0, min(renewal.due_at, renewal.until) - now))
            now = clock.monotonic()
            if renewal.is_lost(now):
                self._lose("it could not be renewed in time")
                return
            left = renewal.until - now + SLACK_S
            how = How(self._session, deadline_s=left, try_s=renewal.try_s)
            try:
                info = await self._caller.call(operations.keep_alive(self.id), how)
            except LeaseNotFoundError:
                self._lose("it has ended, or somebody has revoked it")
                return
            except JanusError as error:
                _log.info("lease %d was not renewed: %s", self.id, error)
                renewal.failed(clock.monotonic())
            else:
                renewal.renewed(info.ttl_s, now)

    def _lose(self, why: str) -> None:
        self._keeper = None
        self._lost = LeaseLostError(f"the lease {self.id} is lost: {why}; what hangs on it is gone")
        _log.warning("%s", self._lost)
        self._over.set()
        told, self._told = self._told, []
        for callback in told:
            callback()
