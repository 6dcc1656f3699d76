"""Locks with fencing tokens.

    async with client.lock("printer", ttl=10) as lock:
        write_with(lock.token)

A lock is a lease of its own and a place in a queue (the server's side is kv/api/lockplan.py):

    1. grant a lease, kept alive from now on
    2. ask for the lock by it; the server answers when it is our turn
    3. if that try was lost, or the node stopped: abandon that lease, and go to 1 with a new one.
       The old key may still be deleted late, by the node that saw us go; a new one never is

When the lease is lost the lock is, too: the task in the `async with` block is cancelled, and the
block raises LeaseLostError (`cancel_on_loss=False`: look at `lock.alive`, or call `lock.check()`).
Even then somebody may act too late, so what the lock guards should refuse a smaller token than it
has seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self

from kv.api.bodies import WAIT_MAX_S
from kv.api.failures import LockHeldError, LockLostError
from kv.client import other_operations as operations
from kv.client.calls import Caller, How, SessionState
from kv.client.failures import LeaseLostError
from kv.client.forms import Bytes, as_bytes
from kv.client.leases import Lease
from kv.client.records import LockInfo
from kv.errors import OutcomeUnknownError, StoppingError, UnavailableError
from storage.errors import InvalidOptionError

LATER: Final = (LockLostError, OutcomeUnknownError, StoppingError, UnavailableError)


class Lock:
    """One use of a lock: acquired and released once. `wait_s` None: as long as it takes; 0: try
    once. Waiting longer than 300 s goes to the end of the queue each time."""

    def __init__(
        self,
        caller: Caller,
        session: SessionState,
        grant: Callable[[float], Awaitable[Lease]],
        name: Bytes,
        *,
        ttl: float,
        wait_s: float | None,
        owner: str,
        cancel_on_loss: bool,
    ) -> None:
        if wait_s is not None and wait_s < 0:
            raise InvalidOptionError(f"wait_s is {wait_s}; give 0 or more seconds, or None")
        self.name: Final = as_bytes(name)
        self._caller = caller
        self._session = session
        self._grant = grant
        self._ttl_s = ttl
        self._wait_s = wait_s
        self._owner = owner
        self._cancel_on_loss = cancel_on_loss
        self._lease: Lease | None = None
        self._info: LockInfo | None = None
        self._task: asyncio.Task[object] | None = None
        self._interrupted = False

    # --- what it is ---

    @property
    def info(self) -> LockInfo:
        if self._info is None:
            raise LeaseLostError(f"the lock {self.name!r} is not held")
        return self._info

    @property
    def token(self) -> int:
        """The fencing token: larger than that of every earlier holder."""
        return self.info.token

    @property
    def alive(self) -> bool:
        """Surely still held."""
        return self._info is not None and self._lease is not None and self._lease.alive

    def check(self) -> None:
        """Raises LeaseLostError unless it is surely still held."""
        if self._lease is None or self._info is None:
            raise LeaseLostError(f"the lock {self.name!r} is not held")
        self._lease.check()

    async def wait_lost(self) -> None:
        """Until it is lost or released."""
        if self._lease is not None:
            await self._lease.wait_lost()

    # --- taking and giving back ---

    async def acquire(self) -> LockInfo:
        """Raises LockHeldError when `wait_s` is over, and what calls raise."""
        assert self._info is None, "a Lock is acquired once"
        clock = self._caller.clock
        until = None if self._wait_s is None else clock.monotonic() + self._wait_s
        failures_until = clock.monotonic() + self._caller.policy.deadline_s
        while True:
            now = clock.monotonic()
            left = float(WAIT_MAX_S) if until is None else max(0.0, until - now)
            lease = await self._grant(self._ttl_s)
            try:
                info = await self._ask(lease, min(left, float(WAIT_MAX_S)))
            except LockHeldError:
                await lease.revoke_quietly()
                if until is not None and clock.monotonic() >= until:
                    raise
            except LATER:
                lease.abandon()
                if clock.monotonic() >= max(failures_until, until or failures_until):
                    raise
            except BaseException:
                lease.abandon()
                raise
            else:
                self._lease, self._info = lease, info
                return info

    async def _ask(self, lease: Lease, wait_s: float) -> LockInfo:
        operation = operations.acquire(self.name, lease.id, wait_s, self._owner)
        return await self._caller.call(operation, How(self._session))

    async def release(self) -> bool:
        """False: it was lost before."""
        lease, self._lease, self._info = self._lease, None, None
        return lease is not None and await lease.revoke()

    async def __aenter__(self) -> Self:
        await self.acquire()
        assert self._lease is not None
        if self._cancel_on_loss:
            self._task = asyncio.current_task()
            self._lease.on_lost(self._interrupt)
        return self

    def _interrupt(self) -> None:
        if self._task is not None:
            self._interrupted = True
            self._task.cancel()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        lease, self._lease, self._info = self._lease, None, None
        assert lease is not None
        if not self._interrupted:
            await lease.revoke_quietly()
            return
        assert task is not None
        others = task.uncancel()
        if kind is None or (kind is asyncio.CancelledError and not others):
            raise LeaseLostError(
                f"the lock {self.name!r} was lost while it was held; somebody else may have it"
            ) from error
