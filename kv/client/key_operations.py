"""Operations on one key. Pure."""

from __future__ import annotations

from typing import Final

from msgspec import UNSET

from kv.api import bodies
from kv.client.forms import Bytes, alike, as_bytes, bytes_of, in_path, named, query
from kv.client.operations import API, Operation, decoder, without_none, writing
from kv.client.records import (
    CasResult,
    DeleteResult,
    IncrementResult,
    PutResult,
    Record,
    TtlResult,
)
from kv.client.replies import Reply
from storage.errors import InvalidOptionError

_ABSENT: Final = frozenset({"key_not_found"})
_key: Final = decoder(bodies.KeyReply)
_put: Final = decoder(bodies.PutReply)
_delete: Final = decoder(bodies.DeleteReply)
_cas: Final = decoder(bodies.CasReply)
_ttl: Final = decoder(bodies.TtlReply)
_increment: Final = decoder(bodies.IncrementReply)


def _target(key: bytes, what: str = "") -> str:
    return f"{API}/keys/{in_path(key)}{what}"


def get(key: Bytes, revision: int | None = None) -> Operation[Record | None]:
    raw = as_bytes(key)

    def read(reply: Reply) -> Record | None:
        if reply.status == 404:
            return None
        body = _key(reply)
        return Record(
            raw,
            bytes_of(body.value, body.encoding),
            body.version,
            body.timestamp,
            body.ttl_remaining,
            None if body.lease is UNSET else int(body.lease),
        )

    target = _target(raw) + query([("revision", revision)])
    return Operation("GET", target, read, answers=_ABSENT)


def put(
    key: Bytes,
    value: Bytes,
    *,
    ttl: float | None = None,
    lease: int | None = None,
    if_version: int | None = None,
    if_absent: bool = False,
) -> Operation[PutResult]:
    if if_version is not None and if_absent:
        raise InvalidOptionError("if_version and if_absent are both given; give one of them")
    fields = {
        **named("value", as_bytes(value), "encoding"),
        **without_none(ttl=ttl, lease=_lease(lease)),
    }
    if if_absent:
        fields["if_not_exists"] = True

    def read(reply: Reply) -> PutResult:
        body = _put(reply)
        return PutResult(body.version, body.status == "created", body.timestamp)

    return writing("PUT", _target(as_bytes(key)), read, fields, headers=_condition(if_version))


def _condition(if_version: int | None) -> tuple[tuple[str, str], ...]:
    if if_version is None:
        return ()
    if if_version == 0:
        return (("If-None-Match", "*"),)
    return (("If-Match", f'"{if_version}"'),)


def _lease(lease: int | None) -> str | None:
    return None if lease is None else str(lease)


def delete(key: Bytes, *, if_version: int | None = None) -> Operation[DeleteResult]:
    if if_version == 0:
        raise InvalidOptionError("if_version=0 is of an absent key: there is nothing to delete")

    def read(reply: Reply) -> DeleteResult:
        body = _delete(reply)
        return DeleteResult(body.deleted, body.version)

    return writing("DELETE", _target(as_bytes(key)), read, headers=_condition(if_version))


def cas(
    key: Bytes,
    new_value: Bytes | None,
    *,
    expected_version: int | None = None,
    expected_value: Bytes | None = None,
    ttl: float | None = None,
    lease: int | None = None,
) -> Operation[CasResult]:
    if expected_version is None and expected_value is None:
        raise InvalidOptionError(
            "a cas needs expected_version (0: the key is absent) or expected_value"
        )
    texts = alike(
        {
            "new_value": None if new_value is None else as_bytes(new_value),
            "expected_value": None if expected_value is None else as_bytes(expected_value),
        },
        "encoding",
    )
    fields = {
        **texts,
        **without_none(expected_version=expected_version, ttl=ttl, lease=_lease(lease)),
    }
    if new_value is None:
        fields["delete"] = True

    def read(reply: Reply) -> CasResult:
        body = _cas(reply)
        return CasResult(body.success, body.current_version)

    return writing("POST", _target(as_bytes(key), "/cas"), read, fields)


def increment(key: Bytes, delta: int = 1) -> Operation[IncrementResult]:
    def read(reply: Reply) -> IncrementResult:
        body = _increment(reply)
        return IncrementResult(body.value, body.version)

    return writing("POST", _target(as_bytes(key), "/incr"), read, {"delta": delta})


def set_ttl(key: Bytes, ttl_s: float | None) -> Operation[TtlResult]:
    def read(reply: Reply) -> TtlResult:
        body = _ttl(reply)
        return TtlResult(body.version, body.ttl_remaining)

    return writing("POST", _target(as_bytes(key), "/ttl"), read, {"ttl_seconds": ttl_s})
