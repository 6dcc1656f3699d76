"""One request on its way through a handler: what was asked, and how to ask the regime.

A handler gives back a Reply, and the call turns it into aiohttp's response with the headers that
both lanes send (reply.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from aiohttp import web

from kv.api.answers import check_answer
from kv.api.context import Api
from kv.api.failures import BodyTooLargeError, InvalidBodyError
from kv.api.headers import read_options, session_of, write_options
from kv.api.hot import Forms
from kv.api.reply import Reply, reply_headers
from kv.api.route import Route
from kv.api.text import BASE64
from kv.model import NO_SESSION, Level, ReadOptions, WriteOptions
from kv.reading import ShardReader
from kv.regime import Done, ask
from raftgroups.commands import Command
from raftgroups.results import CrossResult, Result

T = TypeVar("T")


class Call:
    __slots__ = ("_level", "_session", "api", "argument", "crossed", "query", "request", "route")

    def __init__(
        self,
        api: Api,
        request: web.Request,
        route: Route,
        argument: bytes,
        query: Mapping[str, Any],
    ) -> None:
        self.api = api
        self.request = request
        self.route = route
        self.argument = argument
        """The key, name or id of the path, as bytes."""
        self.query = query
        self._level: Level | None = None
        self._session = NO_SESSION
        self.crossed = False
        """What was written lies in several shards, and `saw` has been told of each."""
        keyspace = query.get("keyspace")
        if keyspace is not None:
            self.api = api.of_keyspace(keyspace)

    @property
    def forms(self) -> Forms:
        query = self.query
        return Forms(query.get("encoding") == BASE64, query.get("key_encoding") == BASE64)

    @property
    def read_options(self) -> ReadOptions:
        return read_options(self.request.headers)

    @property
    def write_options(self) -> WriteOptions:
        return write_options(self.request.headers)

    async def body(self) -> bytes:
        """Raises BodyTooLargeError, at once if the size was declared, and InvalidBodyError."""
        limit = self.api.settings.request_max_bytes
        if (self.request.content_length or 0) > limit:
            raise _too_large(limit)
        chunks: list[bytes] = []
        size = 0
        try:
            async for chunk in self.request.content.iter_any():
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit)
                chunks.append(chunk)
        except web.RequestPayloadError as error:
            raise InvalidBodyError(f"the body could not be read: {error}") from error
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def read(
        self, evaluate: Callable[[ShardReader], T], options: ReadOptions | None = None
    ) -> T:
        if options is None:
            options = self.read_options
        self._level = options.level
        self._session = options.session

        def start(done: Done[T]) -> None:
            self.api.strong.read(evaluate, done, options)

        return await ask(start)

    async def write(self, command: Command, options: WriteOptions | None = None) -> Result:
        self.writes()
        if options is None:
            options = self.write_options
        result: Result = await ask(partial(self._start_write, command, options))
        if isinstance(result, CrossResult):
            self.crossed = True
            for key, revision in result.seen:
                self.saw(self.api.shard(key), revision)
            result = result.result
        check_answer(command, options, result)
        return result

    async def write_across(self, command: Command) -> Result:
        """The same for what may touch several shards."""
        return await self.write(command, replace(self.write_options, across=True))

    def _start_write(self, command: Command, options: WriteOptions, done: Done[Result]) -> None:
        self.api.strong.write(command, done, options)

    def writes(self) -> None:
        """The answer is that of a write."""
        self._level = Level.LINEARIZABLE
        self._session = session_of(self.request.headers)

    def saw(self, shard: int, revision: int) -> None:
        """Beside what the reply names: of another shard."""
        self._session = self._session.saw(shard, revision)

    def met(self, level: Level) -> None:
        """The answer was put together of several reads, and this is what it is worth."""
        self._level = level

    def response(self, reply: Reply) -> web.Response:
        level = self._level if reply.shard or reply.status < 400 else None
        response = web.Response(
            status=reply.status,
            body=reply.body if reply.status != 304 else None,
            headers=reply_headers(reply, level, self._session),
        )
        if reply.body:
            response.headers["Content-Type"] = reply.content_type
        return response


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"the body is over the limit of {limit} bytes; send less at once (a value is at most 1 MiB)"
    )
