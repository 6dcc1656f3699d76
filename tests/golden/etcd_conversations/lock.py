"""Locks and elections: queues of keys in the order of their creation."""

from __future__ import annotations

import json

from .steps import (
    RANGE,
    Conversation,
    abandon,
    b,
    begin,
    call,
    close_stream,
    delete,
    finish,
    get,
    grant,
    keys,
    open_stream,
    put,
    read_stream,
)

LOCK = "/v3/lock/lock"
UNLOCK = "/v3/lock/unlock"
ELECTION = "/v3/election"


def _queued(prefix: str, end: str, count: int) -> dict[str, object]:
    """Waits until so many stand in the queue: the order of later steps depends on it."""
    return call(RANGE, keys(prefix, end) | {"count_only": True}, until=f'"count":"{count}"')


CONVERSATIONS = (
    Conversation(
        "lock",
        "The key is name/lease in hex; the second waits; unlock is a delete and repeatable.",
        (
            grant(600, 255),
            grant(600, 4096),
            call(LOCK, {"name": b("m"), "lease": 255}),
            get("m/", "m0"),
            call(LOCK, {"name": b("m"), "lease": 255}, note="again: the owner has it already"),
            begin("second", LOCK, {"name": b("m"), "lease": 4096}),
            _queued("m/", "m0", 2),
            call(UNLOCK, {"key": b("m/ff")}),
            finish("second"),
            call(UNLOCK, {"key": b("m/ff")}),
            call(UNLOCK, {"key": b("m/1000")}),
            call(UNLOCK, {"key": b("never")}),
            call(UNLOCK, {}),
            call(LOCK, {"name": b("m"), "lease": 99}),
            call(LOCK, {"lease": 255}),
            get("\0", "\0"),
        ),
    ),
    Conversation(
        "lock-own-lease",
        "Without a lease the server makes one of 60 s; the key carries it.",
        (
            call(LOCK, {"name": b("m")}, catch={"lock_key": "key"}),
            call(RANGE, '{"key":"<lock_key>"}', catch={"lease": "kvs.0.lease"}),
            call("/v3/lease/timetolive", '{"ID":"<lease>"}'),
            call(UNLOCK, '{"key":"<lock_key>"}'),
            call(RANGE, '{"key":"<lock_key>"}'),
        ),
    ),
    Conversation(
        "lock-queue",
        "A client that goes away leaves the queue; a revoked lease hands the lock on.",
        (
            grant(600, 1),
            grant(600, 2),
            grant(600, 3),
            call(LOCK, {"name": b("m"), "lease": 1}),
            begin("second", LOCK, {"name": b("m"), "lease": 2}),
            _queued("m/", "m0", 2),
            begin("third", LOCK, {"name": b("m"), "lease": 3}),
            _queued("m/", "m0", 3),
            abandon("second"),
            _queued("m/", "m0", 2),
            call("/v3/lease/revoke", {"ID": 1}),
            finish("third"),
            get("m/", "m0"),
        ),
    ),
    Conversation(
        "election",
        "Campaign, leader, proclaim, observe, resign.",
        (
            grant(600, 255),
            grant(600, 4096),
            call(f"{ELECTION}/leader", {"name": b("e")}),
            call(f"{ELECTION}/campaign", {"name": b("e"), "lease": 255, "value": b("one")}),
            call(f"{ELECTION}/leader", {"name": b("e")}),
            get("e/", "e0"),
            open_stream("observer", f"{ELECTION}/observe", {"name": b("e")}, 1),
            call(
                f"{ELECTION}/proclaim",
                {"leader": {"name": b("e"), "key": b("e/ff"), "rev": 2, "lease": 255}}
                | {"value": b("two")},
            ),
            read_stream("observer"),
            call(f"{ELECTION}/campaign", {"name": b("e"), "lease": 255, "value": b("three")}),
            read_stream("observer"),
            begin(
                "second",
                f"{ELECTION}/campaign",
                {"name": b("e"), "lease": 4096, "value": b("four")},
            ),
            _queued("e/", "e0", 2),
            call(
                f"{ELECTION}/resign",
                {"leader": {"name": b("e"), "key": b("e/ff"), "rev": "2", "lease": "255"}},
            ),
            finish("second"),
            read_stream("observer"),
            close_stream("observer"),
            call(
                f"{ELECTION}/proclaim",
                {"leader": {"name": b("e"), "key": b("e/ff"), "rev": 2, "lease": 255}}
                | {"value": b("late")},
            ),
            call(
                f"{ELECTION}/resign",
                {"leader": {"name": b("e"), "key": b("e/ff"), "rev": 2, "lease": 255}},
            ),
            call(f"{ELECTION}/proclaim", {"value": b("nobody")}),
            call(f"{ELECTION}/resign", {}),
            call(f"{ELECTION}/campaign", {"name": b("e"), "lease": 99, "value": b("x")}),
            call(f"{ELECTION}/leader", json.dumps({"name": b("other")})),
        ),
    ),
    Conversation(
        "etcd3gw-lock",
        "What the client etcd3gw sends for its own lock: a grant, a txn on CREATE = 0, a revoke.",
        (
            grant(60, 7),
            *(
                call(
                    "/v3/kv/txn",
                    {
                        "compare": [
                            keys("/locks/l")
                            | {"result": "EQUAL", "target": "CREATE", "create_revision": 0}
                        ],
                        "success": [
                            {"request_put": keys("/locks/l") | {"value": b("id"), "lease": 7}}
                        ],
                        "failure": [{"request_range": keys("/locks/l")}],
                    },
                )
                for _ in range(2)
            ),
            call("/v3/kv/lease/timetolive", {"ID": 7, "keys": True}),
            delete("/locks/l"),
            call("/v3/kv/lease/revoke", {"ID": "7"}),
            put("after", "1"),
        ),
    ),
)
