"""Locks: a queue of keys, each on a lease (lockplan.py has the rules).

    1. grant a lease, unless the caller brings one
    2. enter the queue
    3. look; if somebody is before me, wait for that one key to go, and look again
    4. while waiting, keep my own lease alive: its owner is connected and knows it not yet
    5. mine: let the whole time to live begin now

Whoever waits and goes away, or gives up, leaves the queue at once: the lease is revoked (or the
key deleted, if the lease was brought). If even that fails, the lease runs out by itself.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from kv.api import leasing, lockplan
from kv.api.call import Call
from kv.api.failures import LockHeldError, LockLostError
from kv.api.hot import decode, lease_of
from kv.api.live_bodies import LockBody
from kv.api.lock_queries import IsThere, LeaseTtl, LockLook, LockQuery
from kv.api.reply import Reply
from kv.errors import UnavailableError
from kv.model import WriteOptions
from kv.watch.messages import Cancelled
from raftgroups.commands import Command, Delete, LeaseKeepAlive, LeaseRevoke
from raftgroups.lease import LEASE_MAX, lease_missing
from raftgroups.refusals import LeaseNotFoundError
from raftgroups.results import DeleteResult, KeepAliveResult, LeaseResult, Result
from storage.errors import JanusError

_log = logging.getLogger(__name__)
_body = msgspec.json.Decoder(LockBody)


class _Queued:
    """One caller in the queue of one lock."""

    def __init__(
        self, call: Call, name: bytes, lease: int, *, owns_lease: bool, ttl_s: int
    ) -> None:
        self._call = call
        self._name = name
        self.lease = lease
        self._owns_lease = owns_lease
        self._ttl_s = ttl_s
        self.key = lockplan.key_of(name, lease)
        self._options = WriteOptions(deadline_s=call.write_options.deadline_s)

    async def enter(self, owner: bytes) -> int:
        """My place in the queue. Raises LockLostError if my lease ended before (this node was
        stopped for a while); of a lease that was brought, its owner is told that it is over."""
        command = lockplan.enter(self.key, self.lease, owner)
        try:
            return lockplan.place_of(await self._call.write(command, self._options))
        except LeaseNotFoundError:
            if not self._owns_lease:
                raise
            raise LockLostError(
                f"the lease {self.lease} ended before it could enter the queue of the lock "
                f"{self._name!r}; try again"
            ) from None

    async def my_turn(self, place: int, wait_s: float) -> None:
        """Raises LockHeldError, LockLostError."""
        before = await self._look(place)
        if before is None:
            return
        if wait_s > 0:
            try:
                async with asyncio.timeout(wait_s):
                    while before is not None:
                        await self._until_gone(*before)
                        await self._keep_alive()
                        before = await self._look(place)
            except TimeoutError:
                pass  # and still not mine
            else:
                return
        raise LockHeldError(
            f"the lock {self._name!r} is held by another one and {wait_s:g} s were given to wait; "
            "try again, or wait longer"
        )

    async def _look(self, place: int) -> tuple[bytes, int] | None:
        """Who is before me, and as of which revision."""
        seen = await self._call.read(LockLook(self._name, self.key, place))
        if not seen.mine:
            raise LockLostError(
                f"the lease {self.lease} ended while it waited for the lock {self._name!r}, so its "
                "place in the queue is lost; try again"
            )
        return None if seen.before is None else (seen.before, seen.revision)

    async def _until_gone(self, before: bytes, revision: int) -> None:
        """Or until it is time to keep my lease alive."""
        gone = asyncio.Event()
        watches = self._call.api.watches()
        made = watches.create(lockplan.until_gone(before, revision), gone.set)
        if isinstance(made, Cancelled):
            raise UnavailableError(f"this node cannot wait for the lock: {made.message}")
        try:
            async with asyncio.timeout(self._ttl_s / 3):
                await gone.wait()
        except TimeoutError:
            pass
        finally:
            watches.cancel(made.identity)

    async def _keep_alive(self) -> None:
        if not self._owns_lease:
            return
        result = await self._call.write(LeaseKeepAlive((self.lease,)), self._options)
        assert isinstance(result, KeepAliveResult)
        if not result.ttls_s[0]:
            raise LockLostError(
                f"the lease {self.lease} ended while it waited for the lock {self._name!r}; try "
                "again"
            )

    def leave_command(self) -> Command:
        return LeaseRevoke(self.lease) if self._owns_lease else Delete(self.key)

    async def leave(self) -> None:
        await self._call.write(self.leave_command(), self._options)

    def leave_unheard(self) -> None:
        """For a caller that is gone: nobody waits for the answer."""
        self._call.api.strong.write(self.leave_command(), self._left)

    def _left(self, answer: Result | JanusError) -> None:
        if isinstance(answer, JanusError):
            _log.warning(
                "a caller left the queue of lock %r, but its key is still there (%s); it goes with "
                "lease %d",
                self._name,
                answer,
                self.lease,
            )


async def acquire(call: Call) -> Reply:
    wanted = decode(_body, await call.body() or b"{}")
    name = call.argument
    lockplan.prefix_of(name)
    brought = lease_of(wanted.lease)
    if brought:
        left = await call.read(LeaseTtl(brought))
        if left is None:
            raise lease_missing(brought)
        queued = _Queued(call, name, brought, owns_lease=False, ttl_s=left)
    else:
        lease = call.api.rng.randrange(1, LEASE_MAX)
        minimum_s = call.api.settings.minimum_lease_ttl_s
        granted = await call.write(leasing.grant_of(wanted.ttl, lease, minimum_s))
        assert isinstance(granted, LeaseResult)
        queued = _Queued(call, name, granted.lease, owns_lease=True, ttl_s=granted.ttl_s)
    try:
        place = await queued.enter(wanted.owner.encode())
        await queued.my_turn(place, wanted.wait_seconds)
    except JanusError as error:
        if not isinstance(error, LockLostError):
            await _leave_after(queued, error)
        raise
    except BaseException:  # the caller is gone, or a defect
        queued.leave_unheard()
        raise
    call.writes()
    return lockplan.lock_reply(name, queued.key, place, queued.lease, call.api.shard(queued.key))


async def _leave_after(queued: _Queued, error: JanusError) -> None:
    """The caller learns why it did not get the lock, not why leaving failed."""
    try:
        await queued.leave()
    except JanusError as failure:
        _log.warning(
            "leaving the queue after %r failed, the lease %d has to run out: %s",
            error.code,
            queued.lease,
            failure,
        )


async def state(call: Call) -> Reply:
    lockplan.prefix_of(call.argument)
    return await call.read(LockQuery(call.argument))


async def release(call: Call) -> Reply:
    """By key: that key is deleted. By lease: the lease is revoked, with everything that hangs on
    it."""
    name, lease = call.argument, call.query["lease"]
    key = lockplan.key_to_release(name, call.query["key"], lease)
    if lease is not None:
        held = await call.read(IsThere(key))
        result = await call.write(LeaseRevoke(lease)) if held else None
        released = result is not None
    else:
        result = await call.write(Delete(key))
        assert isinstance(result, DeleteResult)
        released = bool(result.deleted)
    call.writes()
    revision = 0 if result is None else result.revision
    shard = call.api.shard(key if lease is None else b"") if revision else 0
    return lockplan.unlock_reply(name, released, revision, shard)
