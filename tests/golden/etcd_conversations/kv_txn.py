"""Txn: compares, branches, nesting, what is refused, what counts as a change."""

from __future__ import annotations

from typing import Any

from .steps import (
    TXN,
    Conversation,
    b,
    call,
    compact,
    delete,
    get,
    grant,
    keys,
    op_delete,
    op_get,
    op_put,
    op_txn,
    put,
    txn,
)


def _if(key: str, target: str, result: str, end: str | None = None, **value: Any) -> Any:
    """A txn that only compares: `succeeded` is the answer."""
    return txn([keys(key, end) | {"target": target, "result": result} | value])


_RESULTS = ("EQUAL", "NOT_EQUAL", "GREATER", "LESS")

CONVERSATIONS = (
    Conversation(
        "txn-compare-targets",
        "Every target with every result, at a value that is met by EQUAL only.",
        (
            grant(600, 7),
            put("a", "1"),
            put("a", "1"),
            put("a", "m", lease=7),
            *(_if("a", "VERSION", result, version=3) for result in _RESULTS),
            *(_if("a", "CREATE", result, create_revision=2) for result in _RESULTS),
            *(_if("a", "MOD", result, mod_revision=3) for result in _RESULTS),
            *(_if("a", "VALUE", result, value=b("k")) for result in _RESULTS),
            *(_if("a", "LEASE", result, lease=7) for result in _RESULTS),
            _if("a", "MOD", "LESS", mod_revision="5"),
            txn([keys("a")]),
            txn([keys("a") | {"version": 3}]),
            txn([keys("a") | {"target": 0, "result": 0, "version": "3"}]),
            txn([keys("a") | {"target": 3, "result": 3, "value": b("n")}]),
            txn([keys("a") | {"target": "MOD", "version": 3}], note="a value of another target"),
            txn([keys("a") | {"target": "AGE"}]),
            txn([keys("a") | {"result": "SAME"}]),
            txn([{}]),
        ),
    ),
    Conversation(
        "txn-compare-missing-and-ranges",
        "A missing key is all zeros, but no VALUE compare holds; a range needs every key.",
        (
            _if("a", "VERSION", "EQUAL", version=0),
            _if("a", "CREATE", "EQUAL", create_revision=0),
            _if("a", "MOD", "LESS", mod_revision=1),
            _if("a", "LEASE", "EQUAL", lease=0),
            _if("a", "VERSION", "GREATER", version=0),
            *(_if("a", "VALUE", result, value=b("k")) for result in _RESULTS),
            _if("a", "VALUE", "EQUAL"),
            put("p/1", "x"),
            put("p/2", "x"),
            put("p/2", "x"),
            _if("p/", "VALUE", "EQUAL", "p0", value=b("x")),
            _if("p/", "VERSION", "EQUAL", "p0", version=1),
            _if("p/", "VERSION", "GREATER", "p0", version=0),
            _if("q/", "VERSION", "EQUAL", "q0", version=0),
            _if("q/", "VALUE", "NOT_EQUAL", "q0", value=b("x")),
            _if("p/", "CREATE", "LESS", "\0", create_revision=4),
            txn([keys("p/1") | {"version": 1}, keys("p/2") | {"version": 2}]),
            txn([keys("p/1") | {"version": 1}, keys("p/2") | {"version": 1}]),
        ),
    ),
    Conversation(
        "txn-operations",
        "Branches, answers, one revision for all; operations see earlier ones.",
        (
            txn(),
            txn([], [], []),
            txn(success=[op_put("a", "1"), op_get("a")]),
            txn(success=[op_put("a", "2", prev_kv=True), op_put("b", "1"), op_get("\0", "\0")]),
            txn(success=[op_get("a"), op_get("missing"), op_delete("missing")]),
            txn(success=[op_delete("a", prev_kv=True), op_delete("a"), op_delete("a", "c")]),
            txn([keys("a") | {"version": 1}], [op_put("a", "x")], [op_put("b", "y"), op_get("b")]),
            txn(
                [keys("lock") | {"target": "CREATE", "result": "EQUAL", "create_revision": 0}],
                [op_put("lock", "me")],
                [op_get("lock")],
            ),
            txn(
                [keys("lock") | {"target": "CREATE", "result": "EQUAL", "create_revision": 0}],
                [op_put("lock", "you")],
                [op_get("lock")],
            ),
            txn(success=[op_delete("lock"), op_get("lock"), op_get("lock", revision=2)]),
            txn(success=[op_get("\0", "\0", count_only=True)]),
            txn(success=[op_get("\0", "\0", sort_order="DESCEND", limit=1)]),
            txn(success=[op_put("b", ignore_value=True)]),
            get("b"),
            call(TXN, {"success": [{}]}, note="an operation without a kind"),
        ),
    ),
    Conversation(
        "txn-nested",
        "A nested txn has an empty header, sees what came before it, and is one revision with all.",
        (
            txn(success=[op_txn(success=[op_put("a", "1")]), op_get("a")]),
            txn(
                success=[
                    op_put("b", "1"),
                    op_txn(
                        compare=[keys("b") | {"target": "VALUE", "value": b("1")}],
                        success=[op_get("b"), op_put("c", "1")],
                        failure=[op_put("d", "1")],
                    ),
                ],
                note="nested compares are made before any operation of the outer one",
            ),
            txn(success=[op_txn(success=[op_txn(success=[op_put("deep", "1"), op_get("deep")])])]),
            txn(success=[op_txn()]),
            get("\0", "\0"),
            txn(success=[op_put("a", "1"), op_txn(success=[op_put("a", "2")])]),
            txn(success=[op_txn(success=[op_put("a", "1")]), op_txn(success=[op_put("a", "2")])]),
            txn(success=[op_txn(success=[op_put("a", "1")], failure=[op_put("a", "2")])]),
            txn(success=[op_delete("a", "c"), op_txn(failure=[op_put("b", "2")])]),
            txn(success=[op_txn(success=[op_put("x", lease=99)])]),
        ),
    ),
    Conversation(
        "txn-rejected",
        "Refused before anything is written, also when the branch would not be taken.",
        (
            put("a", "1"),
            txn(success=[op_put("a", "2"), op_put("a", "3")]),
            txn(failure=[op_put("a", "2"), op_put("a", "3")]),
            txn(success=[op_put("a", "2"), op_delete("a")]),
            txn(success=[op_delete("a", "c"), op_put("b")]),
            txn(success=[op_delete("a"), op_delete("a"), op_delete("a", "b")]),
            txn(success=[op_put("a")], failure=[op_put("a")]),
            txn(success=[op_put("")]),
            txn(success=[op_get("")]),
            txn(success=[op_delete("")]),
            txn(success=[op_put("b", "1"), op_put("c", "1", lease=99)]),
            txn(success=[op_put("b", "1"), op_put("c", ignore_value=True)]),
            txn(success=[op_put("b", "1", ignore_value=True)]),
            txn(success=[op_put("a", lease=7, ignore_lease=True)]),
            txn(success=[op_get("a", revision=99)]),
            put("a", "2"),
            compact(4),
            txn(success=[op_get("a", revision=2)]),
            txn(success=[op_get("a")] * 129),
            txn(failure=[op_get("a")] * 129),
            txn([keys("a")] * 129),
            txn([keys("a") | {"version": 9}] * 128, failure=[op_put("last", "1")]),
            delete("a"),
            get("\0", "\0"),
        ),
    ),
    Conversation(
        "defect-delete-from-a-key-on-and-put",
        "A defect of etcd 3.5.1: a put inside a delete up to the end of the keys is not refused.",
        (
            put("a", "1"),
            txn(success=[op_delete("a", "z"), op_put("b")]),
            txn(success=[op_delete("a", "\0"), op_put("b")]),
        ),
    ),
)
