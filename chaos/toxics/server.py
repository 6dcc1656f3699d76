"""toxiproxy's HTTP API over our proxies, so that toxiproxy's clients drive them unchanged.

    GET /version    GET|POST /proxies    POST /populate    POST /reset
    GET|POST|PATCH|DELETE /proxies/{name}
    GET|POST /proxies/{name}/toxics      GET|POST|PATCH|DELETE /proxies/{name}/toxics/{toxic}

Errors are {"error": text, "status": code}: 400 bad request, 404 no such proxy or toxic, 409 the
name is taken. Proxies forward to loopback and wherever else they are told: the API itself belongs
on loopback, because whoever reaches it can open connections from this machine.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from chaos.toxics.proxy import Proxy
from chaos.toxics.toxics import Toxic
from storage.clock import Clock, Rng
from storage.errors import InvalidRequestError

VERSION = "2.9.0"
"""The version of toxiproxy's API that is spoken here."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ToxicsServer:
    def __init__(self, *, clock: Clock, rng: Rng) -> None:
        self._clock = clock
        self._rng = rng
        self.proxies: dict[str, Proxy] = {}

    def application(self) -> web.Application:
        app = web.Application(middlewares=[errors_as_json])
        proxy, toxic = "/proxies/{proxy}", "/proxies/{proxy}/toxics/{toxic}"
        app.add_routes(
            [
                web.get("/version", self._version),
                web.get("/proxies", self._list),
                web.post("/proxies", self._create),
                web.post("/populate", self._populate),
                web.post("/reset", self._reset),
                web.get(proxy, self._show),
                web.post(proxy, self._update),
                web.patch(proxy, self._update),
                web.delete(proxy, self._delete),
                web.get(proxy + "/toxics", self._toxics),
                web.post(proxy + "/toxics", self._add_toxic),
                web.get(toxic, self._toxic),
                web.post(toxic, self._update_toxic),
                web.patch(toxic, self._update_toxic),
                web.delete(toxic, self._remove_toxic),
            ]
        )
        app.on_cleanup.append(self._close)
        return app

    async def _close(self, app: web.Application) -> None:
        for proxy in self.proxies.values():
            await proxy.disable()

    # --- proxies ---

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": VERSION})

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response({name: proxy.as_json() for name, proxy in self.proxies.items()})

    async def _create(self, request: web.Request) -> web.Response:
        proxy = await self.add(await body_of(request))
        return web.json_response(proxy.as_json(), status=201)

    async def add(self, body: Mapping[str, Any]) -> Proxy:
        """A proxy as the API describes it. Raises InvalidRequestError or HTTPConflict."""
        name, upstream = body.get("name"), body.get("upstream")
        if not isinstance(name, str) or not name:
            raise InvalidRequestError("missing required field: name")
        if not isinstance(upstream, str) or not upstream:
            raise InvalidRequestError("missing required field: upstream")
        if name in self.proxies:
            raise web.HTTPConflict(text="proxy already exists")
        listen = body.get("listen") or "127.0.0.1:0"
        proxy = Proxy(name, str(listen), upstream, clock=self._clock, rng=self._rng)
        if body.get("enabled", True):
            await listening(proxy)
        self.proxies[name] = proxy
        return proxy

    async def _populate(self, request: web.Request) -> web.Response:
        """Make these proxies be so: what already is stays, what differs is made again."""
        wished = await body_of(request, list)
        made = []
        for body in wished:
            if not isinstance(body, dict):
                raise InvalidRequestError("populate takes a list of proxies")
            old = self.proxies.get(str(body.get("name")))
            if old is not None and (old.upstream, old.listen) == (
                body.get("upstream"),
                body.get("listen"),
            ):
                made.append(old)
                continue
            if old is not None:
                await old.disable()
                del self.proxies[old.name]
            made.append(await self.add(body))
        return web.json_response({"proxies": [proxy.as_json() for proxy in made]}, status=201)

    async def _reset(self, request: web.Request) -> web.Response:
        """Every proxy enabled, no toxic left."""
        for proxy in self.proxies.values():
            proxy.remove_toxics(proxy.toxics)
            await listening(proxy)
        return web.Response(status=204)

    async def _show(self, request: web.Request) -> web.Response:
        return web.json_response(self._proxy(request).as_json())

    async def _update(self, request: web.Request) -> web.Response:
        proxy, body = self._proxy(request), await body_of(request)
        listen, upstream = body.get("listen", proxy.listen), body.get("upstream", proxy.upstream)
        enabled = body.get("enabled", proxy.enabled)
        if (listen, upstream) != (proxy.listen, proxy.upstream):
            # Checked before anything changes.
            Proxy(proxy.name, listen, upstream, clock=self._clock, rng=self._rng)
            await proxy.disable()
            proxy.listen, proxy.upstream = listen, upstream
        if enabled:
            await listening(proxy)
        else:
            await proxy.disable()
        return web.json_response(proxy.as_json())

    async def _delete(self, request: web.Request) -> web.Response:
        proxy = self._proxy(request)
        await proxy.disable()
        del self.proxies[proxy.name]
        return web.Response(status=204)

    # --- toxics ---

    async def _toxics(self, request: web.Request) -> web.Response:
        return web.json_response([t.as_json() for t in self._proxy(request).toxics.values()])

    async def _add_toxic(self, request: web.Request) -> web.Response:
        proxy, toxic = self._proxy(request), Toxic.parse(await body_of(request))
        if toxic.name in proxy.toxics:
            raise web.HTTPConflict(text="toxic already exists")
        proxy.set_toxic(toxic)
        return web.json_response(toxic.as_json())

    async def _toxic(self, request: web.Request) -> web.Response:
        return web.json_response(self._named_toxic(request)[1].as_json())

    async def _update_toxic(self, request: web.Request) -> web.Response:
        proxy, toxic = self._named_toxic(request)
        proxy.set_toxic(toxic.updated(await body_of(request)))
        return web.json_response(proxy.toxics[toxic.name].as_json())

    async def _remove_toxic(self, request: web.Request) -> web.Response:
        proxy, toxic = self._named_toxic(request)
        proxy.remove_toxics([toxic.name])
        return web.Response(status=204)

    def _proxy(self, request: web.Request) -> Proxy:
        proxy = self.proxies.get(request.match_info["proxy"])
        if proxy is None:
            raise web.HTTPNotFound(text="proxy not found")
        return proxy

    def _named_toxic(self, request: web.Request) -> tuple[Proxy, Toxic]:
        proxy = self._proxy(request)
        toxic = proxy.toxics.get(request.match_info["toxic"])
        if toxic is None:
            raise web.HTTPNotFound(text="toxic not found")
        return proxy, toxic


