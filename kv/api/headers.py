"""Request headers that say how an operation is to be done. Pure.

Consistency-Level   LINEARIZABLE (default), SESSION, EVENTUAL
Session-Token       what a reply gave
Idempotency-Key     client:sequence[:settled], makes a write safe to retry
Request-Timeout     seconds
If-Match            "version" of the key, for a write
If-None-Match       * for a write: only if the key does not exist; "version" for a read: 304
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from kv.api.failures import InvalidHeaderError
from kv.model import (
    DEADLINE_MAX_S,
    NO_SESSION,
    PLAIN_READ,
    PLAIN_WRITE,
    Level,
    ReadOptions,
    SessionToken,
    WriteOptions,
    parse_level,
)
from raftgroups.commands import CLIENT_MAX_BYTES, SEQUENCE_MAX, Token

LEVEL: Final = "Consistency-Level"
SESSION: Final = "Session-Token"
IDEMPOTENCY: Final = "Idempotency-Key"
TIMEOUT: Final = "Request-Timeout"
IF_MATCH: Final = "If-Match"
IF_NONE_MATCH: Final = "If-None-Match"

SESSION_PATTERN: Final = r"^([0-9]{1,19}:[0-9]{1,19}(,[0-9]{1,19}:[0-9]{1,19})*)?$"
IDEMPOTENCY_PATTERN: Final = r"^[!-9;-~]{1,64}:[0-9]{1,19}(:[0-9]{1,19})?$"
ETAG_PATTERN: Final = r'^"[0-9]{1,19}"$'
_IDEMPOTENCY: Final = re.compile(IDEMPOTENCY_PATTERN)
_ETAG: Final = re.compile(ETAG_PATTERN)
_SECONDS: Final = re.compile(r"^[0-9]{1,6}(\.[0-9]{1,9})?$")


class Conditions(NamedTuple):
    """What must hold for a write to be done."""

    match: int = -1
    """The key's version; 0: absent; -1: anything."""
    from_header: bool = True
    """Answer a mismatch as HTTP has it (412)."""


NO_CONDITIONS: Final = Conditions()
ABSENT: Final = Conditions(0)


def read_options(headers: Mapping[str, str]) -> ReadOptions:
    level, session, timeout = headers.get(LEVEL), headers.get(SESSION), headers.get(TIMEOUT)
    if level is None and session is None and timeout is None:
        return PLAIN_READ
    return ReadOptions(
        Level.LINEARIZABLE if level is None else parse_level(level),
        NO_SESSION if session is None else SessionToken.parse(session),
        None if timeout is None else seconds(timeout),
    )


def write_options(headers: Mapping[str, str]) -> WriteOptions:
    """A write is linearizable whatever level is asked for; a level that does not exist is still an
    error."""
    level = headers.get(LEVEL)
    if level is not None:
        parse_level(level)
    key, timeout = headers.get(IDEMPOTENCY), headers.get(TIMEOUT)
    if key is None and timeout is None:
        return PLAIN_WRITE
    return WriteOptions(
        None if key is None else idempotency_token(key),
        None if timeout is None else seconds(timeout),
    )


def session_of(headers: Mapping[str, str]) -> SessionToken:
    text = headers.get(SESSION)
    return NO_SESSION if text is None else SessionToken.parse(text)


def seconds(text: str) -> float:
    value = float(text) if _SECONDS.match(text) else 0.0
    if not 0 < value <= DEADLINE_MAX_S:
        raise InvalidHeaderError(
            f"{TIMEOUT} is {text[:40]!r}; give seconds, more than 0 and at most {DEADLINE_MAX_S:g}"
        )
    return value


def idempotency_token(text: str) -> Token:
    if not _IDEMPOTENCY.match(text):
        raise InvalidHeaderError(
            f"{IDEMPOTENCY} is {text[:100]!r}; give client:sequence or client:sequence:settled, "
            f"where client is 1 to {CLIENT_MAX_BYTES} printable characters without a colon and "
            "the others are numbers"
        )
    client, _, numbers = text.partition(":")
    sequence, _, settled = numbers.partition(":")
    token = Token(client.encode(), int(sequence), int(settled or "0"))
    if token.sequence > SEQUENCE_MAX or token.settled > token.sequence:
        raise InvalidHeaderError(
            f"{IDEMPOTENCY} has sequence {sequence} and settled {settled or 0}; a sequence is at "
            f"most {SEQUENCE_MAX}, and settled at most the sequence"
        )
    return token


def write_conditions(headers: Mapping[str, str]) -> Conditions:
    match, none_match = headers.get(IF_MATCH), headers.get(IF_NONE_MATCH)
    if match is None and none_match is None:
        return NO_CONDITIONS
    if match is not None and none_match is not None:
        raise InvalidHeaderError(f"{IF_MATCH} and {IF_NONE_MATCH} are both given; give one")
    if match is not None:
        return Conditions(_version(IF_MATCH, match))
    if none_match is not None and none_match.strip() == "*":
        return ABSENT
    raise InvalidHeaderError(
        f"{IF_NONE_MATCH} is {(none_match or '')[:40]!r}; a write takes only *: write if the key "
        "does not exist"
    )


def read_condition(headers: Mapping[str, str]) -> int:
    """The version that the caller has already; -1: none."""
    text = headers.get(IF_NONE_MATCH)
    return -1 if text is None else _version(IF_NONE_MATCH, text)


def _version(name: str, text: str) -> int:
    text = text.strip()
    if not _ETAG.match(text):
        raise InvalidHeaderError(
            f'{name} is {text[:40]!r}; give the ETag of a reply, like "57", with its quotes'
        )
    return min(int(text[1:-1]), SEQUENCE_MAX)
