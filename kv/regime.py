"""What the faces (REST, the etcd gateway, the fast lane) ask of the strong regime. Protocols only.

Everything is answered through a callback, exactly once, from the loop and never from inside the
call: the fast lane answers thousands of operations a second without a task or a future for each.
Faces that have a coroutine anyway use `ask`. An answer is a result or a JanusError, as a value; the
machine's refusals (results.Failure) have been turned into errors of their class on the way.

    done(answer)      answer: what was asked for, or a JanusError
    write             one command, through the log, from any node
    read              `evaluate` runs on this node's replica once it is as fresh as the level asks;
                      it must be quick, and must not keep what it was given

Any node takes any call: a node that does not lead forwards writes and asks for a read point.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

from kv.model import PLAIN_READ, PLAIN_WRITE, ReadOptions, WriteOptions
from kv.watch.messages import Encode
from kv.watch.shard_watches import ShardWatches
from raftgroups.commands import Command, Range, Txn
from raftgroups.results import RangeAnswer, Result, TxnResult
from storage.errors import JanusError
from storage.mvcc_records import KeyValue
from storage.mvcc_view import View

T = TypeVar("T")
Done = Callable[[T | JanusError], None]


class LeaseReading(Protocol):
    """A lease as of a read. A named tuple in practice."""

    @property
    def lease(self) -> int: ...

    @property
    def granted_s(self) -> int: ...

    @property
    def remaining_ms(self) -> int: ...


class ShardReader(Protocol):
    """One shard as this node's replica has it now. Its methods raise the errors that name what
    cannot be read (storage/errors.py)."""

    @property
    def shard(self) -> int:
        """Its number, as session tokens name it."""
        ...

    @property
    def revision(self) -> int: ...

    @property
    def compact_revision(self) -> int: ...

    @property
    def view(self) -> View:
        """For keys, bounded pages and counts (storage/mvcc_view.py)."""
        ...

    def get(self, key: bytes, revision: int = 0) -> KeyValue | None: ...

    def ttl_remaining_ms(self, key: bytes) -> int | None:
        """Of the key's own time to live; None if it has none."""
        ...

    def range(self, operation: Range) -> RangeAnswer:
        """As etcd answers it, bounded by nothing but the operation's limit."""
        ...

    def read_txn(self, txn: Txn) -> TxnResult:
        """A transaction that cannot write (raftgroups/txn.py: is_read_only)."""
        ...

    def lease(self, lease: int) -> LeaseReading | None: ...

    def leases(self) -> list[int]:
        """All lease ids, in order."""
        ...

    def lease_keys(self, lease: int) -> list[bytes]: ...


class Strong(Protocol):
    """One strong keyspace. Today it is one shard; what takes a key will find its shard by it."""

    def write(
        self, command: Command, done: Done[Result], options: WriteOptions = PLAIN_WRITE
    ) -> None: ...

    def read(
        self,
        evaluate: Callable[[ShardReader], T],
        done: Done[T],
        options: ReadOptions = PLAIN_READ,
    ) -> None: ...

    def local(self) -> ShardReader:
        """This node's replica as it is now (EVENTUAL), for headers and status. Raises
        UnavailableError while there is nothing to read here."""
        ...

    def watches(self, encode: Encode) -> ShardWatches:
        """A hub of its own for a face, whose encoding it uses. Call it once a face."""
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
