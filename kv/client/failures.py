"""What a call can end in: errors of servers as typed errors, and the client's own. Pure.

A server's error body names a code; the class with that code is raised here, the same class that the
server raised, so a program catches `KeyNotFoundError` wherever it runs. A code that this version
does not know becomes UnknownServerError. Whatever the class says of itself, the body's `outcome`
and `retryable` win: an error that may have happened never says `none` here, either.

    reply (status, headers, body) --refusal_of--> Refusal --error_of--> JanusError
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from kv.api import failures as api
from kv.api.bodies import ErrorBody
from kv.api.writes import NotDoneError
from kv.client.replies import Reply
from kv.errors import (
    KeyspaceNotFoundError,
    OutcomeUnknownError,
    OverloadedError,
    StoppingError,
    UnavailableError,
    WrongRegimeError,
)
from kv.leaderless import context, dvv, get_core, quorum, rules
from kv.model import InvalidLevelError, InvalidSessionError
from raftgroups import refusals
from storage import errors as base
from storage.errors import CompactedError, JanusError, Outcome


class UnknownServerError(JanusError):
    """A server's error that this version has no class for, or no JanusKV server at all."""

    code = "unknown_server_error"

    def __init__(self, message: str, server_code: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.server_code = server_code
        self.status = status


class InvalidEndpointError(base.InvalidOptionError):
    """An address that is none. Nothing was sent."""


class ClientClosedError(JanusError):
    """The client was closed. Nothing was sent."""

    code = "client_closed"


class MalformedReplyError(JanusError):
    """A server answered what this client does not understand."""

    code = "malformed_reply"
    outcome = Outcome.UNKNOWN


class LeaseLostError(JanusError):
    """A lease that was to be kept alive has ended, or may have: it could not be renewed in time.
    What hangs on it is gone, or will be."""

    code = "lease_lost"


class WatchEndedError(JanusError):
    """A server refused to go on with a watch, for a reason that another server will also have."""

    code = "watch_ended"


class Refusal(NamedTuple):
    """A reply that is no answer."""

    status: int
    code: str
    message: str
    unknown: bool
    """It may have taken effect."""
    retryable: bool
    retry_after_s: float = 0.0
    version: int = 0
    compact_revision: int = 0
    got: int = 0
    required: int = 0


def _classes() -> dict[str, type[JanusError]]:
    found: list[type[JanusError]] = [
        KeyspaceNotFoundError,
        OutcomeUnknownError,
        StoppingError,
        UnavailableError,
        WrongRegimeError,
        InvalidLevelError,
        InvalidSessionError,
        NotDoneError,
        UnknownServerError,
    ]
    for module in (base, refusals, api, context, dvv, get_core, quorum, rules):
        found += [
            each
            for each in vars(module).values()
            if isinstance(each, type) and issubclass(each, JanusError)
        ]
    known: dict[str, type[JanusError]] = {}
    for each in found:
        if each.__init__ in (Exception.__init__, JanusError.__init__, api.VersionedError.__init__):
            known.setdefault(each.code, each)
    known["invalid_request"] = base.InvalidRequestError
    known["internal"] = api.ServerDefectError
    return known


KNOWN: Final = _classes()
"""By code: those that are made of a message alone (or of a message and a version)."""

_exact: Final[dict[tuple[str, str, Outcome, bool], type[JanusError]]] = {}
_body: Final = msgspec.json.Decoder(ErrorBody)


def refusal_of(reply: Reply) -> Refusal:
    """Of a reply with a status of 400 or more."""
    status = reply.status
    after_s = _seconds(reply.headers.get("Retry-After"))
    try:
        body = _body.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = reply.body[:200].decode(errors="replace").strip()
        return Refusal(
            status,
            "",
            f"the server answered {status} with what is no JanusKV error: {text!r}; check the "
            "address",
            unknown=status >= 500,
            retryable=status in (502, 503, 504),
            retry_after_s=after_s,
        )
    return refusal_of_body(body, status, after_s)


def refusal_of_body(body: ErrorBody, status: int = 0, after_s: float = 0.0) -> Refusal:
    return Refusal(
        status,
        body.error,
        body.message,
        body.outcome == "unknown",
        body.retryable,
        after_s,
        body.version or 0,
        body.compact_revision or 0,
        body.got or 0,
        body.required or 0,
    )


def _seconds(text: str | None) -> float:
    return float(text) if text is not None and text.isascii() and text.isdigit() else 0.0


def error_of(refusal: Refusal) -> JanusError:
    outcome = Outcome.UNKNOWN if refusal.unknown else Outcome.NONE
    kind: type[JanusError]
    if refusal.code == CompactedError.code:
        return CompactedError(refusal.message, refusal.compact_revision)
    if refusal.code == OverloadedError.code:
        return OverloadedError(refusal.message, refusal.retry_after_s)
    if refusal.code == quorum.WriteQuorumError.code:
        return quorum.WriteQuorumError(refusal.message, got=refusal.got, required=refusal.required)
    kind = KNOWN.get(refusal.code, UnknownServerError)
    exact = _exactly(kind, outcome, refusal.retryable)
    if issubclass(exact, UnknownServerError):
        return exact(refusal.message, refusal.code, refusal.status)
    if issubclass(exact, api.VersionedError):
        return exact(refusal.message, refusal.version)
    return exact(refusal.message)


def _exactly(kind: type[JanusError], outcome: Outcome, retryable: bool) -> type[JanusError]:
    """The class, or a sub-class of the same name that says what the server said."""
    if kind.outcome is outcome and kind.retryable is retryable:
        return kind
    known = _exact.get((kind.__module__, kind.__name__, outcome, retryable))
    if known is None:
        known = type(kind.__name__, (kind,), {"outcome": outcome, "retryable": retryable})
        _exact[kind.__module__, kind.__name__, outcome, retryable] = known
    return known
