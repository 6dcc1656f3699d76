"""The words in which conversations with an etcd gateway are written.

A conversation is a name, a sentence and a list of steps against a fresh server. A step is a plain
dict, written into the golden file as it is, with the answer beside it:
- call: one request, one answer; with `until`, repeated until the answer contains that text;
- open_stream / read_stream / close_stream: a stream that stays open, so many chunks at a time;
- begin / finish: a call that blocks while later steps go on; abandon: its client goes away.
A request's body is text. `<name>` in it stands for a value that the server chose and that an
earlier step caught (`catch`: name -> path of fields and indices, joined by dots).
"""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import dataclass
from typing import Any

Step = dict[str, Any]
Body = dict[str, Any] | str

RANGE = "/v3/kv/range"
PUT = "/v3/kv/put"
DELETE = "/v3/kv/deleterange"
TXN = "/v3/kv/txn"
COMPACT = "/v3/kv/compaction"
WATCH = "/v3/watch"
GRANT = "/v3/lease/grant"


@dataclass(frozen=True, slots=True)
class Conversation:
    name: str
    about: str
    steps: tuple[Step, ...]


def b(value: str | bytes) -> str:
    """Bytes as the gateway takes them."""
    return b64encode(value.encode() if isinstance(value, str) else value).decode()


def keys(first: str, end: str | None = None) -> dict[str, str]:
    return {"key": b(first)} | ({} if end is None else {"range_end": b(end)})


def request(path: str, body: Body = "", method: str = "POST", **headers: str) -> Step:
    text = body if isinstance(body, str) else json.dumps(body, separators=(",", ":"))
    made: Step = {"method": method, "path": path, "body": text}
    if headers:
        made["headers"] = {name.replace("_", "-"): value for name, value in headers.items()}
    return made


def call(
    path: str,
    body: Body = "",
    method: str = "POST",
    *,
    catch: dict[str, str] | None = None,
    until: str | None = None,
    note: str | None = None,
    **headers: str,
) -> Step:
    step: Step = {} if note is None else {"note": note}
    step["request"] = request(path, body, method, **headers)
    if catch:
        step["catch"] = catch
    if until is not None:
        step["until"] = until
    return step


def put(key: str, value: str = "", **flags: Any) -> Step:
    body: dict[str, Any] = {"key": b(key)} | ({"value": b(value)} if value else {})
    return call(PUT, body | flags)


def get(first: str, end: str | None = None, **options: Any) -> Step:
    return call(RANGE, keys(first, end) | options)


def delete(first: str, end: str | None = None, **options: Any) -> Step:
    return call(DELETE, keys(first, end) | options)


def txn(
    compare: list[dict[str, Any]] | None = None,
    success: list[dict[str, Any]] | None = None,
    failure: list[dict[str, Any]] | None = None,
    note: str | None = None,
) -> Step:
    lists = {"compare": compare, "success": success, "failure": failure}
    body = {name: value for name, value in lists.items() if value is not None}
    return call(TXN, body, note=note)


def op_put(key: str, value: str = "", **flags: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"key": b(key)} | ({"value": b(value)} if value else {})
    return {"request_put": body | flags}


def op_get(first: str, end: str | None = None, **options: Any) -> dict[str, Any]:
    return {"request_range": keys(first, end) | options}


def op_delete(first: str, end: str | None = None, **options: Any) -> dict[str, Any]:
    return {"request_delete_range": keys(first, end) | options}


def op_txn(**lists: Any) -> dict[str, Any]:
    return {"request_txn": lists}


def compact(revision: int, **options: Any) -> Step:
    return call(COMPACT, {"revision": revision} | options)


def grant(ttl: int, lease: int = 0, **options: Any) -> Step:
    body: dict[str, Any] = {"TTL": ttl} | ({"ID": lease} if lease else {})
    return call(GRANT, body, **options)


def open_stream(name: str, path: str, body: Body, chunks: int) -> Step:
    """Sends a request whose answer does not end and reads the first chunks of it."""
    return {"open": name, "request": request(path, body), "chunks": chunks}


def watch(name: str, *creates: dict[str, Any], chunks: int | None = None) -> Step:
    text = "".join(json.dumps({"create_request": create}) for create in creates)
    return open_stream(name, WATCH, text, len(creates) if chunks is None else chunks)


def read_stream(name: str, chunks: int = 1) -> Step:
    return {"read": name, "chunks": chunks}


def close_stream(name: str) -> Step:
    """Records whether the stream was quiet (open, nothing more came) or ended by itself."""
    return {"close": name}


def begin(name: str, path: str, body: Body) -> Step:
    return {"begin": name, "request": request(path, body)}


def finish(name: str) -> Step:
    return {"finish": name}


def abandon(name: str) -> Step:
    return {"abandon": name}
