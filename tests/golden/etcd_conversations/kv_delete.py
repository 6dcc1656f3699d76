"""Deleterange: bounds, prev_kv, and what it does to revisions."""

from __future__ import annotations

from .steps import DELETE, Conversation, call, delete, get, put

CONVERSATIONS = (
    Conversation(
        "deleterange",
        "Deleting nothing is no revision, a range is one; prev_kvs in key order.",
        (
            delete("a"),
            *(put(key, key) for key in ("c", "a", "b", "a/1", "a/2")),
            delete("missing"),
            delete("b", prev_kv=True),
            delete("b", prev_kv=True),
            delete("a/", "a0", prev_kv=True),
            delete("z", "a"),
            delete("a", "a"),
            get("\0", "\0"),
            delete("\0", "\0"),
            get("\0", "\0", count_only=True),
            delete("\0", "\0"),
            call(DELETE, {}),
            call(DELETE, {"range_end": "AA=="}),
            put("a", "again"),
            get("a"),
            delete("a", "\0", prev_kv=True),
        ),
    ),
)
