"""etcd's v3 JSON gateway as routes of an aiohttp application.

    /v3/{call}       POST; by exact path to: hot.py (key-value), unary.py (leases, cluster,
                     maintenance, auth), lock_calls.py (lock, election), watch_calls.py and the
                     other streams here
    /v3beta/{call}   the same
    /version /health /livez /readyz

    gateway = add_routes(app, context)
    gateway.stop("the node stops")        ends watches and whoever waits, with that reason

One dispatcher looks the path up in a dict: etcd's answers to wrong methods, paths and slashes are
its own. How calls are answered is in ARCHITECTURE.md of this folder.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from contextvars import ContextVar
from functools import partial
from typing import Final

import msgspec
from aiohttp import web

from kv.etcd.answers import Headers, encode_event
from kv.etcd.asking import read, write
from kv.etcd.context import CLUSTER_VERSION, SERVER_VERSION, GatewayContext, SnapshotPart
from kv.etcd.errors import EtcdError, Grpc, as_unknown, encode_stream_error
from kv.etcd.hot import HotCall, HotCalls
from kv.etcd.http import HUNG_UP, Heads, read_body, read_messages, unreadable
from kv.etcd.lock_calls import LockCall, LockCalls
from kv.etcd.presence import Caller, Presence
from kv.etcd.protojson import MalformedBodyError, Schema, decode, int64
from kv.etcd.queries import HomeQuery
from kv.etcd.queues import HungUpError, Queues
from kv.etcd.unary import UnaryCall, UnaryCalls
from kv.etcd.watch_calls import WatchCalls
from kv.model import LOCAL_READ, Level, ReadOptions
from raftgroups.commands import LeaseKeepAlive
from raftgroups.results import KeepAliveResult
from storage.errors import JanusError

StreamCall = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_LEASE: Final[Schema] = {"ID": int64}
_SLASHES: Final = re.compile(r"//+")


LEVEL: Final[ContextVar[str]] = ContextVar("level", default="")
"""Of the answer to the request that this task serves, for metrics."""
STREAM_PATHS: Final = frozenset(
    {
        "/v3/watch",
        "/v3/lease/keepalive",
        "/v3/maintenance/snapshot",
        "/v3/election/observe",
        "/v3beta/watch",
        "/v3beta/lease/keepalive",
    }
)
"""Their requests are read message by message, each of them small."""


class Gateway:
    def __init__(self, context: GatewayContext) -> None:
        self._context: Final = context
        self._strong: Final = context.strong
        self._headers: Final = Headers(context.cluster_id, context.member_id)
        self._heads: Final = Heads(context)
        self._presence: Final = Presence(context.limits.gone_after_s)
        self.watches: Final = context.strong.watches(encode_event)
        self.hot: Final = HotCalls(context, self._headers)
        """For the fast lane, too."""
        unary = UnaryCalls(context, self._headers)
        queues = Queues(context.strong, self.watches, context.alarms)
        self._locks: Final = LockCalls(
            context.strong, self.watches, self._headers, self._presence, queues, unary
        )
        watch = WatchCalls(
            context.strong,
            self.watches,
            self._headers,
            self._heads,
            self._presence,
            context.limits,
        )
        self._calls: Final[dict[str, StreamCall]] = {
            **{path: partial(self._hot, call) for path, call in self.hot.by_path.items()},
            **{path: partial(self._one, call) for path, call in unary.by_path.items()},
            **{path: partial(self._lock, call) for path, call in self._locks.by_path.items()},
            "/v3/watch": watch.watch,
            "/v3/lease/keepalive": self.keep_alive,
            "/v3/maintenance/snapshot": self.snapshot,
            "/v3/election/observe": self.observe,
        }

    def refuse(self, error: JanusError) -> web.Response:
        """For whoever stands in front of this face."""
        return self._heads.error(error)

    def stop(self, reason: str) -> None:
        """Watches end after what waits for them; locks and elections under way are refused."""
        self.watches.close(reason)

    # --- every call ---

    async def dispatch(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path.startswith("/v3beta/"):
            path = "/v3/" + path.removeprefix("/v3beta/")
        if request.method == "OPTIONS":
            return web.Response(headers=self._heads.bare)
        if path == "/v3" or "//" in path:
            to = "/v3/" if path == "/v3" else _SLASHES.sub("/", path)
            return web.Response(status=301, headers={"Location": to, **self._heads.bare})
        call = self._calls.get(path)
        if call is None:
            return self._heads.plain(404, "Not Found\n")
        if request.method != "POST":
            return self._heads.plain(405, "Method Not Allowed\n")
        if request.headers.get("Authorization") and path != "/v3/auth/authenticate":
            return self._heads.error(
                EtcdError(Grpc.UNAUTHENTICATED, "etcdserver: invalid auth token")
            )
        try:
            return await call(request)
        except JanusError as error:
            return self._heads.error(error)
        except HUNG_UP:
            return self._heads.plain(400, "Bad Request\n")  # if there is anyone to read it

    async def _body(self, request: web.BaseRequest) -> bytes:
        return await read_body(request, self._context.limits.body_bytes)

    async def _hot(self, call: HotCall, request: web.BaseRequest) -> web.Response:
        body = await self._body(request)
        future: asyncio.Future[tuple[int, bytes, Level]] = (
            asyncio.get_running_loop().create_future()
        )

        def answered(status: int, shown: bytes, level: Level = Level.LINEARIZABLE, /) -> None:
            if not future.done():
                future.set_result((status, shown, level))

        call(body, answered)
        status, shown, level = await future
        if status == 200:
            LEVEL.set(level.lower())
        return self._heads.json(status, shown)

    async def _one(self, call: UnaryCall, request: web.BaseRequest) -> web.Response:
        return self._heads.json(200, await call(await self._body(request)))

    async def _lock(self, call: LockCall, request: web.BaseRequest) -> web.Response:
        body = await self._body(request)
        try:
            return self._heads.json(200, await call(request, body))
        except (MalformedBodyError, HungUpError):
            raise
        except JanusError as error:
            raise as_unknown(error) from error

    # --- streams ---

    async def keep_alive(self, request: web.BaseRequest) -> web.StreamResponse:
        """Ends when the requests of the body are answered."""
        return await self._stream(request, self._kept_alive(request))

    async def _kept_alive(self, request: web.BaseRequest) -> AsyncGenerator[bytes, None]:
        answered = False
        try:
            limit = self._context.limits.stream_message_bytes
            async for document in read_messages(request, limit):
                lease = decode(_LEASE, document).get("ID", 0)
                command = LeaseKeepAlive((lease,))
                result = await write(self._strong, command, KeepAliveResult)
                fields = {"ID": lease, "TTL": result.ttls_s[0]}
                yield self._headers.encode_fields(result.revision, self._strong.term, fields)
                answered = True
        except MalformedBodyError as error:
            if not answered:
                raise unreadable(error) from error

    async def snapshot(self, request: web.BaseRequest) -> web.StreamResponse:
        decode({}, await self._body(request))
        source = self._context.snapshot
        if source is None:
            raise EtcdError(
                Grpc.UNIMPLEMENTED, "this node gives no snapshots here; use the command backup"
            )
        return await self._stream(request, self._snapshot_parts(source()))

    async def _snapshot_parts(
        self, parts: AsyncIterator[SnapshotPart]
    ) -> AsyncGenerator[bytes, None]:
        async for remaining, blob in parts:
            fields = {"remaining_bytes": remaining, "blob": blob}
            local = self._strong.local()
            yield self._headers.encode_fields(local.revision, self._strong.term, fields)

    async def observe(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await self._body(request)
        with self._presence.of(request) as caller:
            return await self._stream(request, self._locks.observe(caller, body), caller)

    async def _stream(
        self,
        request: web.BaseRequest,
        messages: AsyncGenerator[bytes, None],
        caller: Caller | None = None,
    ) -> web.StreamResponse:
        """Each message in a chunk of its own. What fails before the first is the answer; later it
        is the stream's last message."""
        response: web.StreamResponse | None = None
        try:
            async with aclosing(messages):
                async for message in messages:
                    if response is None:
                        response = self._heads.stream(request)
                        await response.prepare(request)
                    await response.write(b'{"result":%b}\n' % message)
        except JanusError as error:
            if response is None:
                raise
            with suppress(*HUNG_UP):
                await response.write(encode_stream_error(error))
        except HUNG_UP:
            if response is None:
                raise
            return response
        if response is None:
            response = self._heads.stream(request, has_messages=False)
            await response.prepare(request)
        if caller is None or not caller.is_gone:
            with suppress(*HUNG_UP):
                await response.write_eof()
        return response

    # --- beside the protocol ---

    async def version(self, request: web.Request) -> web.Response:
        if request.method != "GET":
            return self._heads.plain(405, "Method Not Allowed\n", allow="GET")
        return self._heads.local_json(
            b'{"etcdserver":"%b","etcdcluster":"%b"}'
            % (SERVER_VERSION.encode(), CLUSTER_VERSION.encode())
        )

    async def health(self, request: web.Request) -> web.Response:
        """A linearizable read, unless `?serializable=true`."""
        if request.method != "GET":
            return self._heads.plain(405, "Method Not Allowed\n", allow="GET")
        reason = await self._trouble(local=request.query.get("serializable") == "true")
        shown = msgspec.json.encode({"health": "false" if reason else "true", "reason": reason})
        return self._heads.plain(503 if reason else 200, shown.decode() + "\n" * bool(reason))

    async def ready(self, request: web.Request) -> web.Response:
        """Whether it can answer linearizable reads (newer etcds have this)."""
        return await self._checked(request, "linearizable_read", local=False)

    async def live(self, request: web.Request) -> web.Response:
        """Whether it answers at all (newer etcds have this)."""
        return await self._checked(request, "serializable_read", local=True)

    async def _checked(self, request: web.Request, name: str, *, local: bool) -> web.Response:
        if request.method != "GET":
            return self._heads.plain(405, "Method Not Allowed\n", allow="GET")
        reason = await self._read_trouble(local=local)
        if reason:
            return self._heads.plain(503, f"[-]{name} failed: {reason}\n")
        shown = f"[+]{name} ok\n" if "verbose" in request.query else ""
        return self._heads.plain(200, shown + "ok\n")

    async def _trouble(self, *, local: bool) -> str:
        if self._context.alarms.is_out_of_space:
            return "ALARM NOSPACE"
        numbers = self._context.status()
        if not local and numbers.has_replica and not numbers.leader:
            return "RAFT NO LEADER"
        return await self._read_trouble(local=local)

    async def _read_trouble(self, *, local: bool) -> str:
        deadline_s = self._context.limits.health_deadline_s
        options = LOCAL_READ if local else ReadOptions(deadline_s=deadline_s)

        try:
            await asyncio.wait_for(read(self._strong, HomeQuery(), options), deadline_s + 1)
        except JanusError as error:
            return f"READ ERROR: {error}"
        except TimeoutError:
            return "READ ERROR: no answer in time"
        return ""

    async def not_found(self, request: web.Request) -> web.Response:
        """What etcd answers on paths that are nobody's; for an application without other faces."""
        return self._heads.plain(404, "404 page not found\n")


def add_routes(
    app: web.Application, context: GatewayContext, *, side_endpoints: bool = True
) -> Gateway:
    """`side_endpoints`: /version, /health, /livez and /readyz, too. Raises UnavailableError if
    there is no shard to watch yet."""
    gateway = Gateway(context)
    for path in ("/v3", "/v3/{tail:.*}", "/v3beta/{tail:.*}"):
        app.router.add_route("*", path, gateway.dispatch)
    app.router.add_route("*", "/v3alpha/{tail:.*}", gateway.not_found)
    if side_endpoints:
        app.router.add_route("*", "/version", gateway.version)
        app.router.add_route("*", "/health", gateway.health)
        app.router.add_route("*", "/livez", gateway.live)
        app.router.add_route("*", "/readyz", gateway.ready)
    return gateway
