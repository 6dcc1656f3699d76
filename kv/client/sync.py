"""The client without asyncio: the same calls, blocking.

    with Client("127.0.0.1:7400") as client:
        client.put("greeting", "hello")
        with client.lock("door") as lock: ...
        for change in client.watch(prefix="jobs/"): ...

A background thread runs the loop of an asyncio client; every method here is made from the method of
the same name there (signatures and types, too), so nothing is written twice. Safe to be used by
several threads. A lost lock cannot interrupt a thread: look at `lock.alive`, or `lock.check()`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, Final, Generic, ParamSpec, Self, TypeVar

from kv.client import client as asynchronous
from kv.client import leases, locks, watches
from kv.client.endpoints import DEFAULT_ENDPOINT
from kv.client.records import Change, LockInfo

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C")
N = TypeVar("N")
Inner = TypeVar("Inner", covariant=True)
Wrapped = TypeVar("Wrapped", bound="_Blocking[Any]")

STOP_S: Final = 10.0


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="januskv client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    def run(self, work: Awaitable[T]) -> T:
        """From any other thread. An interrupt (ctrl-C) cancels the work."""
        future = asyncio.run_coroutine_threadsafe(_as_coroutine(work), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def do(self, work: Callable[[], T]) -> T:
        async def call() -> T:
            return work()

        return self.run(call())

    def stop(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(STOP_S)


async def _as_coroutine(work: Awaitable[T]) -> T:
    return await work


class _Blocking(Generic[Inner]):
    """Something of the asynchronous client, and the loop it lives in."""

    def __init__(self, inner: Inner, loop: _Loop) -> None:
        self._inner = inner
        self._loop = loop


def _calls(
    method: Callable[Concatenate[Inner, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[_Blocking[Inner], P], T]:
    @wraps(method)
    def call(self: _Blocking[Inner], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._loop.run(method(self._inner, *args, **kwargs))

    return call


def _makes(
    method: Callable[Concatenate[Inner, P], Any], kind: type[Wrapped]
) -> Callable[Concatenate[_Blocking[Inner], P], Wrapped]:
    """A method whose result is again something of the client."""

    @wraps(method)
    def call(self: _Blocking[Inner], /, *args: P.args, **kwargs: P.kwargs) -> Wrapped:
        async def make() -> Any:
            made = method(self._inner, *args, **kwargs)
            return await made if asyncio.iscoroutine(made) else made

        return kind(self._loop.run(make()), self._loop)

    return call


def _iterates(
    method: Callable[Concatenate[Inner, P], AsyncIterator[T]],
) -> Callable[Concatenate[_Blocking[Inner], P], Iterator[T]]:
    @wraps(method)
    def call(self: _Blocking[Inner], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        items = method(self._inner, *args, **kwargs)
        while True:
            try:
                item = self._loop.run(_following(items))
            except StopAsyncIteration:
                return
            yield item

    return call


async def _following(items: AsyncIterator[T]) -> T:
    return await anext(items)


class _Context(_Blocking[Inner]):
    """A context manager like the asynchronous one."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()

    def __enter__(self) -> Self:
        self._enter()
        return self

    def _enter(self) -> None: ...

    def _leave(self) -> None:
        raise NotImplementedError


class Lease(_Context[leases.Lease]):
    """See kv.client.Lease."""

    @property
    def id(self) -> int:
        return self._inner.id

    @property
    def ttl_s(self) -> float:
        """Seconds."""
        return self._inner.ttl_s

    @property
    def alive(self) -> bool:
        """Surely still there."""
        return self._inner.alive

    wait_lost = _calls(leases.Lease.wait_lost)
    revoke = _calls(leases.Lease.revoke)
    revoke_quietly = _calls(leases.Lease.revoke_quietly)

    def check(self) -> None:
        """Raises LeaseLostError unless it surely lives."""
        self._inner.check()

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Called in the client's thread: it must be short, and must not call the client."""
        self._loop.do(lambda: self._inner.on_lost(callback))

    def stop(self) -> None:
        """Keep it alive no longer: it ends by itself."""
        self._loop.do(self._inner.stop)

    def abandon(self) -> None:
        """Revoke it, without waiting for that."""
        self._loop.do(self._inner.abandon)

    def _leave(self) -> None:
        self.revoke_quietly()


class Lock(_Context[locks.Lock]):
    """See kv.client.Lock."""

    @property
    def name(self) -> bytes:
        return self._inner.name

    @property
    def info(self) -> LockInfo:
        """Raises LeaseLostError if it is not held."""
        return self._inner.info

    @property
    def token(self) -> int:
        """The fencing token: larger than that of every earlier holder."""
        return self._inner.token

    @property
    def alive(self) -> bool:
        """Surely still held."""
        return self._inner.alive

    acquire = _calls(locks.Lock.acquire)
    release = _calls(locks.Lock.release)
    wait_lost = _calls(locks.Lock.wait_lost)

    def check(self) -> None:
        """Raises LeaseLostError unless it is surely still held."""
        self._inner.check()

    def _enter(self) -> None:
        self.acquire()

    def _leave(self) -> None:
        self.release()


