"""Answers and writes of one key as pure functions, whichever lane they go by.

    request   key, body, options  --put_change, delete_change-->  Write --> the coordinator
    reply     GetResult, Written  --get_reply, raw_reply, write_reply-->  Reply

Values of siblings that are equal are shown once: whoever retries a write, not knowing what became
of it, leaves at most a twin, and the context that a reader gets covers both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, TypeVar

import msgspec

from kv.api.failures import InvalidBodyError, error_reply
from kv.api.headers import LEVEL, SESSION
from kv.api.hot import AS_IS, Forms, encode, ttl_ms_of
from kv.api.hot import decode as decode_body
from kv.api.leaderless.bodies import DeleteBody, KeyReply, Nodes, PutBody, Sibling, WriteReply
from kv.api.leaderless.options import CONTEXT
from kv.api.reply import BYTES, JSON, Headers, Reply
from kv.api.text import given, shown
from kv.errors import WrongRegimeError
from kv.leaderless.context import ContextCodec
from kv.leaderless.dvv import context_of
from kv.leaderless.get_core import GetResult
from kv.leaderless.keyspace import Keyspace
from kv.leaderless.put_core import Written
from kv.leaderless.quorum import Level
from kv.leaderless.rules import Live, Rule, Write, resolve
from kv.leaderless.session import Seen, SessionCodec, saw
from raftgroups.refusals import KeyNotFoundError
from storage.codec import check_key, check_value
from storage.plain import CLOCK_AT
from storage.siblings import Clock

T = TypeVar("T")

REPLICAS: Final = "Replicas"
FALLBACKS: Final = "Fallbacks"
MULTIPART: Final = "multipart/mixed"
SEVERAL: Final = 300
"""What /v1/kv answers with siblings: there is no single value."""
_AS_WRITTEN: Final = frozenset((Rule.SIBLINGS, Rule.LWW))
"""Rules under which a single value is told as it was written."""
_STRONG_FIELDS: Final = ("lease", "if_not_exists", "expected_version", "atomic")
_put_body: Final = msgspec.json.Decoder(PutBody)
_delete_body: Final = msgspec.json.Decoder(DeleteBody)


@dataclass(frozen=True, slots=True)
class Codecs:
    """The texts that only this cluster can write."""

    contexts: ContextCodec
    sessions: SessionCodec


# --- requests --------------------------------------------------------------------------------


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """A body as its type; what belongs to the other regime is named. Raises InvalidBodyError,
    WrongRegimeError."""
    try:
        return decode_body(decoder, body)
    except InvalidBodyError as error:
        for field in _STRONG_FIELDS:
            if f"unknown field `{field}`" in str(error):
                raise WrongRegimeError(
                    f"`{field}` is of the strong regime, and this keyspace is leaderless: it has "
                    "no leases and no conditions; use a strong keyspace (keyspace=NAME)"
                ) from None
        raise


def put_change(
    codecs: Codecs, space: Keyspace, key: bytes, body: bytes, context: str | None, now_ms: int
) -> Write:
    """`context`: of the header. Raises what the body, the key or the context is refused for."""
    check_key(key)
    wanted = decode(_put_body, body)
    return write_of(
        codecs,
        space,
        key,
        given(wanted.value, wanted.encoding, "value"),
        one_context(wanted.context, context),
        wanted.ttl,
        now_ms,
    )


def delete_change(
    codecs: Codecs, space: Keyspace, key: bytes, body: bytes, context: str | None
) -> Write:
    check_key(key)
    wanted = decode(_delete_body, body) if body else DeleteBody()
    return write_of(codecs, space, key, None, one_context(wanted.context, context), None, 0)


def write_of(
    codecs: Codecs,
    space: Keyspace,
    key: bytes,
    value: bytes | None,
    context: str | None,
    ttl_s: float | None,
    now_ms: int,
) -> Write:
    if value is not None:
        check_value(value)
    seen = codecs.contexts.decode(space.number, key, context) if context else None
    return Write(value, seen, now_ms + ttl_ms_of(ttl_s) if ttl_s else 0)


def one_context(of_body: str | None, of_header: str | None) -> str | None:
    if of_body and of_header and of_body != of_header:
        raise InvalidBodyError(
            f"the body and the header {CONTEXT} have different contexts; give one of them"
        )
    return of_body or of_header


# --- replies ---------------------------------------------------------------------------------


def get_reply(
    codecs: Codecs,
    space: Keyspace,
    key: bytes,
    found: GetResult,
    now_ms: int,
    session: Seen | None,
    forms: Forms = AS_IS,
) -> Reply:
    lives = lives_of(space, found, now_ms)
    if not lives:
        return _absent(codecs, space, key, found, session)
    body = key_body(codecs, space, key, found, lives, now_ms, forms)
    return Reply(200, encode(body), JSON, headers=_headers(codecs, space, key, found, session))


def lives_of(space: Keyspace, found: GetResult, now_ms: int) -> tuple[Live, ...]:
    """What a reader is told, without decoding what can be cut from its bytes."""
    plain = found.plain
    if plain is not None and space.rule in _AS_WRITTEN:
        return (Live(found.encoded[plain.value_at :], plain.timestamp, 0),)
    return distinct(resolve(space.rule, found.siblings, now_ms))


def context_text(codecs: Codecs, space: Keyspace, key: bytes, found: GetResult) -> str:
    plain = found.plain
    if plain is None:
        return codecs.contexts.encode(space.number, key, context_of(found.siblings))
    clock = found.encoded[CLOCK_AT : plain.clock_end]
    return codecs.contexts.encode_bytes(space.number, key, plain.timestamp, clock)


def distinct(lives: tuple[Live, ...]) -> tuple[Live, ...]:
    """Of equal values the one that lasts longest."""
    if len(lives) < 2:
        return lives
    best: dict[bytes, Live] = {}
    for live in lives:
        other = best.get(live.value)
        if other is None or _lasts(live) > _lasts(other):
            best[live.value] = live
    return tuple(best.values())


def _lasts(live: Live) -> tuple[bool, int, int]:
    return not live.expiry_ms, live.expiry_ms, live.timestamp


def key_body(
    codecs: Codecs,
    space: Keyspace,
    key: bytes,
    found: GetResult,
    lives: Sequence[Live],
    now_ms: int,
    forms: Forms = AS_IS,
) -> KeyReply:
    text, key_mark = shown(key, forms.keys)
    context = context_text(codecs, space, key, found)
    if len(lives) == 1:
        (live,) = lives
        value, mark = shown(live.value, forms.values)
        return KeyReply(
            key=text,
            value=value,
            context=context,
            timestamp=live.timestamp >> 16,
            ttl_remaining=ttl_left_s(live, now_ms),
            replicas=found.replicas,
            fallbacks=found.stand_ins,
            level=found.level,
            encoding=mark,
            key_encoding=key_mark,
        )
    return KeyReply(
        key=text,
        siblings=siblings_of(lives, now_ms, forms),
        context=context,
        replicas=found.replicas,
        fallbacks=found.stand_ins,
        level=found.level,
        key_encoding=key_mark,
    )


def siblings_of(lives: Sequence[Live], now_ms: int, forms: Forms = AS_IS) -> list[Sibling]:
    found = []
    for live in lives:
        value, mark = shown(live.value, forms.values)
        found.append(Sibling(value, live.timestamp >> 16, ttl_left_s(live, now_ms), mark))
    return found


def ttl_left_s(live: Live, now_ms: int) -> float | None:
    return (live.expiry_ms - now_ms) / 1000 if live.expiry_ms else None


def raw_reply(
    codecs: Codecs,
    space: Keyspace,
    key: bytes,
    found: GetResult,
    now_ms: int,
    session: Seen | None,
    *,
    multipart: bool = False,
) -> Reply:
    """The bytes alone; siblings as JSON, or as multipart if that was asked for."""
    lives = lives_of(space, found, now_ms)
    if not lives:
        return _absent(codecs, space, key, found, session)
    context = context_text(codecs, space, key, found)
    own = (
        (CONTEXT, context),
        *_answered(found.replicas, found.stand_ins),
        *_headers(codecs, space, key, found, session),
    )
    if len(lives) == 1:
        return Reply(200, lives[0].value, BYTES, headers=own)
    if multipart:
        boundary = _boundary(lives)
        kind = f"{MULTIPART}; boundary={boundary}"
        return Reply(SEVERAL, _multipart(lives, boundary), kind, headers=own)
    body = key_body(codecs, space, key, found, lives, now_ms)
    return Reply(SEVERAL, encode(body), JSON, headers=own)


def _boundary(lives: Sequence[Live]) -> str:
    """One that none of the values holds."""
    text = blake2b(b"".join(live.value for live in lives), digest_size=12).hexdigest()
    while any(text.encode() in live.value for live in lives):
        text = blake2b(text.encode(), digest_size=12).hexdigest()
    return text


def _multipart(lives: Sequence[Live], boundary: str) -> bytes:
    parts = [
        b"--%b\r\nContent-Type: %b\r\nLast-Modified-Ms: %d\r\n\r\n%b\r\n"
        % (boundary.encode(), BYTES.encode(), live.timestamp >> 16, live.value)
        for live in lives
    ]
    return b"".join([*parts, b"--%b--\r\n" % boundary.encode()])


def _absent(
    codecs: Codecs, space: Keyspace, key: bytes, found: GetResult, session: Seen | None
) -> Reply:
    """With the context of the deletion, if there was one."""
    reply = error_reply(KeyNotFoundError(f"key {key!r} does not exist, as far as is known here"))
    if found.siblings.clock:
        context = codecs.contexts.encode(space.number, key, context_of(found.siblings))
        reply = reply._replace(body=b'%b,"context":"%b"}' % (reply.body[:-1], context.encode()))
    own = (
        *_answered(found.replicas, found.stand_ins),
        *_headers(codecs, space, key, found, session),
    )
    return reply._replace(headers=own)


def write_reply(
    codecs: Codecs,
    space: Keyspace,
    key: bytes,
    written: Written,
    session: Seen | None,
    forms: Forms = AS_IS,
) -> Reply:
    text, mark = shown(key, forms.keys)
    body = WriteReply(text, *write_fields(codecs, space, key, written), mark)
    if written.missed:
        body.missed = dict(written.missed)
    return Reply(
        200, encode(body), JSON, headers=write_headers(codecs, space, key, written, session)
    )


def write_fields(
    codecs: Codecs, space: Keyspace, key: bytes, written: Written
) -> tuple[str, Nodes, Nodes, Level | None]:
    """Context, replicas, fallbacks, level."""
    return (
        codecs.contexts.encode(space.number, key, written.context),
        written.replicas,
        written.stand_ins,
        written.level,
    )


def write_headers(
    codecs: Codecs, space: Keyspace, key: bytes, written: Written, session: Seen | None
) -> Headers:
    clock = written.context.clock
    return _level_and_session(codecs, space, key, written.level, clock, session)


def _headers(
    codecs: Codecs, space: Keyspace, key: bytes, found: GetResult, session: Seen | None
) -> Headers:
    if session is None:  # nearly always; `siblings` may have to be decoded
        return _LEVELS[found.level]
    return _level_and_session(codecs, space, key, found.level, found.siblings.clock, session)


_LEVELS: Final[dict[Level | None, Headers]] = {
    None: (),
    **{level: ((LEVEL, level.value),) for level in Level},
}


def _level_and_session(
    codecs: Codecs,
    space: Keyspace,
    key: bytes,
    level: Level | None,
    clock: Clock,
    session: Seen | None,
) -> Headers:
    if session is None:
        return _LEVELS[level]
    token = codecs.sessions.encode(saw(session, space.number, key, clock))
    return (*_LEVELS[level], (SESSION, token))


def _answered(replicas: Sequence[str], stand_ins: Sequence[str]) -> Headers:
    shown = ((REPLICAS, ",".join(replicas)),)
    return (*shown, (FALLBACKS, ",".join(stand_ins))) if stand_ins else shown
