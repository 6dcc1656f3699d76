"""Leases: grant, keepalive, timetolive, list, revoke, the aliases under /v3/kv, expiry."""

from __future__ import annotations

from .steps import GRANT, RANGE, Conversation, call, get, grant, keys, put

REVOKE = "/v3/lease/revoke"
ALIVE = "/v3/lease/keepalive"
LIVE = "/v3/lease/timetolive"
LIST = "/v3/lease/leases"
_BIG = 9007199254740993  # 2**53 + 1, which no float holds

CONVERSATIONS = (
    Conversation(
        "lease-grant",
        "Chosen ids, duplicates, the least and the greatest TTL; no grant is a revision.",
        (
            call(LIST, {}),
            grant(600, 7),
            grant(600, 7),
            call(GRANT, {"TTL": 600}, catch={"lease": "ID"}),
            call(REVOKE, '{"ID":"<lease>"}'),
            grant(600, _BIG),
            call(GRANT, {"TTL": "600", "ID": str(_BIG + 1)}),
            call(LIVE, {"ID": str(_BIG)}),
            grant(1, 8),
            grant(0, 9),
            grant(-5, 10),
            call(GRANT, {}, catch={"empty": "ID"}),
            call(REVOKE, '{"ID":"<empty>"}'),
            grant(9_000_000_000, 11),
            grant(9_000_000_001, 12),
            grant(600, -3),
            grant(600, 2**63 - 1),
            call(GRANT, f'{{"TTL":600,"ID":{2**63}}}'),
            get("a"),
        ),
    ),
    Conversation(
        "lease-revoke",
        "A revoke deletes the lease's keys in one revision; an unknown one is 404.",
        (
            grant(600, 7),
            put("b", "1", lease=7),
            call(LIVE, {"ID": 7, "keys": True}),
            put("a", "1", lease=7),
            put("c", "1"),
            call(LIVE, {"ID": 7}),
            call(REVOKE, {"ID": 7}),
            get("\0", "\0"),
            call(REVOKE, {"ID": 7}),
            call(REVOKE, {}),
            call(LIVE, {"ID": 7}),
            call(LIVE, {"ID": 7, "keys": True}),
            call(LIVE, {}),
            put("a", "2", lease=7),
            grant(600, 8),
            call(REVOKE, {"ID": "8"}),
            get("\0", "\0", count_only=True),
        ),
    ),
    Conversation(
        "lease-aliases",
        "The same calls under /v3/kv/lease, as older clients send them.",
        (
            grant(600, 7),
            put("a", "1", lease=7),
            call("/v3/kv/lease/timetolive", {"ID": 7, "keys": True}),
            call("/v3/kv/lease/leases", {}),
            call(LIST, {}),
            call(LIST),
            call("/v3/kv/lease/revoke", {"ID": 7}),
            call("/v3/kv/lease/revoke", {"ID": 7}),
            call("/v3/kv/lease/timetolive", {"ID": 7}),
            call("/v3/kv/lease/leases", {}),
            call("/v3/kv/lease/grant", {"TTL": 600, "ID": 9}),
            call("/v3/kv/lease/keepalive", {"ID": 9}),
        ),
    ),
    Conversation(
        "lease-keepalive",
        "The answer ends when the body's requests are answered; an unknown lease has no TTL.",
        (
            grant(600, 7),
            grant(300, 8),
            call(ALIVE, {"ID": 7}),
            call(ALIVE, {"ID": 99}),
            call(ALIVE, '{"ID":7}{"ID":8}\n{"ID":"99"}'),
            call(ALIVE, {}),
            call(ALIVE, ""),
            call(ALIVE, '{"ID":7}{"ID":'),
            call(ALIVE, '{"ID":"x"}'),
        ),
    ),
    Conversation(
        "lease-expiry",
        "A lease that nobody keeps alive takes its keys with it, in one revision.",
        (
            put("kept", "1"),
            grant(1, 7),
            put("a", "1", lease=7),
            put("b", "1", lease=7),
            call(RANGE, keys("\0", "\0"), until='"count":"1"'),
            call(LIVE, {"ID": 7}),
        ),
    ),
)
