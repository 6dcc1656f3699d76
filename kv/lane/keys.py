"""The calls of one key under /api/v1/keys/{key}, from body to reply, without a coroutine.

The same pure functions as the aiohttp lane (kv/api/hot.py), in the same order: what is refused
before the regime is asked says nothing about level and session; what the regime answers does.
`replied` is called exactly once, maybe inside the call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from kv.api import hot
from kv.api.failures import defect_reply, error_reply
from kv.api.headers import (
    NO_CONDITIONS,
    Conditions,
    read_condition,
    read_options,
    session_of,
    write_conditions,
    write_options,
)
from kv.api.queries import KeyQuery
from kv.api.reply import Reply
from kv.model import (
    NO_SESSION,
    PLAIN_READ,
    PLAIN_WRITE,
    Level,
    ReadOptions,
    SessionToken,
    WriteOptions,
)
from kv.reading import ShardReader
from kv.regime import Strong
from raftgroups.results import Result
from storage.errors import JanusError

_log = logging.getLogger(__name__)

GET: Final = "GET"
PUT: Final = "PUT"
DELETE: Final = "DELETE"
POST: Final = "POST"
PREFIX: Final = "/api/v1/keys/"
TEMPLATE: Final = PREFIX + "{key}"
CAS: Final = "/cas"


class KeyOptions(NamedTuple):
    """What a head says beside its key."""

    read: ReadOptions = PLAIN_READ
    write: WriteOptions = PLAIN_WRITE
    conditions: Conditions = NO_CONDITIONS
    known: int = -1
    session: SessionToken = NO_SESSION


NO_OPTIONS: Final = KeyOptions()


class Replied(Protocol):
    def __call__(
        self, reply: Reply, level: Level | None = None, session: SessionToken = NO_SESSION, /
    ) -> None: ...


KeyCall = Callable[[bytes, bytes, Any, Replied], None]
"""(key, body, options, replied); the options are what the regime's parser made of the head."""
ParseOptions = Callable[[str, Mapping[str, str]], object]
"""(method, headers). Raises what the aiohttp lane would answer."""


def parse_options(method: str, headers: Mapping[str, str]) -> KeyOptions:
    """Raises what the aiohttp lane would answer."""
    if method == GET:
        return KeyOptions(read=read_options(headers), known=read_condition(headers))
    return KeyOptions(
        write=write_options(headers),
        conditions=NO_CONDITIONS if method == POST else write_conditions(headers),
        session=session_of(headers),
    )


class KeyCalls:
    """`by_method` has them; POST is cas. `shard`: in which shard a key is (kv/api/context.py)."""

    def __init__(self, strong: Strong, shard: Callable[[bytes], int]) -> None:
        self._strong: Final = strong
        self._shard: Final = shard
        self.by_method: Final[dict[str, KeyCall]] = {
            GET: self.get,
            PUT: self.put,
            DELETE: self.delete,
            POST: self.cas,
        }

    def get(self, key: bytes, body: bytes, options: KeyOptions, replied: Replied) -> None:
        read, known = options.read, options.known

        def evaluate(reader: ShardReader) -> Reply:
            return hot.get_reply(reader, key, 0, known)

        def done(answer: Reply | JanusError) -> None:
            reply = error_reply(answer) if isinstance(answer, JanusError) else answer
            level = read.level if reply.shard or reply.status < 400 else None
            replied(reply, level, read.session)

        if self._strong.single:
            self._strong.read(evaluate, done, read)
        else:
            self._strong.read(KeyQuery(key, 0, known), done, read)

    def put(self, key: bytes, body: bytes, options: KeyOptions, replied: Replied) -> None:
        write = options.write
        try:
            has_token = write.token is not None
            command, conditions = hot.put_command(key, body, options.conditions, has_token)
        except JanusError as error:
            replied(error_reply(error), None, NO_SESSION)
            return

        def encode(result: Result) -> Reply:
            return hot.put_reply(key, result, conditions, hot.AS_IS, self._shard(key))

        self._strong.write(command, _written(PUT, encode, options.session, replied), write)

    def delete(self, key: bytes, body: bytes, options: KeyOptions, replied: Replied) -> None:
        conditions = options.conditions
        try:
            command = hot.delete_command(key, conditions)
        except JanusError as error:
            replied(error_reply(error), None, NO_SESSION)
            return

        def encode(result: Result) -> Reply:
            return hot.delete_reply(key, result, conditions, hot.AS_IS, self._shard(key))

        done = _written(DELETE, encode, options.session, replied)
        self._strong.write(command, done, options.write)

    def cas(self, key: bytes, body: bytes, options: KeyOptions, replied: Replied) -> None:
        try:
            command = hot.cas_command(key, body)
        except JanusError as error:
            replied(error_reply(error), None, NO_SESSION)
            return

        def encode(result: Result) -> Reply:
            return hot.cas_reply(result, self._shard(key))

        done = _written(POST, encode, options.session, replied)
        self._strong.write(command, done, options.write)


def _written(
    method: str, encode: Callable[[Result], Reply], session: SessionToken, replied: Replied
) -> Callable[[Result | JanusError], None]:
    def done(answer: Result | JanusError) -> None:
        try:
            reply = error_reply(answer) if isinstance(answer, JanusError) else encode(answer)
        except JanusError as error:
            reply = error_reply(error)
        except Exception:  # noqa: BLE001 - the last edge: logged, and answered as a defect
            _log.exception("a defect in %s %s", method, TEMPLATE)
            reply = defect_reply(method)
        level = Level.LINEARIZABLE if reply.shard or reply.status < 400 else None
        replied(reply, level, session)

    return done