@asynccontextmanager
async def running(
    listen: tuple[str, int],
    proxies: Iterable[Mapping[str, Any]] = (),
    *,
    clock: Clock,
    rng: Rng,
) -> AsyncIterator[tuple[ToxicsServer, tuple[str, int]]]:
    """The server with these proxies, and the address of its API. Raises InvalidRequestError where
    it or one of them cannot listen."""
    server = ToxicsServer(clock=clock, rng=rng)
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        for body in proxies:
            try:
                await server.add(body)
            except web.HTTPConflict as error:
                raise InvalidRequestError(f"two proxies are called {body.get('name')!r}") from error
        site = web.TCPSite(runner, *listen)
        try:
            await site.start()
        except OSError as error:
            where = f"{listen[0]}:{listen[1]}"
            raise InvalidRequestError(f"cannot listen on {where}: {error.strerror}") from error
        host, port = runner.addresses[0][:2]
        yield server, (host, port)
    finally:
        await runner.cleanup()


async def listening(proxy: Proxy) -> None:
    try:
        await proxy.enable()
    except OSError as error:
        raise InvalidRequestError(f"cannot listen on {proxy.listen}: {error.strerror}") from error


async def body_of(request: web.Request, kind: type = dict) -> Any:
    try:
        body = json.loads(await request.read())
    except ValueError as error:
        raise InvalidRequestError(f"bad request body: {error}") from error
    if not isinstance(body, kind):
        raise InvalidRequestError(f"bad request body: not a JSON {kind.__name__}")
    return body


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except InvalidRequestError as error:
        text, status = str(error), 400
    except web.HTTPError as error:
        text, status = error.text or error.reason, error.status
    return web.json_response({"error": text, "status": status}, status=status)
