"""What stands beside the leaderless REST face: health for probes, and no to etcd's protocol.

/livez             200 while the process serves
/readyz /health    200 if as many nodes are in reach as reads and writes ask for by default
/version           what runs
/v3/...            501: etcd's semantics need a strong keyspace
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Final

import msgspec
from aiohttp import web

from kv.errors import WrongRegimeError
from kv.etcd.errors import encode_error

_NO_ETCD: Final = encode_error(
    WrongRegimeError(
        "the etcd protocol needs the strong regime, and the keyspace `default` of this cluster is "
        'leaderless; use /api/v1, or a cluster with mode = "strong"'
    )
)
_JSON: Final = "application/json"


def add_side_routes(app: web.Application, trouble: Callable[[], str]) -> None:
    """`trouble`: why the node is not ready; empty if it is."""

    async def live(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(request: web.Request) -> web.Response:
        reason = trouble()
        if reason:
            return web.Response(status=503, text=f"not ready: {reason}\n")
        return web.Response(text="ok\n")

    async def health(request: web.Request) -> web.Response:
        reason = trouble()
        body = msgspec.json.encode({"health": "false" if reason else "true", "reason": reason})
        return web.Response(status=503 if reason else 200, body=body, content_type=_JSON)

    async def say_version(request: web.Request) -> web.Response:
        body = msgspec.json.encode({"januskv": version("januskv"), "mode": "leaderless"})
        return web.Response(body=body, content_type=_JSON)

    async def refuse(request: web.Request) -> web.Response:
        status, body = _NO_ETCD
        return web.Response(status=status, body=body, content_type=_JSON)

    app.router.add_get("/livez", live)
    app.router.add_get("/readyz", ready)
    app.router.add_get("/health", health)
    app.router.add_get("/version", say_version)
    for path in ("/v3", "/v3/{tail:.*}", "/v3beta/{tail:.*}", "/v3alpha/{tail:.*}"):
        app.router.add_route("*", path, refuse)
