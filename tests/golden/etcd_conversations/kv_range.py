"""Range: bounds, counts, limits, sorts, filters, old revisions, compaction."""

from __future__ import annotations

from .steps import RANGE, Conversation, call, compact, delete, get, keys, put

_ALL = ("\0", "\0")
_FILL = (put("b", "3"), put("a", "5"), put("c", "1"), put("a", "4"), put("d", "2"), put("a", "6"))
_TARGETS = ("KEY", "VERSION", "CREATE", "MOD", "VALUE")
_ORDERS = ("NONE", "ASCEND", "DESCEND")

CONVERSATIONS = (
    Conversation(
        "range-bounds",
        "One key, ranges, prefixes, from a key on, everything, nothing, an empty key.",
        (
            get(*_ALL),
            *(put(key, key) for key in ("a", "a/1", "a/2", "b", "c\xff")),
            get("a"),
            get("missing"),
            get("a", "b"),
            get("a/", "a0"),
            get("a/2", "\0"),
            get(*_ALL),
            get("b", "a"),
            get("a", "a"),
            call(RANGE, {}),
            call(RANGE, {"range_end": "Yg=="}),
            call(RANGE, {"key": "AA=="}),
        ),
    ),
    Conversation(
        "range-counts-and-limits",
        "count ignores limit; more says that the limit cut; keys_only and count_only.",
        (
            *_FILL,
            get(*_ALL, limit=2),
            get(*_ALL, limit=4),
            get(*_ALL, limit=0),
            get(*_ALL, limit=-1),
            get(*_ALL, limit="3"),
            get(*_ALL, keys_only=True),
            get(*_ALL, count_only=True),
            get("x", "z", count_only=True),
            get(*_ALL, count_only=True, limit=1),
            get(*_ALL, serializable=True),
            get("a", serializable=True, keys_only=True),
            get(*_ALL, keys_only=True, limit=1),
        ),
    ),
    Conversation(
        "range-sorts",
        "Every sort order by every sort target; a limit after the sort.",
        (
            *_FILL,
            *(
                get(*_ALL, sort_order=order, sort_target=target, keys_only=target != "VALUE")
                for target in _TARGETS
                for order in _ORDERS
            ),
            get(*_ALL, sort_order="DESCEND", sort_target="VALUE", limit=2),
            get(*_ALL, sort_order="DESCEND", limit=3),
            get(*_ALL, sort_order="ASCEND", sort_target="MOD", limit=1),
            get(*_ALL, sort_order=2, sort_target=3),
            get("a", sort_order=0, sort_target=0),
            get(*_ALL, sort_order="descend"),
            get(*_ALL, sort_order="UP"),
            get(*_ALL, sortOrder="DESCEND", sortTarget="CREATE", keysOnly=True),
        ),
    ),
    Conversation(
        "range-filters",
        "Filters by revision: count ignores them, limit and more come after them.",
        (
            *_FILL,
            get(*_ALL, min_mod_revision=4),
            get(*_ALL, max_mod_revision=4),
            get(*_ALL, min_mod_revision=3, max_mod_revision=6),
            get(*_ALL, min_create_revision=3),
            get(*_ALL, max_create_revision=3),
            get(*_ALL, min_create_revision=3, max_create_revision=4),
            get(*_ALL, min_mod_revision=4, limit=1),
            get(*_ALL, min_mod_revision=4, limit=3),
            get(*_ALL, min_mod_revision=100),
            get(*_ALL, min_mod_revision=4, count_only=True),
            get(*_ALL, max_mod_revision=4, sort_target="VALUE", sort_order="DESCEND"),
        ),
    ),
    Conversation(
        "range-revisions",
        "Reads in the past: the header speaks of the present; future and compacted are refused.",
        (
            put("a", "1"),
            put("a", "2"),
            delete("a"),
            put("a", "3"),
            get("a", revision=1),
            get("a", revision=2),
            get("a", revision=3),
            get("a", revision=4),
            get("a", revision=5),
            get("a", revision=0),
            get("a", revision=-1),
            get("a", revision=6),
            get(*_ALL, revision=2, count_only=True),
            compact(3),
            get("a", revision=2),
            get("a", revision=3),
            get("a", revision=2, serializable=True),
            get("a", revision="4"),
        ),
    ),
    Conversation(
        "compaction",
        "Compaction: future, again, below, physical, the default; a tombstone at the edge.",
        (
            compact(2),
            put("a", "1"),
            put("a", "2"),
            put("b", "1"),
            delete("b"),
            compact(3),
            compact(3),
            compact(2),
            compact(7),
            call("/v3/kv/compaction", {}),
            compact(-1),
            compact(5, physical=True),
            get("b", revision=5),
            get("b", revision=4),
            get(*_ALL),
            call("/v3/kv/compaction", keys("a")),
        ),
    ),
)