class Following(_Context[watches.Following[N, C]], Generic[N, C]):
    """See kv.client.watches: an iterator of changes."""

    def close(self) -> None:
        """What waits for a change gets the end of the iteration."""
        self._loop.run(self._inner.close())

    @property
    def connections(self) -> int:
        """How often it has connected so far."""
        return self._inner.connections

    def begun(self) -> Self:
        """Until a server watches: every later change is seen."""
        self._loop.run(self._inner.begun())
        return self

    def next(self, timeout_s: float | None = None) -> C:
        """The next change. Raises TimeoutError, and StopIteration after `close`."""

        async def following() -> C | None:
            async with asyncio.timeout(timeout_s):
                try:
                    return await self._inner.next()
                except StopAsyncIteration:
                    return None

        change = self._loop.run(following())
        if change is None:
            raise StopIteration
        return change

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> C:
        return self.next()

    def _enter(self) -> None:
        self.begun()

    def _leave(self) -> None:
        self.close()


class Watch(Following[int | str, Change]):
    """See kv.client.Watch."""

    @property
    def next_revision(self) -> int:
        """Where a watch that replaces this one would begin."""
        assert isinstance(self._inner, watches.Watch)
        return self._inner.next_revision

    @property
    def cursor(self) -> str:
        """The same, of keys in several shards; else empty."""
        assert isinstance(self._inner, watches.Watch)
        return self._inner.cursor


class Client(_Context[asynchronous.Client]):
    """See kv.client.Client."""

    def __init__(
        self,
        endpoints: Any = DEFAULT_ENDPOINT,
        loop: _Loop | None = None,
        /,
        **options: Any,
    ) -> None:
        """The arguments of kv.client.Client."""
        if isinstance(endpoints, asynchronous.Client):  # a session, in the loop of its client
            assert loop is not None
            super().__init__(endpoints, loop)
            self._owner = False
            return
        inner = asynchronous.Client(endpoints, **options)
        super().__init__(inner, _Loop())
        self._owner = True

    def close(self) -> None:
        """End watches, keep no lease alive any more, close connections, end the thread."""
        if self._owner:
            self._owner = False
            self._loop.run(self._inner.close())
            self._loop.stop()

    def _leave(self) -> None:
        self.close()

    @property
    def session_token(self) -> str:
        """What this client has seen: for another process to go on from."""
        return self._inner.session_token

    @property
    def endpoints(self) -> tuple[str, ...]:
        """As URLs."""
        return self._inner.endpoints

    get = _calls(asynchronous.Client.get)
    put = _calls(asynchronous.Client.put)
    delete = _calls(asynchronous.Client.delete)
    cas = _calls(asynchronous.Client.cas)
    incr = _calls(asynchronous.Client.incr)
    ttl = _calls(asynchronous.Client.ttl)
    page = _calls(asynchronous.Client.page)
    count = _calls(asynchronous.Client.count)
    get_many = _calls(asynchronous.Client.get_many)
    batch = _calls(asynchronous.Client.batch)
    delete_prefix = _calls(asynchronous.Client.delete_prefix)
    txn = _calls(asynchronous.Client.txn)
    list = _iterates(asynchronous.Client.list)
    scan = _iterates(asynchronous.Client.scan)
    leases = _iterates(asynchronous.Client.leases)
    grant_only = _calls(asynchronous.Client.grant_only)
    keep_alive = _calls(asynchronous.Client.keep_alive)
    revoke = _calls(asynchronous.Client.revoke)
    lease = _calls(asynchronous.Client.lease)
    lock_state = _calls(asynchronous.Client.lock_state)
    status = _calls(asynchronous.Client.status)
    cluster = _calls(asynchronous.Client.cluster)
    ping = _calls(asynchronous.Client.ping)
    admin = _calls(asynchronous.Client.admin)
    transfer_leader = _calls(asynchronous.Client.transfer_leader)
    compact = _calls(asynchronous.Client.compact)
    grant = _makes(asynchronous.Client.grant, Lease)
    keep = _makes(asynchronous.Client.keep, Lease)
    lock = _makes(asynchronous.Client.lock, Lock)
    watch = _makes(asynchronous.Client.watch, Watch)

    def session(self, token: str = "") -> Client:
        """A client over the same connections with a memory of its own (Level.SESSION)."""
        return Client(self._loop.do(lambda: self._inner.session(token)), self._loop)
