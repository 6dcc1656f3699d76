"""The OpenAPI 3.1 document, made from the route table and the types of the bodies. Pure.

Nothing is said twice: parameters and their limits come from route.py, bodies from bodies.py, error
bodies from one type. So the document cannot disagree with what is parsed; that it does not disagree
with what is answered is tested against a running server.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

import msgspec

from kv.api.bodies import ErrorBody
from kv.api.headers import ETAG_PATTERN
from kv.api.reply import BYTES, JSON
from kv.api.route import Param, Route, Schema
from kv.api.watching import NDJSON, SSE
from raftgroups.meta.keyspace_rules import NAME_PATTERN

_REFERENCE: Final = "#/components/schemas/{name}"
_ALWAYS: Final = (400, 403, 404, 405, 413, 429, 500, 503, 504)
"""What any route may answer."""

_PATH_PARAMS: Final[dict[str, tuple[str, Schema]]] = {
    "shard": (
        "The number of the shard.",
        {"type": "string", "pattern": "^[0-9]{1,18}$"},
    ),
    "keyspace": (
        "The name of the keyspace.",
        {"type": "string", "pattern": NAME_PATTERN},
    ),
    "key": (
        "The key, percent-encoded: any bytes. Slashes may be written plainly.",
        {"type": "string", "minLength": 1},
    ),
    "name": (
        "The name of the lock, percent-encoded: any bytes.",
        {"type": "string", "minLength": 1},
    ),
    "id": (
        "The lease: a decimal number.",
        {"type": "string", "pattern": "^[0-9]{1,19}$"},
    ),
}
_REPLY_HEADERS: Final[dict[str, tuple[str, Schema]]] = {
    "Consistency-Level": ("The level that was met.", {"type": "string"}),
    "Session-Token": ("Send it with the next request.", {"type": "string"}),
    "Revision": ("The shard's revision.", {"type": "integer"}),
    "ETag": ("The key's version.", {"type": "string", "pattern": ETAG_PATTERN}),
    "X-Causal-Context": ("Send it with the next write of the key.", {"type": "string"}),
    "Replicas": ("The nodes that answered.", {"type": "string"}),
    "Fallbacks": ("Those that stand in for owners.", {"type": "string"}),
    "Retry-After": ("Seconds.", {"type": "integer"}),
    "Allow": ("The methods that are served.", {"type": "string"}),
}


def document(routes: Iterable[Route], version: str, regime: str = "strong") -> dict[str, Any]:
    routes = tuple(routes)
    types = _types_of(routes)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    schema_of = dict(zip(types, schemas, strict=True))
    paths: dict[str, Any] = {}
    for route in routes:
        operations = paths.setdefault(route.template, {})
        operations[route.method.lower()] = _operation(route, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "JanusKV",
            "version": version,
            "summary": f"A replicated key-value store: the REST face of the {regime} regime.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": components, "headers": _header_components()},
    }


def _types_of(routes: Iterable[Route]) -> list[type]:
    types: dict[type, None] = {ErrorBody: None}
    for route in routes:
        for each in (route.body, route.streams, *route.replies.values()):
            if each is not None:
                types[each] = None
    return list(types)


def _header_components() -> dict[str, Any]:
    return {
        name: {"description": description, "schema": schema}
        for name, (description, schema) in _REPLY_HEADERS.items()
    }


def _operation(route: Route, schema_of: dict[type, Schema]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "tags": [route.tag],
        "parameters": [*_path_params(route), *_params(route)],
        "responses": _responses(route, schema_of),
    }
    if route.raw_body:
        content = {BYTES: {"schema": {"type": "string", "format": "binary"}}}
        operation["requestBody"] = {"content": content, "required": False}
    elif route.body is not None:
        operation["requestBody"] = {
            "content": {JSON: {"schema": schema_of[route.body]}},
            "required": route.body_required,
        }
    return operation


def _path_params(route: Route) -> list[dict[str, Any]]:
    if route.param is None:
        return []
    description, schema = _PATH_PARAMS[route.param]
    return [
        {
            "name": route.param,
            "in": "path",
            "required": True,
            "description": description,
            "schema": schema,
        }
    ]


def _params(route: Route) -> list[dict[str, Any]]:
    return [_param(param, "query") for param in route.query] + [
        _param(param, "header") for param in route.headers
    ]


def _param(param: Param, place: str) -> dict[str, Any]:
    return {
        "name": param.name,
        "in": place,
        "required": False,
        "description": param.description,
        "schema": param.schema(),
    }


def _responses(route: Route, schema_of: dict[type, Schema]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, body in route.replies.items():
        responses[str(status)] = _reply(route, status, body, schema_of)
    error = {JSON: {"schema": schema_of[ErrorBody]}}
    for status in sorted({*_ALWAYS, *route.errors} - set(route.replies)):
        phrase = "Insufficient Storage" if status == 507 else HTTPStatus(status).phrase
        responses[str(status)] = {"description": phrase}
        if route.method != "HEAD":
            responses[str(status)]["content"] = error
        names = _error_headers(status)
        if names:
            responses[str(status)]["headers"] = _references(names)
    return responses


def _reply(
    route: Route, status: int, body: type | None, schema_of: dict[type, Schema]
) -> dict[str, Any]:
    reply: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    content: dict[str, Any] = {}
    if body is not None:
        content[JSON] = {"schema": schema_of[body]}
    if route.raw_reply and status == 200:
        content[BYTES] = {"schema": {"type": "string", "format": "binary"}}
    if route.streams is not None:
        for kind in (NDJSON, SSE):
            content[kind] = {
                "schema": {"type": "string"},
                "itemSchema": schema_of[route.streams],
            }
    if content:
        reply["content"] = content
    if route.sees_data:
        reply["headers"] = _references(route.shows)
    return reply


def _error_headers(status: int) -> tuple[str, ...]:
    if status == 405:
        return ("Allow",)
    return ("Retry-After",) if status in (429, 503, 507) else ()


def _references(names: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
