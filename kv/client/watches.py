"""Watches that resume by themselves.

    async with client.watch(prefix="jobs/") as changes:
        async for change in changes: ...

A task of the client follows the stream and puts whole changes (all events of a revision) into a
bounded queue; when the queue is full it stops reading, and the server holds the rest back. Lost
connections, stopping nodes and nodes that say nothing more are no end: it goes on with another
endpoint, from the next revision (watch_position.py). What is one: CompactedError (changes were
missed for good; read the keys again), a refusal, and the first connection not coming within the
deadline.

A connection on which nothing comes may be dead without saying so. After IDLE_S without a byte the
node is asked how it is; one that does not answer, or has lost its leader, is left for another one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Final, Generic, Protocol, Self, TypeVar

from kv.client import other_operations as operations
from kv.client.background import Background
from kv.client.calls import Caller, How, SessionState
from kv.client.endpoints import Endpoints
from kv.client.failures import Refusal, error_of, refusal_of
from kv.client.forms import in_keyspace
from kv.client.lines import LineSplitter
from kv.client.records import Change
from kv.client.transport import LostError, NotSentError, ReadChunk
from kv.client.watch_position import WatchPosition
from kv.cluster.tasks import TaskHandle
from kv.errors import UnavailableError
from storage.errors import JanusError

_log = logging.getLogger(__name__)

QUEUE_CHANGES: Final = 128
IDLE_S: Final = 10.0
ASK_S: Final = 3.0
PAUSE_FIRST_S: Final = 0.05
PAUSE_MAX_S: Final = 1.0


C = TypeVar("C")
N = TypeVar("N")
HandedOut = TypeVar("HandedOut", covariant=True)


class Place(Protocol[N, HandedOut]):
    """Where a watch is: WatchPosition, and that of a leaderless keyspace."""

    next: N
    created: bool
    over: bool

    def connected(self) -> None: ...

    def read(self, line: bytes) -> HandedOut | None:
        """Raises what ends the watch."""
        ...


class Following(Generic[N, C]):
    """An asynchronous iterator of changes. `target(position.next)` is what to ask for; `leads`:
    a node without a leader is left for another one."""

    def __init__(
        self,
        caller: Caller,
        tasks: Background,
        target: Callable[[N], str],
        position: Place[N, C],
        *,
        leads: bool,
    ) -> None:
        self._caller = caller
        self._tasks = tasks
        self._target = target
        self._position = position
        self._leads = leads
        self._queue: asyncio.Queue[C | None] = asyncio.Queue(QUEUE_CHANGES)
        self._begun = asyncio.Event()
        self._error: JanusError | None = None
        self._task: TaskHandle | None = None
        self._closed = False
        self.connections = 0
        """How often it has connected so far."""

    async def begun(self) -> Self:
        """Until a server watches: every later change is seen. Raises what ends a watch."""
        self._start()
        await self._begun.wait()
        if self._error is not None and not self._position.created:
            raise self._error
        return self

    async def close(self) -> None:
        """What waits for a change gets the end of the iteration."""
        if self._closed:
            return
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        while self._queue.full():
            self._queue.get_nowait()
        self._queue.put_nowait(None)

    async def next(self) -> C:
        """The next change; may be cancelled and called again. Raises StopAsyncIteration after
        `close`, and what ends a watch."""
        self._start()
        if not self._closed:
            change = await self._queue.get()
            if change is not None:
                return change
            self._queue.put_nowait(None)  # for whoever else waits, or asks again
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> C:
        return await self.next()

    async def __aenter__(self) -> Self:
        try:
            return await self.begun()
        except BaseException:
            await self.close()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # --- following ---

    def _start(self) -> None:
        if self._task is None and not self._closed:
            self._caller.check_open()
            self._task = self._tasks.spawn(self._follow(), "watch")

    async def _follow(self) -> None:
        clock = self._caller.clock
        until = clock.monotonic() + self._caller.policy.deadline_s
        try:
            failures = 0
            tried: set[str] = set()
            while True:
                url = self._caller.endpoints.choose(clock.monotonic(), tried)
                told = self._position.next, self._position.created
                error = await self._once(url)
                if (self._position.next, self._position.created) != told:
                    failures = 0
                    tried.clear()
                _log.info("a watch goes on with another connection: %s", error)
                if not self._position.created and clock.monotonic() >= until:
                    raise UnavailableError(
                        f"no endpoint began to watch within {self._caller.policy.deadline_s:g} s; "
                        f"last, {url}: {error}"
                    )
                failures += 1
                tried.add(url)
                if tried.issuperset(self._caller.endpoints.urls):
                    tried.clear()
                    longest = min(PAUSE_MAX_S, PAUSE_FIRST_S * 2 ** min(failures, 10))
                    await asyncio.sleep(self._caller.rng.uniform(longest / 2, longest))
        except JanusError as error:
            self._error = error
            self._begun.set()
            await self._queue.put(None)

    async def _once(self, url: str) -> JanusError:
        """One connection, until it ends; why it did. Raises what ends the watch."""
        caller = self._caller
        try:
            target = url + in_keyspace(self._target(self._position.next), caller.keyspace)
            async with caller.transport.stream(target, {}, caller.policy.try_s) as (reply, read):
                if reply.status != 200:
                    return _refused(caller.endpoints, url, refusal_of(reply))
                self.connections += 1
                caller.endpoints.worked(url)
                await self._read(url, read)
            caller.endpoints.leave(url)
            return LostError("the stream has ended")
        except (NotSentError, LostError) as error:
            caller.endpoints.failed(url, caller.clock.monotonic())
            return error

    async def _read(self, url: str, read: ReadChunk) -> None:
        """Until the stream ends."""
        position, splitter = self._position, LineSplitter()
        position.connected()
        while not position.over:
            try:
                async with asyncio.timeout(IDLE_S):
                    chunk = await read()
            except TimeoutError:
                await self._ask_how_it_is(url)
                continue
            if not chunk:
                return
            for line in splitter.feed(chunk):
                change = position.read(line)
                if position.created:
                    self._begun.set()
                if change is not None:
                    await self._queue.put(change)

    async def _ask_how_it_is(self, url: str) -> None:
        """Raises LostError if another node is the better choice."""
        how = How(SessionState(), deadline_s=ASK_S, endpoint=url)
        try:
            status = await self._caller.call(operations.status(), how)
        except JanusError as error:
            raise LostError(f"it says nothing more: {error}") from error
        if self._leads and status.leader is None and len(self._caller.endpoints.urls) > 1:
            raise LostError("it has lost its leader")


class Watch(Following[int | str, Change]):
    """Of a strong keyspace: every change once, in the order of revisions. Of keys in several shards
    each shard has an order of its own, and so has each key."""

    def __init__(
        self,
        caller: Caller,
        tasks: Background,
        target: Callable[[int | str], str],
        start: int | str,
    ) -> None:
        super().__init__(caller, tasks, target, WatchPosition(start), leads=True)

    @property
    def next_revision(self) -> int:
        """Where a watch that replaces this one would begin, once everything queued is consumed; 0
        where only `cursor` says that."""
        following = self._position.next
        return following if isinstance(following, int) else 0

    @property
    def cursor(self) -> str:
        """The same, of keys in several shards; else empty."""
        following = self._position.next
        return following if isinstance(following, str) else ""


def _refused(endpoints: Endpoints, url: str, refusal: Refusal) -> JanusError:
    """Raises it if others would refuse, too."""
    error = error_of(refusal)
    if refusal.status < 500 and refusal.status != 429:
        raise error
    endpoints.leave(url)
    return error
