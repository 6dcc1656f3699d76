"""What a request to the leaderless face says beside what it wants: quorum, session, context. Pure.

    Consistency-Level   ONE, QUORUM or ALL: R of a read, W of a write
    Session-Token       "new", or what the last reply gave: see kv/leaderless/session.py
    X-Causal-Context    of a write: the context of the read that it builds on
    Request-Timeout     seconds
    ?r ?pr ?w ?pw       a number up to N or a level: nodes, and owners among them
    ?strict             true: stand-ins do not count

Conditions and idempotency tokens belong to the strong regime: refused, not passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from kv.api import headers as shared
from kv.api.failures import InvalidHeaderError, InvalidQueryError
from kv.errors import WrongRegimeError
from kv.leaderless.keyspace import PLAIN, Wish
from kv.leaderless.quorum import Level, LevelError

CONTEXT: Final = "X-Causal-Context"
_STRONG_HEADERS: Final = (shared.IDEMPOTENCY, shared.IF_MATCH, shared.IF_NONE_MATCH)


class Asked(NamedTuple):
    wish: Wish = PLAIN
    session: str | None = None
    """None: no session; its token is read where the secret is."""
    context: str | None = None


NOTHING: Final = Asked()


def asked(
    headers: Mapping[str, str], query: Mapping[str, Any] | None = None, *, writes: bool
) -> Asked:
    """Raises InvalidHeaderError, InvalidQueryError, LevelError, WrongRegimeError."""
    for name in _STRONG_HEADERS:
        if name in headers:
            raise WrongRegimeError(
                f"{name} is of the strong regime, and this keyspace is leaderless: writes here are "
                "ordered by causal contexts; use a context, or a strong keyspace (keyspace=NAME)"
            )
    wish = _wish(headers, query or {}, writes)
    context = headers.get(CONTEXT)
    if context is not None and not writes:
        raise InvalidHeaderError(f"{CONTEXT} goes with a write; a read gives one")
    return Asked(wish, headers.get(shared.SESSION), context)


def _wish(headers: Mapping[str, str], query: Mapping[str, Any], writes: bool) -> Wish:
    level, timeout = headers.get(shared.LEVEL), headers.get(shared.TIMEOUT)
    names = ("w", "pw") if writes else ("r", "pr")
    nodes, owners = (query.get(name) for name in names)
    strict = query.get("strict")
    if level is None and timeout is None and nodes is None and owners is None and strict is None:
        return PLAIN
    if level is not None:
        if nodes is not None:
            raise InvalidQueryError(
                f"{names[0]} and the header {shared.LEVEL} are both given; give one of them"
            )
        nodes = _level(level)
    return Wish(nodes, owners, strict, None if timeout is None else shared.seconds(timeout))


def _level(text: str) -> str:
    word = text.strip().upper()
    if word not in Level.__members__:
        raise LevelError(
            f"the consistency level {text.strip()[:40]!r} cannot be met here: this keyspace is "
            f"leaderless; give one of {', '.join(Level)}"
        )
    return word
