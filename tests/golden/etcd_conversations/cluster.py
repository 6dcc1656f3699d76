"""Cluster, maintenance, and auth calls on a server whose auth is off."""

from __future__ import annotations

from .steps import Conversation, b, call, compact, get, put

_M = "/v3/maintenance"
_C = "/v3/cluster/member"
_A = "/v3/auth"

CONVERSATIONS = (
    Conversation(
        "cluster",
        "The member list, and refusals of the calls that change it; no revision in headers.",
        (
            call(f"{_C}/list", {}),
            call(f"{_C}/list"),
            call(f"{_C}/list", {"linearizable": True}),
            call(f"{_C}/remove", {"ID": 1}),
            call(f"{_C}/update", {"ID": 1, "peerURLs": ["http://127.0.0.1:1"]}),
            call(f"{_C}/promote", {"ID": 1}),
            call(f"{_C}/promote", '{"ID":"<member_id>"}'),
            call(f"{_C}/add", {"peerURLs": ["not a url"]}),
            call(f"{_C}/add", {}),
        ),
    ),
    Conversation(
        "maintenance",
        "Status, hashes, defragment, alarms; snapshot is left out, its bytes are a bolt file.",
        (
            call(f"{_M}/status", {}),
            put("a", "1"),
            put("a", "2"),
            call(f"{_M}/status"),
            call(f"{_M}/hash", {}),
            call(f"{_M}/hash"),
            call(f"{_M}/hashkv", {}),
            compact(2),
            call(f"{_M}/hashkv", {"revision": 2}),
            call(f"{_M}/hashkv", {"revision": 1}),
            call(f"{_M}/hashkv", {"revision": 99}),
            call(f"{_M}/defragment", {}),
            get("a"),
            call(f"{_M}/alarm", {}),
            call(f"{_M}/alarm", {"action": "GET"}),
            call(f"{_M}/alarm", {"action": "ACTIVATE", "alarm": "NOSPACE"}),
            call(f"{_M}/alarm", {"action": "DEACTIVATE", "alarm": "NOSPACE"}),
            call(f"{_M}/alarm", {"action": "DEACTIVATE", "alarm": "NOSPACE"}),
            call(f"{_M}/alarm", '{"action":"ACTIVATE","memberID":"<member_id>","alarm":"NOSPACE"}'),
            call(f"{_M}/alarm", {"alarm": "NOSPACE"}),
            call(f"{_M}/alarm", {"action": "EXPLODE"}),
            call(f"{_M}/transfer-leadership", {"targetID": "1"}),
            call(f"{_M}/transfer-leadership", '{"targetID":"<member_id>"}'),
            call(f"{_M}/downgrade", {"action": "VALIDATE", "version": "3.4.0"}),
        ),
    ),
    Conversation(
        "nospace",
        "Under the alarm NOSPACE: what needs space is 429, deletes work, health is 503.",
        (
            put("a", "1"),
            put("b", "1"),
            call(f"{_M}/alarm", '{"action":"ACTIVATE","memberID":"<member_id>","alarm":"NOSPACE"}'),
            put("a", "2"),
            call("/v3/lease/grant", {"TTL": 600, "ID": 7}),
            call(
                "/v3/kv/txn",
                {"success": [{"request_put": {"key": b("a"), "value": b("3")}}]},
            ),
            call("/v3/kv/txn", {"success": [{"request_range": {"key": b("a")}}]}),
            call("/v3/kv/txn", {"success": [{"request_delete_range": {"key": b("b")}}]}),
            call("/v3/kv/deleterange", {"key": b("a")}),
            get("\0", "\0"),
            compact(2),
            call("/health", method="GET"),
            call(f"{_M}/alarm", {"action": "GET", "alarm": "NOSPACE"}),
            call(f"{_M}/status"),
            call(
                f"{_M}/alarm", '{"action":"DEACTIVATE","memberID":"<member_id>","alarm":"NOSPACE"}'
            ),
            put("a", "4"),
            call("/health", method="GET"),
        ),
    ),
    Conversation(
        "auth-disabled",
        "Auth is off: status says so, users and roles can be made, tokens cannot.",
        (
            call(f"{_A}/status", {}),
            call(f"{_A}/authenticate", {"name": "root", "password": "x"}),
            call(f"{_A}/enable", {}),
            call(f"{_A}/disable", {}),
            call(f"{_A}/user/list", {}),
            call(f"{_A}/user/get", {"name": "nobody"}),
            call(f"{_A}/user/delete", {"name": "nobody"}),
            call(f"{_A}/user/changepw", {"name": "nobody", "password": "x"}),
            call(f"{_A}/user/grant", {"user": "nobody", "role": "none"}),
            call(f"{_A}/user/revoke", {"name": "nobody", "role": "none"}),
            call(f"{_A}/role/list", {}),
            call(f"{_A}/role/get", {"role": "none"}),
            call(f"{_A}/role/delete", {"role": "none"}),
            call(f"{_A}/role/revoke", {"role": "none", "key": b("a")}),
            call(f"{_A}/user/add", {}),
            call(f"{_A}/role/add", {}),
            call("/v3/kv/range", {"key": b("a")}, Authorization="no-such-token"),
        ),
    ),
)
