"""What the REST face refuses itself, and the one table from errors to HTTP. Pure.

Every error body is an `ErrorBody` (bodies.py): code, sentence, outcome, whether the same call may
succeed later; some carry a field more. The rule of the statuses:

    4xx   the caller's: nothing was done, and the same call will not succeed (429: it will, later).
          409 token_too_old and answer_not_kept say `unknown`: the first try may have been done
    503   surely not done: retry freely
    504   may have happened: read before retrying, or retry with the same Idempotency-Key

An error that is no JanusError is a defect. It is answered 500, and says `unknown` unless the call
could not have changed anything.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from kv.api.bodies import ErrorBody
from kv.api.reply import JSON, Reply
from kv.errors import OverloadedError
from kv.leaderless.quorum import WriteQuorumError
from storage.errors import CompactedError, InvalidRequestError, JanusError, Outcome

REQUEST_MAX_BYTES: Final = 1536 * 1024


class InvalidBodyError(InvalidRequestError):
    code = "invalid_body"


class InvalidQueryError(InvalidRequestError):
    code = "invalid_query"


class InvalidHeaderError(InvalidRequestError):
    code = "invalid_header"


class InvalidPathError(InvalidRequestError):
    code = "invalid_path"


class InvalidCursorError(InvalidRequestError):
    code = "invalid_cursor"


class BodyTooLargeError(InvalidRequestError):
    code = "body_too_large"


class AnswerTooLargeError(InvalidRequestError):
    code = "answer_too_large"


class NoSuchRouteError(InvalidRequestError):
    code = "no_such_route"

    def __init__(self, message: str, near: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.near = near


class MethodNotAllowedError(InvalidRequestError):
    code = "method_not_allowed"

    def __init__(self, message: str, allowed: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.allowed = allowed


class OriginRefusedError(InvalidRequestError):
    code = "origin_refused"


class HostRefusedError(InvalidRequestError):
    code = "host_refused"


class VersionedError(InvalidRequestError):
    """The state is not what the caller required. `version` is what the key has; 0: it is absent."""

    def __init__(self, message: str, version: int = 0) -> None:
        super().__init__(message)
        self.version = version


class KeyExistsError(VersionedError):
    code = "key_exists"


class VersionMismatchError(VersionedError):
    code = "version_mismatch"


class TokenReusedError(InvalidRequestError):
    """An idempotency token that belongs to another request already."""

    code = "token_reused"


class LockHeldError(JanusError):
    """Somebody else had the lock for as long as the caller would wait."""

    code = "lock_held"
    retryable = True


class LockLostError(JanusError):
    """The lease of a waiting caller ended, so it lost its place in the queue."""

    code = "lock_lost"
    retryable = True


class ServerDefectError(JanusError):
    """Something that nobody foresaw; the log of this node has it."""

    code = "internal"


_STATUS: Final[dict[str, int]] = {
    "origin_refused": 403,
    "host_refused": 403,
    "no_such_route": 404,
    "key_not_found": 404,
    "lease_not_found": 404,
    "keyspace_not_found": 404,
    "no_such_node": 404,
    "no_such_shard": 404,
    "no_such_operation": 404,
    "method_not_allowed": 405,
    "key_exists": 409,
    "keyspace_exists": 409,
    "node_in_use": 409,
    "shard_busy": 409,
    "stale_epoch": 409,
    "stale_step": 409,
    "lease_exists": 409,
    "shard_not_there": 409,
    "too_few_nodes": 409,
    "majority_lost": 409,
    "lock_held": 409,
    "lock_lost": 409,
    "answer_not_kept": 409,
    "has_siblings": 409,
    "not_a_counter": 409,
    "too_many_siblings": 409,
    "token_reused": 409,
    "token_too_old": 409,
    "compacted": 410,
    "version_mismatch": 412,
    "body_too_large": 413,
    "value_too_large": 413,
    "overloaded": 429,
    "internal": 500,
    "no_space": 507,
    "quota_exceeded": 507,
}
"""Codes with a status of their own."""

STATUSES: Final = tuple(sorted({*_STATUS.values(), 400, 503, 504}))
RETRY_LATER_S: Final = 1


def status_of(error: JanusError) -> int:
    own = _STATUS.get(error.code)
    if own is not None:
        return own
    if error.outcome is Outcome.UNKNOWN:
        return 504
    if isinstance(error, InvalidRequestError):
        return 400
    return 503 if error.retryable else 500


def outcome_of(error: JanusError) -> Literal["none", "unknown"]:
    return "unknown" if error.outcome is Outcome.UNKNOWN else "none"


def error_reply(error: JanusError) -> Reply:
    """The answer to a call that failed."""
    body = ErrorBody(error.code, str(error), outcome_of(error), error.retryable)
    headers: tuple[tuple[str, str], ...] = ()
    status = status_of(error)
    if isinstance(error, CompactedError):
        body.compact_revision = error.compact_revision
    elif isinstance(error, VersionedError):
        body.version = error.version
    elif isinstance(error, WriteQuorumError):
        body.got, body.required = error.got, error.required
    elif isinstance(error, NoSuchRouteError):
        body.near = list(error.near)
    elif isinstance(error, MethodNotAllowedError):
        headers = (("Allow", ", ".join(error.allowed)),)
    elif isinstance(error, OverloadedError):
        headers = (("Retry-After", str(max(1, round(error.retry_after_s)))),)
    elif status in (503, 507):
        headers = (("Retry-After", str(RETRY_LATER_S)),)
    return Reply(status, msgspec.json.encode(body), JSON, headers=headers)


def defect_reply(method: str) -> Reply:
    """The answer to a call that ran into a defect; the caller has logged it."""
    safe = method in ("GET", "HEAD", "OPTIONS")
    body = ErrorBody(
        ServerDefectError.code,
        "this node ran into a defect, which its log describes; "
        + (
            "nothing was changed" if safe else "the call may have taken effect: read before a retry"
        ),
        "none" if safe else "unknown",
        False,
    )
    return Reply(500, msgspec.json.encode(body), JSON)
