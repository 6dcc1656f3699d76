"""The routes of the leaderless face. Same paths as the strong one's (kv/api/table.py); what only a
strong keyspace can do is there too, and is refused with a sentence."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from kv.api import bodies as shared
from kv.api import headers
from kv.api.cluster_table import CLUSTER_ROUTES
from kv.api.keyspace_table import KEYSPACE_ROUTES
from kv.api.leaderless import bodies, many, routes, watching
from kv.api.leaderless.options import CONTEXT
from kv.api.live_table import ADMIN_ROUTES
from kv.api.ring_table import RING_ROUTES
from kv.api.route import (
    CURSOR,
    ENCODING,
    END,
    KEY_ENCODING,
    KEYSPACE,
    PREFIX,
    START,
    TIMEOUT_HEADER,
    VALUES,
    Param,
    Route,
)
from kv.api.table import ROUTES as STRONG_ROUTES
from kv.leaderless.context import CONTEXT_MAX_CHARS
from kv.leaderless.feed import CURSOR_MAX_CHARS
from kv.leaderless.listing import KEYS_MAX
from kv.leaderless.quorum import Level
from kv.leaderless.session import TOKEN_MAX_CHARS
from raftgroups.lease import MAXIMUM_TTL_S

_KEY: Final = "/api/v1/keys/{key}"
_RAW: Final = "/v1/kv/{key}"
_COUNT_PATTERN: Final = "^(ONE|QUORUM|ALL|[0-9]{1,5})$"
_LEVEL: Final = Param(
    headers.LEVEL,
    "choice",
    "How many replicas must answer: R of a read, W of a write. The reply says what was met.",
    choices=tuple(level.value for level in Level),
)
_SESSION: Final = Param(
    headers.SESSION,
    "text",
    "`new`, or what the last reply of the session gave: a read covers what the session has seen.",
    high=TOKEN_MAX_CHARS + 64,
    pattern="^[A-Za-z0-9_-]*$",
)
_CONTEXT: Final = Param(
    CONTEXT,
    "text",
    "The context of the read that this write builds on; it may stand in the body instead.",
    high=CONTEXT_MAX_CHARS,
    pattern="^[A-Za-z0-9_-]*$",
)
_STRICT: Final = Param("strict", "flag", "true: stand-ins do not count, only owners.")
_READ_QUERY: Final = (
    Param("r", "text", "So many nodes must answer.", pattern=_COUNT_PATTERN),
    Param("pr", "text", "So many of them must be owners.", pattern=_COUNT_PATTERN),
    _STRICT,
)
_WRITE_QUERY: Final = (
    Param("w", "text", "So many nodes must have it, synced.", pattern=_COUNT_PATTERN),
    Param("pw", "text", "So many of them must be owners.", pattern=_COUNT_PATTERN),
    _STRICT,
)
_FORMS: Final = (KEYSPACE, ENCODING, KEY_ENCODING)
_READ: Final = (_LEVEL, _SESSION, TIMEOUT_HEADER)
_WRITE: Final = (*_READ, _CONTEXT)
_SHOWS: Final = (headers.LEVEL, headers.SESSION)
_RAW_SHOWS: Final = (*_SHOWS, CONTEXT, "Replicas", "Fallbacks")

KEY_ROUTES: Final = (
    Route(
        "GET",
        _KEY,
        "getKey",
        "Read a key: its value, or its siblings",
        routes.get,
        "keys",
        (*_FORMS, *_READ_QUERY),
        _READ,
        replies={200: bodies.KeyReply},
        shows=_SHOWS,
    ),
    Route(
        "HEAD",
        _KEY,
        "headKey",
        "Is the key there?",
        routes.head,
        "keys",
        (*_FORMS, *_READ_QUERY),
        _READ,
        replies={200: None, 300: None},
        shows=_RAW_SHOWS,
    ),
    Route(
        "PUT",
        _KEY,
        "putKey",
        "Write a key",
        routes.put,
        "keys",
        (*_FORMS, *_WRITE_QUERY),
        _WRITE,
        body=bodies.PutBody,
        replies={200: bodies.WriteReply},
        errors=(409, 507),
        shows=_SHOWS,
    ),
    Route(
        "DELETE",
        _KEY,
        "deleteKey",
        "Delete a key",
        routes.delete,
        "keys",
        (*_FORMS, *_WRITE_QUERY),
        _WRITE,
        body=bodies.DeleteBody,
        body_required=False,
        replies={200: bodies.WriteReply},
        errors=(409,),
        shows=_SHOWS,
    ),
    Route(
        "POST",
        _KEY + "/ttl",
        "setKeyTtl",
        "Give a key a new time to live: a read, and a write with its context",
        routes.set_ttl,
        "keys",
        (*_FORMS, *_WRITE_QUERY),
        _READ,
        body=shared.TtlBody,
        replies={200: bodies.TtlReply},
        errors=(409, 507),
        shows=_SHOWS,
    ),
    Route(
        "POST",
        _KEY + "/incr",
        "incrementKey",
        "Add to a counter: no increment is lost, wherever it is made",
        routes.increment,
        "keys",
        (*_FORMS, *_WRITE_QUERY),
        _READ,
        body=shared.IncrementBody,
        body_required=False,
        replies={200: bodies.IncrementReply},
        errors=(409, 507),
        shows=_SHOWS,
    ),
)

RAW_ROUTES: Final = (
    Route(
        "GET",
        _RAW,
        "getRaw",
        "Read a key's bytes; 300 with siblings, as JSON or as multipart/mixed",
        routes.get_raw,
        "raw",
        (KEYSPACE, *_READ_QUERY),
        _READ,
        replies={200: None, 300: bodies.KeyReply},
        raw_reply=True,
        shows=_RAW_SHOWS,
    ),
    Route(
        "HEAD",
        _RAW,
        "headRaw",
        "Is the key there?",
        routes.head,
        "raw",
        (KEYSPACE, *_READ_QUERY),
        _READ,
        replies={200: None, 300: None},
        shows=_RAW_SHOWS,
    ),
    *(
        Route(
            method,
            _RAW,
            f"{method.lower()}Raw",
            "Write the body as the key's bytes",
            routes.put_raw,
            "raw",
            (
                KEYSPACE,
                Param("ttl", "seconds", "Seconds to live.", high=MAXIMUM_TTL_S),
                *_WRITE_QUERY,
            ),
            _WRITE,
            raw_body=True,
            replies={200: bodies.WriteReply},
            errors=(409, 507),
            shows=_SHOWS,
        )
        for method in ("PUT", "POST")
    ),
    Route(
        "DELETE",
        _RAW,
        "deleteRaw",
        "Delete a key",
        routes.delete,
        "raw",
        (*_FORMS, *_WRITE_QUERY),
        _WRITE,
        body=bodies.DeleteBody,
        body_required=False,
        replies={200: bodies.WriteReply},
        errors=(409,),
        shows=_SHOWS,
    ),
)

MANY_ROUTES: Final = (
    Route(
        "GET",
        "/api/v1/keys",
        "listKeys",
        "List keys, page by page, each as the nodes have it then",
        many.list_keys,
        "many",
        (
            *_FORMS,
            PREFIX,
            START,
            END,
            Param("limit", "integer", "Keys a page.", 100, low=1, high=KEYS_MAX),
            CURSOR,
            VALUES,
        ),
        (),
        replies={200: bodies.ListReply},
        shows=(headers.LEVEL,),
    ),
    Route(
        "GET",
        "/api/v1/scan",
        "scanKeys",
        "Walk over all keys; each page as of then",
        many.scan,
        "many",
        (
            *_FORMS,
            PREFIX,
            CURSOR,
            VALUES,
            Param("count", "integer", "Keys a page.", 100, low=1, high=KEYS_MAX),
        ),
        (),
        replies={200: bodies.ScanReply},
        shows=(headers.LEVEL,),
    ),
    Route(
        "GET",
        "/api/v1/count",
        "countKeys",
        "Count keys, page by page",
        many.count,
        "many",
        (KEYSPACE, PREFIX, START, END),
        (),
        replies={200: bodies.CountReply},
        shows=(headers.LEVEL,),
    ),
    Route(
        "POST",
        "/api/v1/batch/get",
        "batchGet",
        "Read many keys, each by itself",
        routes.batch_get,
        "many",
        (KEYSPACE, *_READ_QUERY),
        _READ,
        body=bodies.BatchGetBody,
        replies={200: bodies.BatchGetReply},
        sees_data=False,
    ),
    Route(
        "POST",
        "/api/v1/batch/put",
        "batchPut",
        "Write many keys, each by itself",
        routes.batch_put,
        "many",
        (KEYSPACE, *_WRITE_QUERY),
        (_LEVEL, TIMEOUT_HEADER),
        body=bodies.BatchPutBody,
        replies={200: bodies.BatchPutReply},
        errors=(409, 507),
        sees_data=False,
    ),
)

WATCH_ROUTES: Final = (
    Route(
        "GET",
        "/api/v1/watch",
        "watch",
        "Watch keys, at least once: NDJSON, server-sent events or long poll",
        watching.watch,
        "watch",
        (
            KEYSPACE,
            Param("key", "bytes", "This one key."),
            PREFIX,
            START,
            END,
            Param("from", "text", "Go on behind this cursor.", high=CURSOR_MAX_CHARS),
            Param("filter", "choice", "Only these events.", choices=("put", "delete")),
            Param(
                "poll",
                "seconds",
                "Answer once, after the first event or this time.",
                high=shared.WAIT_MAX_S,
            ),
        ),
        (
            Param(
                "Last-Event-ID",
                "text",
                "Go on behind this cursor.",
                high=CURSOR_MAX_CHARS,
                pattern="^[A-Za-z0-9_-]*$",
            ),
        ),
        replies={200: bodies.WatchedReply},
        errors=(410,),
        streams=bodies.WatchedLine,
        sees_data=False,
    ),
)

_OWN: Final = (
    *KEY_ROUTES,
    *RAW_ROUTES,
    *MANY_ROUTES,
    *WATCH_ROUTES,
    *(each for each in ADMIN_ROUTES if each.method == "GET"),
    *RING_ROUTES,
    *CLUSTER_ROUTES,
    *KEYSPACE_ROUTES,
)
_SERVED: Final = {(route.method, route.template) for route in _OWN}
REFUSED: Final = tuple(
    replace(
        route,
        handler=routes.refuse,
        tag="strong only",
        body=None,
        replies={},
        errors=(),
        streams=None,
        sees_data=False,
    )
    for route in STRONG_ROUTES
    if (route.method, route.template) not in _SERVED
)
ROUTES: Final = (*_OWN, *REFUSED)
