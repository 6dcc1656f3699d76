"""The routes of the REST face: the one table that serving and documenting read.

To add a route, add a row, its body in bodies.py, and a handler; the OpenAPI document, the router,
405 and the hints of a 404 follow.
"""

from __future__ import annotations

from typing import Final

from kv.api import bodies
from kv.api.cluster_table import CLUSTER_ROUTES
from kv.api.keyspace_table import KEYSPACE_ROUTES
from kv.api.listing import PAGE_MAX_KEYS
from kv.api.live_table import ADMIN_ROUTES, LEASE_ROUTES, LOCK_ROUTES, WATCH_ROUTES
from kv.api.ring_table import RING_ROUTES
from kv.api.route import (
    CURSOR,
    ENCODING,
    END,
    IF_ABSENT_HEADER,
    IF_CHANGED_HEADER,
    IF_MATCH_HEADER,
    KEY_ENCODING,
    KEYSPACE,
    PREFIX,
    READ_HEADERS,
    REVISION,
    START,
    VALUES,
    WRITE_HEADERS,
    Param,
    Route,
)
from kv.api.routes import keys, many
from raftgroups.lease import MAXIMUM_TTL_S

_KEY: Final = "/api/v1/keys/{key}"
_RAW: Final = "/v1/kv/{key}"
_LIMIT: Final = Param("limit", "integer", "Keys a page.", 100, low=1, high=PAGE_MAX_KEYS)
_READ: Final = (*READ_HEADERS, IF_CHANGED_HEADER)
_WRITE: Final = (*WRITE_HEADERS, IF_MATCH_HEADER, IF_ABSENT_HEADER)
_FORMS: Final = (KEYSPACE, ENCODING, KEY_ENCODING)

KEY_ROUTES: Final = (
    Route(
        "GET",
        _KEY,
        "getKey",
        "Read a key",
        keys.get,
        "keys",
        (*_FORMS, REVISION),
        _READ,
        replies={200: bodies.KeyReply, 304: None},
        errors=(410,),
    ),
    Route(
        "HEAD",
        _KEY,
        "headKey",
        "Is the key there?",
        keys.head,
        "keys",
        (*_FORMS, REVISION),
        _READ,
        replies={200: None, 304: None},
        errors=(410,),
    ),
    Route(
        "PUT",
        _KEY,
        "putKey",
        "Write a key",
        keys.put,
        "keys",
        _FORMS,
        _WRITE,
        body=bodies.PutBody,
        replies={200: bodies.PutReply},
        errors=(409, 412, 507),
    ),
    Route(
        "DELETE",
        _KEY,
        "deleteKey",
        "Delete a key",
        keys.delete,
        "keys",
        _FORMS,
        (*WRITE_HEADERS, IF_MATCH_HEADER),
        replies={200: bodies.DeleteReply},
        errors=(409, 412),
    ),
    Route(
        "POST",
        _KEY + "/cas",
        "casKey",
        "Write a key if it is what you think",
        keys.cas,
        "keys",
        _FORMS,
        WRITE_HEADERS,
        body=bodies.CasBody,
        replies={200: bodies.CasReply},
        errors=(409, 507),
    ),
    Route(
        "POST",
        _KEY + "/ttl",
        "setKeyTtl",
        "Give a key a new time to live",
        keys.set_ttl,
        "keys",
        _FORMS,
        WRITE_HEADERS,
        body=bodies.TtlBody,
        replies={200: bodies.TtlReply},
        errors=(409,),
    ),
    Route(
        "POST",
        _KEY + "/incr",
        "incrementKey",
        "Add to a number, atomically",
        keys.increment,
        "keys",
        _FORMS,
        WRITE_HEADERS,
        body=bodies.IncrementBody,
        body_required=False,
        replies={200: bodies.IncrementReply},
        errors=(409, 507),
    ),
)

RAW_ROUTES: Final = (
    Route(
        "GET",
        _RAW,
        "getRaw",
        "Read a key's bytes",
        keys.get_raw,
        "raw",
        (KEYSPACE, REVISION),
        _READ,
        replies={200: None, 304: None},
        errors=(410,),
        raw_reply=True,
    ),
    Route(
        "HEAD",
        _RAW,
        "headRaw",
        "Is the key there?",
        keys.head,
        "raw",
        (KEYSPACE, REVISION),
        _READ,
        replies={200: None, 304: None},
        errors=(410,),
    ),
    *(
        Route(
            method,
            _RAW,
            f"{method.lower()}Raw",
            "Write the body as the key's bytes",
            keys.put_raw,
            "raw",
            (*_FORMS, Param("ttl", "seconds", "Seconds to live.", high=MAXIMUM_TTL_S)),
            _WRITE,
            raw_body=True,
            replies={200: bodies.PutReply},
            errors=(409, 412, 507),
        )
        for method in ("PUT", "POST")
    ),
    Route(
        "DELETE",
        _RAW,
        "deleteRaw",
        "Delete a key",
        keys.delete,
        "raw",
        _FORMS,
        (*WRITE_HEADERS, IF_MATCH_HEADER),
        replies={200: bodies.DeleteReply},
        errors=(409, 412),
    ),
)

MANY_ROUTES: Final = (
    Route(
        "GET",
        "/api/v1/keys",
        "listKeys",
        "List keys, page by page, of one revision",
        many.list_keys,
        "many",
        (
            *_FORMS,
            PREFIX,
            START,
            END,
            _LIMIT,
            CURSOR,
            Param("reverse", "flag", "The last key first.", False),
            VALUES,
            REVISION,
        ),
        READ_HEADERS,
        replies={200: bodies.ListReply},
        errors=(410,),
    ),
    Route(
        "GET",
        "/api/v1/count",
        "countKeys",
        "Count keys",
        many.count,
        "many",
        (KEYSPACE, PREFIX, START, END, REVISION),
        READ_HEADERS,
        replies={200: bodies.CountReply},
        errors=(410,),
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
            Param("count", "integer", "Keys a page.", 100, low=1, high=PAGE_MAX_KEYS),
        ),
        READ_HEADERS,
        replies={200: bodies.ScanReply},
    ),
    Route(
        "POST",
        "/api/v1/batch/get",
        "batchGet",
        "Read many keys as of one moment",
        many.batch_get,
        "many",
        (KEYSPACE,),
        READ_HEADERS,
        body=bodies.BatchGetBody,
        replies={200: bodies.BatchGetReply},
    ),
    Route(
        "POST",
        "/api/v1/batch/put",
        "batchPut",
        "Write many keys, all at once or each alone",
        many.batch_put,
        "many",
        (KEYSPACE,),
        WRITE_HEADERS,
        body=bodies.BatchPutBody,
        replies={200: bodies.BatchPutReply},
        errors=(409, 507),
    ),
    Route(
        "POST",
        "/api/v1/txn",
        "txn",
        "Compare, then do this or that, as one revision",
        many.txn,
        "many",
        (KEYSPACE,),
        WRITE_HEADERS,
        body=bodies.TxnBody,
        replies={200: bodies.TxnReply},
        errors=(409, 410, 507),
    ),
)

ROUTES: Final = (
    *KEY_ROUTES,
    *RAW_ROUTES,
    *MANY_ROUTES,
    *WATCH_ROUTES,
    *LEASE_ROUTES,
    *LOCK_ROUTES,
    *ADMIN_ROUTES,
    *CLUSTER_ROUTES,
    *KEYSPACE_ROUTES,
    *RING_ROUTES,
)
