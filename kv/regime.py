"""What the faces (REST, the etcd gateway, the fast lane) ask of the strong regime. Protocols only.

Everything is answered through a callback, exactly once, from the loop and never from inside the
call: the fast lane answers thousands of operations a second without a task or a future for each.
Faces that have a coroutine anyway use `ask`. An answer is a result or a JanusError, as a value; the
machine's refusals (results.Failure) have been turned into errors of their class on the way.

    done(answer)      answer: what was asked for, or a JanusError
    write             one command, through the log, from any node
    write_each        some at once, for faces with many
    get               the newest of one key, as linearizable as a plain read, for faces with many
    read              `evaluate` runs on this node's replica once it is as fresh as the level asks;
                      it must be quick, and must not keep what it was given

Any node takes any call: a node that does not lead forwards writes and asks for a read point.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from kv.model import PLAIN_READ, PLAIN_WRITE, ReadOptions, WriteOptions
from kv.reading import LeaseReading as LeaseReading
from kv.reading import ShardReader as ShardReader
from kv.strong.queries import Query
from kv.watch.merged import Ground, Pulled
from kv.watch.messages import Encode
from kv.watch.position import Feed
from kv.watch.watcher import WatchRequest
from kv.watch.watches import Watches
from raftgroups.commands import Command
from raftgroups.results import Result
from storage.errors import JanusError
from storage.mvcc_records import Fields

T = TypeVar("T")
Done = Callable[[T | JanusError], None]
Give = Callable[[Sequence[Any], Sequence[Fields | None] | JanusError, int, int], None]
"""(askers, what was found for each, revision, term): answer them, each exactly once. An asker is
what `Strong.get` was told to answer. Of an error revision and term are 0. It must not raise."""


class Strong(Protocol):
    """One strong keyspace."""

    @property
    def single(self) -> bool:
        """One shard, with a replica here: then `read` takes any function of a ShardReader. Else it
        takes queries only (kv/strong/queries.py), which name their keys and can be sent on."""
        ...

    def shard_of(self, key: bytes) -> int:
        """Where a key is, as this node knows it; 0 if it does not."""
        ...

    def write(
        self, command: Command, done: Done[Result], options: WriteOptions = PLAIN_WRITE
    ) -> None: ...

    def write_each(self, commands: Sequence[Command], dones: Sequence[Done[Result]]) -> None:
        """The same without options. What only some of them are refused for does not touch the
        others."""
        ...

    def read(
        self,
        evaluate: Callable[[ShardReader], T],
        done: Done[T],
        options: ReadOptions = PLAIN_READ,
    ) -> None: ...

    def get(self, key: bytes, asker: Any, give: Give) -> None:
        """Only while `single`. `give` is called with this asker among others that had their read
        point together; what an asker is, is between it and the caller."""
        ...

    def local(self) -> ShardReader:
        """This node's replica as it is now (EVENTUAL), for headers and status. Raises
        UnavailableError while there is nothing to read here."""
        ...

    def watches(self, encode: Encode) -> Watches:
        """A hub of its own for a face, whose encoding it uses. Call it once a face."""
        ...

    def ground(
        self, watches: Watches, page: Callable[[Feed, WatchRequest], Query[Pulled]]
    ) -> Ground | None:
        """For watches over several shards (kv/watch/merged.py), with a face's own `watches` and
        its query of a page of events. None: this is one shard for ever."""
        ...

    @property
    def term(self) -> int: ...


async def ask(start: Callable[[Done[T]], None]) -> T:
    """Await one call: `await ask(lambda done: strong.write(command, done))`. A JanusError that
    comes as the answer is raised. Cancelling the waiter does not recall the operation."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def done(answer: T | JanusError) -> None:
        if future.done():
            return  # the waiter went away
        if isinstance(answer, JanusError):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    start(done)
    return await future
