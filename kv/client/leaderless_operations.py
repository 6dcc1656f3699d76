"""Operations on a leaderless keyspace. Pure.

None of them has an idempotency token: a write is repeated only while it was surely not done. Levels
and session tokens travel as headers of the operation.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
from msgspec import UNSET

from kv.api import admin_bodies
from kv.api import bodies as shared
from kv.api.headers import LEVEL, SESSION
from kv.api.leaderless import bodies
from kv.client.failures import error_of, refusal_of_body
from kv.client.forms import Bytes, as_bytes, bytes_of, in_path, named, query
from kv.client.leaderless_records import (
    Context,
    Counted,
    KeyState,
    Listed,
    ListPage,
    Sibling,
    Written,
    context_text,
)
from kv.client.operations import API, Operation, decoder, without_none
from kv.client.replies import Reply
from storage.errors import JanusError

T = TypeVar("T")
_ABSENT: Final = frozenset({"key_not_found"})
_key: Final = decoder(bodies.KeyReply)
_write: Final = decoder(bodies.WriteReply)
_increment: Final = decoder(bodies.IncrementReply)
_ttl: Final = decoder(bodies.TtlReply)
_list: Final = decoder(bodies.ListReply)
_count: Final = decoder(bodies.CountReply)
_got: Final = decoder(bodies.BatchGetReply)
_put: Final = decoder(bodies.BatchPutReply)
ring_state: Final = decoder(admin_bodies.RingState)
repair_reply: Final = decoder(admin_bodies.RepairReply)
Saw = Callable[[str], None]
"""Told the session token that a reply gave."""


@dataclass(frozen=True, slots=True)
class Asking:
    """What a call asks for beside its operation."""

    level: str | None = None
    strict: bool | None = None
    session: str | None = None
    """Its token; None: no session."""
    saw: Saw | None = None

    def headers(self) -> tuple[tuple[str, str], ...]:
        found: list[tuple[str, str]] = []
        if self.level is not None:
            found.append((LEVEL, self.level.upper()))
        if self.session is not None:
            found.append((SESSION, self.session))
        return tuple(found)

    def noting(self, read: Callable[[Reply], T]) -> Callable[[Reply], T]:
        saw = self.saw
        if saw is None:
            return read

        def noted(reply: Reply) -> T:
            token = reply.headers.get(SESSION)
            if token is not None:
                saw(token)
            return read(reply)

        return noted


PLAIN: Final = Asking()


def _target(key: bytes, what: str = "", *pairs: tuple[str, Any]) -> str:
    return f"{API}/keys/{in_path(key)}{what}{query(pairs)}"


def get(key: Bytes, asking: Asking = PLAIN) -> Operation[KeyState | None]:
    raw = as_bytes(key)

    def read(reply: Reply) -> KeyState | None:
        if reply.status == 404:
            return None
        body = _key(reply)
        return KeyState(
            raw,
            siblings_in(
                body.value, body.encoding, body.siblings, body.timestamp, body.ttl_remaining
            ),
            body.context,
            body.replicas,
            body.fallbacks,
            body.level,
        )

    return Operation(
        "GET",
        _target(raw, "", ("strict", asking.strict)),
        asking.noting(read),
        headers=asking.headers(),
        answers=_ABSENT,
    )


def siblings_in(
    value: object,
    mark: object,
    siblings: object,
    timestamp: object = 0,
    left_s: object = None,
) -> tuple[Sibling, ...]:
    if isinstance(value, str):
        return (
            Sibling(
                bytes_of(value, mark),
                timestamp if isinstance(timestamp, int) else 0,
                left_s if isinstance(left_s, float | int) else None,
            ),
        )
    if siblings is UNSET:
        return ()
    assert isinstance(siblings, list)
    return tuple(
        Sibling(bytes_of(each.value, each.encoding), each.timestamp, each.ttl_remaining)
        for each in siblings
    )


def _writing(
    method: str,
    target: str,
    read: Callable[[Reply], T],
    fields: dict[str, Any],
    asking: Asking,
) -> Operation[T]:
    body = msgspec.json.encode(fields)
    headers = asking.headers()
    return Operation(method, target, asking.noting(read), body, headers, writes=True)


def written(reply: Reply) -> Written:
    body = _write(reply)
    return Written(body.context, body.replicas, body.fallbacks, body.level)


def put(
    key: Bytes,
    value: Bytes,
    context: Context = None,
    ttl: float | None = None,
    asking: Asking = PLAIN,
) -> Operation[Written]:
    fields = {
        **named("value", as_bytes(value), "encoding"),
        **without_none(context=context_text(context), ttl=ttl),
    }
    target = _target(as_bytes(key), "", ("strict", asking.strict))
    return _writing("PUT", target, written, fields, asking)


def delete(key: Bytes, context: Context = None, asking: Asking = PLAIN) -> Operation[Written]:
    fields = without_none(context=context_text(context))
    target = _target(as_bytes(key), "", ("strict", asking.strict))
    return _writing("DELETE", target, written, fields, asking)


def increment(key: Bytes, delta: int = 1, asking: Asking = PLAIN) -> Operation[Counted]:
    def read(reply: Reply) -> Counted:
        body = _increment(reply)
        done = Written(body.context, body.replicas, body.fallbacks, body.level)
        return Counted(body.value, done)

    target = _target(as_bytes(key), "/incr", ("strict", asking.strict))
    return _writing("POST", target, read, {"delta": delta}, asking)


def set_ttl(key: Bytes, ttl_s: float | None, asking: Asking = PLAIN) -> Operation[Written]:
    def read(reply: Reply) -> Written:
        body = _ttl(reply)
        return Written(body.context, body.replicas, body.fallbacks, body.level)

    target = _target(as_bytes(key), "/ttl", ("strict", asking.strict))
    return _writing("POST", target, read, {"ttl_seconds": ttl_s}, asking)


# --- many ------------------------------------------------------------------------------------


def list_page(
    prefix: Bytes | None = None,
    *,
    start: Bytes | None = None,
    end: Bytes | None = None,
    values: bool = False,
    limit: int = 100,
    cursor: str | None = None,
) -> Operation[ListPage]:
    def read(reply: Reply) -> ListPage:
        body = _list(reply)
        return ListPage(
            tuple(
                Listed(
                    bytes_of(each.key, each.key_encoding),
                    siblings_in(each.value, each.encoding, each.siblings, each.timestamp),
                    each.context if isinstance(each.context, str) else "",
                )
                for each in body.keys
            ),
            body.cursor,
        )

    pairs = [
        ("prefix", None if prefix is None else as_bytes(prefix)),
        ("start", None if start is None else as_bytes(start)),
        ("end", None if end is None else as_bytes(end)),
        ("values", values),
        ("limit", limit),
        ("cursor", cursor),
    ]
    return Operation("GET", f"{API}/keys{query(pairs)}", read, sees_data=False)


def count(prefix: Bytes | None = None) -> Operation[int]:
    pairs = [("prefix", None if prefix is None else as_bytes(prefix))]
    return Operation(
        "GET", f"{API}/count{query(pairs)}", lambda reply: _count(reply).count, sees_data=False
    )


def get_many(
    keys: Sequence[Bytes], asking: Asking = PLAIN
) -> Operation[list[KeyState | JanusError | None]]:
    raws = [as_bytes(key) for key in keys]

    def read(reply: Reply) -> list[KeyState | JanusError | None]:
        found: list[KeyState | JanusError | None] = []
        for raw, each in zip(raws, _got(reply).results, strict=True):
            if isinstance(each.error, shared.ErrorBody):
                found.append(error_of(refusal_of_body(each.error)))
            elif not each.found:
                found.append(None)
            else:
                siblings = siblings_in(each.value, each.encoding, each.siblings)
                context = each.context if isinstance(each.context, str) else ""
                found.append(KeyState(raw, siblings, context))
        return found

    fields = _keys(raws)
    return Operation(
        "POST",
        f"{API}/batch/get",
        asking.noting(read),
        msgspec.json.encode(fields),
        asking.headers(),
    )


def _keys(raws: Iterable[bytes]) -> dict[str, Any]:
    coded = [b2a_base64(raw, newline=False).decode() for raw in raws]
    return {"keys": coded, "key_encoding": "base64"}


def put_many(
    items: Sequence[tuple[Bytes, Bytes | None, Context]], asking: Asking = PLAIN
) -> Operation[list[Written | JanusError]]:
    """(key, value or None for a deletion, context)"""
    operations = []
    for key, value, context in items:
        fields = {
            **named("key", as_bytes(key), "key_encoding"),
            **named("value", None if value is None else as_bytes(value), "encoding"),
            **without_none(context=context_text(context)),
        }
        operations.append({**fields, "op": "delete"} if value is None else fields)

    def read(reply: Reply) -> list[Written | JanusError]:
        found: list[Written | JanusError] = []
        for each in _put(reply).results:
            if isinstance(each.error, shared.ErrorBody):
                found.append(error_of(refusal_of_body(each.error)))
                continue
            assert isinstance(each.context, str)
            assert isinstance(each.replicas, tuple)
            assert isinstance(each.fallbacks, tuple)
            level = each.level if isinstance(each.level, str) else None
            found.append(Written(each.context, each.replicas, each.fallbacks, level))
        return found

    return _writing("POST", f"{API}/batch/put", read, {"operations": operations}, asking)


# --- the cluster -----------------------------------------------------------------------------


def repair(long_s: float) -> Operation[admin_bodies.RepairReply]:
    return Operation(
        "POST",
        f"{API}/admin/repair",
        repair_reply,
        sees_data=False,
        repeatable=True,
        long_s=long_s,
    )


def ring() -> Operation[admin_bodies.RingState]:
    return Operation("GET", f"{API}/admin/ring", ring_state, sees_data=False)
