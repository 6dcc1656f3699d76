"""Errors of a forwarded write as they travel back: by code, message, and the counts of a quorum.

A code that this node does not know (a newer peer) becomes the error of the same outcome as far as
that can be told: unknown, because a write may have been done. Pure.
"""

from __future__ import annotations

from typing import Final

from kv.errors import (
    KeyspaceNotFoundError,
    OutcomeUnknownError,
    OverloadedError,
    StoppingError,
)
from kv.leaderless.dvv import SiblingLimitError, StaleIncarnationError
from kv.leaderless.frames import ErrorBody
from kv.leaderless.quorum import LevelError, UnavailableError, WriteQuorumError
from kv.leaderless.rules import NoCounterError, ValueRuleError
from storage.errors import (
    EmptyKeyError,
    JanusError,
    KeyTooLongError,
    NoSpaceError,
    ValueTooLargeError,
)

_PLAIN: Final[dict[str, type[JanusError]]] = {
    error.code: error
    for error in (
        EmptyKeyError,
        KeyTooLongError,
        KeyspaceNotFoundError,
        LevelError,
        NoCounterError,
        NoSpaceError,
        OutcomeUnknownError,
        SiblingLimitError,
        StaleIncarnationError,
        StoppingError,
        UnavailableError,
        ValueRuleError,
        ValueTooLargeError,
    )
}


def body_of(error: JanusError) -> ErrorBody:
    if isinstance(error, WriteQuorumError):
        return ErrorBody(error.code, str(error), error.got, error.required)
    return ErrorBody(error.code, str(error), 0, 0)


def error_of(body: ErrorBody) -> JanusError:
    if body.code == WriteQuorumError.code:
        return WriteQuorumError(body.message, got=body.got, required=body.required)
    if body.code == OverloadedError.code:
        return OverloadedError(body.message)
    known = _PLAIN.get(body.code)
    if known is not None:
        return known(body.message)
    return OutcomeUnknownError(
        f"another node answered {body.code!r}, which this one does not know: {body.message}; read "
        "to find out whether the write was done"
    )
