"""The REST face as part of an aiohttp application: one handler behind one table.

aiohttp's own router sees only where the face begins (`/api/`, `/v1/`, `/openapi.json`); behind that
router.py works on the raw path, because a key is bytes and aiohttp's paths are text.

    install_guard   outermost, for every face of the application: Host, Origin, CORS, preflight,
                    and 404 and 405 as JSON outside /v3 (the etcd gateway has its own)
    Face.serve      find the route, parse the query, call the handler; errors by the table

`RUNNER_OPTIONS` belong to the composition root's AppRunner: with `handler_cancellation` a watch or
a waiting lock ends at the moment its client goes away, not with the next thing written.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler

from kv.api.call import Call
from kv.api.context import Api
from kv.api.failures import (
    InvalidQueryError,
    MethodNotAllowedError,
    NoSuchRouteError,
    defect_reply,
    error_reply,
)
from kv.api.guard import Access, cors_headers, preflight_headers
from kv.api.headers import LEVEL
from kv.api.hot import encode
from kv.api.leaderless.table import ROUTES as LEADERLESS_ROUTES
from kv.api.openapi import document
from kv.api.reply import Reply
from kv.api.route import Route
from kv.api.router import Router
from kv.api.table import ROUTES
from kv.api.target import split_query, split_target
from storage.errors import JanusError

_log = logging.getLogger(__name__)

RUNNER_OPTIONS: Final[dict[str, Any]] = {"handler_cancellation": True, "access_log": None}
ETCD_PREFIXES: Final = ("/v3/", "/v3beta/", "/v3alpha/")
CLIENT_GONE: Final = 499
"""What is observed where nobody is left to be answered."""
UNKNOWN_ROUTE: Final = "unknown"
_HEALTH_METHODS: Final = "GET, HEAD, POST, PUT, DELETE"


STRONG: Final = "strong"
LEADERLESS: Final = "leaderless"


class Face:
    """The routes of both regimes over one Api: a keyspace's regime says which are meant."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._routers: Final = {STRONG: Router(ROUTES), LEADERLESS: Router(LEADERLESS_ROUTES)}
        self._default: Final = _regime(api)
        self.router: Final = self._routers[self._default]
        """Of the keyspace `default`."""
        self._openapi: dict[str, bytes] = {}

    def _router(self, query: Mapping[str, bytes]) -> Router:
        name = query.get("keyspace")
        if name is None:
            return self.router
        try:
            return self._routers[_regime(self._api.of_keyspace(name.decode("latin-1")))]
        except JanusError:
            return self.router  # the call says what is wrong with it, if it may name one at all

    async def serve(self, request: web.Request) -> web.StreamResponse:
        started = self._api.clock.monotonic()
        status, template, level = CLIENT_GONE, UNKNOWN_ROUTE, ""
        try:
            route: Route | None = None
            call: Call | None = None
            reply: Reply | web.StreamResponse
            try:
                target = split_target(request.raw_path)
                given = split_query(target.query) if target.query else {}
                route, argument = self._router(given).find(request.method, target.path)
                template = route.template
                query = route.parse_query(given)
                call = Call(self._api, request, route, argument, query)
                reply = await route.handler(call)
            except JanusError as error:
                reply = error_reply(error)
            except Exception:  # noqa: BLE001 - the last edge: logged, and answered as a defect
                _log.exception("a defect in %s %s", request.method, template)
                reply = defect_reply(request.method)
            response = self._respond(reply, call)
            status, level = response.status, response.headers.get(LEVEL, "").lower()
            return response
        finally:
            if self._api.observe is not None:
                seconds = self._api.clock.monotonic() - started
                self._api.observe(template, request.method, status, seconds, level)

    def _respond(self, reply: Reply | web.StreamResponse, call: Call | None) -> web.StreamResponse:
        if isinstance(reply, web.StreamResponse):
            return reply
        return plain(reply) if call is None else call.response(reply)

    async def openapi(self, request: web.Request) -> web.Response:
        """Of the regime of `default`, or with ?regime= of either."""
        regime = request.query.get("regime", self._default)
        router = self._routers.get(regime)
        if router is None:
            return plain(error_reply(InvalidQueryError("regime is strong or leaderless")))
        if regime not in self._openapi:
            self._openapi[regime] = encode(document(router.routes, version("januskv"), regime))
        return web.Response(body=self._openapi[regime], content_type="application/json")

    async def close(self, app: web.Application) -> None:
        self._api.close()


def _regime(api: Api) -> str:
    return STRONG if api.leaderless is None else LEADERLESS


def plain(reply: Reply) -> web.Response:
    """A reply that says nothing about the data."""
    response = web.Response(status=reply.status, body=reply.body, headers=list(reply.headers))
    response.headers["Content-Type"] = reply.content_type
    return response


def add_routes(app: web.Application, api: Api) -> Face:
    """Add the face to an application that may have others."""
    face = Face(api)
    app.router.add_route("*", r"/api/{rest:[\s\S]*}", face.serve)
    app.router.add_route("*", r"/v1/{rest:[\s\S]*}", face.serve)
    app.router.add_get("/openapi.json", face.openapi)
    app.on_shutdown.append(face.close)
    return face


def install_guard(app: web.Application, access: Access, router: Router) -> None:
    """The outermost middleware of the whole application, and CORS headers on all it answers."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        try:
            access.check_host(request.headers.get("Host"))
            access.check_origin(origin, request.headers.get("Host"))
        except JanusError as error:
            return plain(error_reply(error))
        if request.method == "OPTIONS" and not request.path.startswith(ETCD_PREFIXES):
            return _options(request, origin, router)
        return await _or_json_error(request, handler, router)

    async def add_cors(request: web.Request, response: web.StreamResponse) -> None:
        for name, value in cors_headers(access, request.headers.get("Origin")):
            response.headers[name] = value

    app.middlewares.insert(0, check)
    if cors_headers(access, None):
        app.on_response_prepare.append(add_cors)


async def _or_json_error(
    request: web.Request, handler: Handler, router: Router
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPMethodNotAllowed as error:
        if request.path.startswith(ETCD_PREFIXES):
            raise
        allowed = tuple(sorted(error.allowed_methods))
        return plain(
            error_reply(
                MethodNotAllowedError(
                    f"{request.method[:20]} is not served here; {' and '.join(allowed)} are",
                    allowed,
                )
            )
        )
    except web.HTTPNotFound:
        if request.path.startswith(ETCD_PREFIXES):
            raise
    try:
        router.find(request.method, split_target(request.raw_path).path)
    except NoSuchRouteError as error:
        return plain(error_reply(error))
    except JanusError:
        pass
    return plain(error_reply(NoSuchRouteError("nothing is served here; see GET /openapi.json")))


def _options(request: web.Request, origin: str | None, router: Router) -> web.Response:
    methods = router.methods_of(split_target(request.raw_path).path)
    allowed = ", ".join(methods) if methods else _HEALTH_METHODS
    response = web.Response(status=204, headers={"Allow": allowed})
    if origin is not None and "Access-Control-Request-Method" in request.headers:
        for name, value in preflight_headers(allowed):
            response.headers[name] = value
    return response


def make_app(api: Api) -> web.Application:
    """The REST face alone, guarded."""
    app = web.Application(client_max_size=api.settings.request_max_bytes)
    face = add_routes(app, api)
    install_guard(app, api.settings.access, face.router)
    return app
