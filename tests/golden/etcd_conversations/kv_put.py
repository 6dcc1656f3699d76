"""Put: versions, revisions, prev_kv, leases, the ignore flags."""

from __future__ import annotations

from .steps import PUT, Conversation, call, delete, get, grant, put

CONVERSATIONS = (
    Conversation(
        "put-versions",
        "Every put is a revision; version counts, create_revision stays, a delete resets both.",
        (
            put("a", "1"),
            put("a", "1"),
            put("a"),
            get("a"),
            delete("a"),
            put("a", "2"),
            get("a"),
            put("a", "3", prev_kv=True),
            put("new", "3", prev_kv=True),
            put("empty"),
            put("empty", prev_kv=True),
            put("a/b c\n\xff", "\0\x01"),
            get("a/b c\n\xff"),
            call(PUT, {}),
            call(PUT, {"value": "YQ=="}),
        ),
    ),
    Conversation(
        "put-leases",
        "A put with a lease attaches, one without detaches; an unknown lease is refused.",
        (
            grant(600, 7),
            put("a", "1", lease=7),
            get("a"),
            put("a", "2", lease=8),
            get("a"),
            put("a", "3"),
            get("a"),
            put("a", "4", lease="7", prev_kv=True),
            put("a", "5", prev_kv=True),
            put("a", "6", lease=0),
            put("a", "6", lease=-1),
            call("/v3/lease/timetolive", {"ID": 7, "keys": True}),
        ),
    ),
    Conversation(
        "put-ignore-flags",
        "ignore_value keeps the value, ignore_lease keeps the lease; both need the key.",
        (
            put("a", ignore_value=True),
            put("a", "1", ignore_lease=True),
            grant(600, 7),
            put("a", "1", lease=7),
            put("a", ignore_value=True),
            get("a"),
            put("a", "2", lease=7),
            put("a", "3", ignore_lease=True),
            get("a"),
            put("a", "4", ignore_value=True),
            put("a", "4", lease=7, ignore_lease=True),
            put("a", lease=7, ignore_value=True, prev_kv=True),
            put("a", ignore_value=True, ignore_lease=True),
            get("a"),
            put("a", lease=9, ignore_value=True),
            delete("a"),
            put("a", ignore_value=True, ignore_lease=True),
        ),
    ),
    Conversation(
        "put-too-large",
        "A request over the default limit of 1.5 MiB is refused, one below is taken.",
        (
            call(PUT, '{"key":"YQ==","value":"<mebi>"}', note="1 MiB of zeros"),
            call(
                PUT,
                '{"key":"YQ==","value":"<mebi and a half>"}',
                note="1.5 MiB",
            ),
            call(PUT, '{"key":"YQ==","value":"<2 mebi>"}', note="2 MiB"),
            call("/v3/kv/range", {"key": "YQ==", "keys_only": True}),
        ),
    ),
)
