"""From JanusKV's errors to etcd's: the one table of this edge. Pure.

    error -> (message, gRPC code) -> HTTP status and body

Clients of etcd match on the message and the code, so where etcd has an error of its own for what
happened, its words are given; everything else keeps ours, with the code that fits. The HTTP status
follows from the code alone. A write whose outcome is not known answers what etcd answers then, a
timeout.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, Final, NamedTuple

import msgspec

from storage.errors import InvalidRequestError, JanusError, Outcome


class Grpc(IntEnum):
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


HTTP_STATUS: Final[dict[Grpc, tuple[int, str]]] = {
    Grpc.UNKNOWN: (500, "Internal Server Error"),
    Grpc.INVALID_ARGUMENT: (400, "Bad Request"),
    Grpc.DEADLINE_EXCEEDED: (504, "Gateway Timeout"),
    Grpc.NOT_FOUND: (404, "Not Found"),
    Grpc.ALREADY_EXISTS: (409, "Conflict"),
    Grpc.PERMISSION_DENIED: (403, "Forbidden"),
    Grpc.RESOURCE_EXHAUSTED: (429, "Too Many Requests"),
    Grpc.FAILED_PRECONDITION: (400, "Bad Request"),
    Grpc.ABORTED: (409, "Conflict"),
    Grpc.OUT_OF_RANGE: (400, "Bad Request"),
    Grpc.UNIMPLEMENTED: (501, "Not Implemented"),
    Grpc.INTERNAL: (500, "Internal Server Error"),
    Grpc.UNAVAILABLE: (503, "Service Unavailable"),
    Grpc.DATA_LOSS: (500, "Internal Server Error"),
    Grpc.UNAUTHENTICATED: (401, "Unauthorized"),
}


class EtcdError(JanusError):
    """An error that only this edge has, in etcd's words already."""

    code: ClassVar[str] = "etcd"

    def __init__(self, grpc: Grpc, message: str) -> None:
        super().__init__(message)
        self.grpc = grpc


class RequestTooLargeError(InvalidRequestError):
    code = "request_too_large"


class GrpcAnswer(NamedTuple):
    message: str
    grpc: Grpc


_INVALID: Final = Grpc.INVALID_ARGUMENT
_PRECONDITION: Final = Grpc.FAILED_PRECONDITION
_RANGE: Final = Grpc.OUT_OF_RANGE
_OWN: Final = ""
"""Our own words: etcd has no such error."""

# By the code of the error's class.
_TABLE: Final[dict[str, tuple[str, Grpc]]] = {
    "empty_key": ("etcdserver: key is not provided", _INVALID),
    "key_not_found": ("etcdserver: key not found", _INVALID),
    "value_provided": ("etcdserver: value is provided", _INVALID),
    "lease_provided": ("etcdserver: lease is provided", _INVALID),
    "too_many_operations": ("etcdserver: too many operations in txn request", _INVALID),
    "duplicate_key": ("etcdserver: duplicate key given in txn request", _INVALID),
    "invalid_sort": ("etcdserver: invalid sort option", _INVALID),
    "value_too_large": ("etcdserver: request is too large", _INVALID),
    "request_too_large": ("etcdserver: request is too large", _INVALID),
    "compacted": ("etcdserver: mvcc: required revision has been compacted", _RANGE),
    "future_revision": ("etcdserver: mvcc: required revision is a future revision", _RANGE),
    "ttl_too_large": ("etcdserver: too large lease TTL", _RANGE),
    "lease_not_found": ("etcdserver: requested lease not found", Grpc.NOT_FOUND),
    "lease_exists": ("etcdserver: lease already exists", _PRECONDITION),
    "no_space": ("etcdserver: mvcc: database space exceeded", Grpc.RESOURCE_EXHAUSTED),
    "overloaded": ("etcdserver: too many requests", Grpc.RESOURCE_EXHAUSTED),
    "unavailable": ("etcdserver: no leader", Grpc.UNAVAILABLE),
    "stopping": ("etcdserver: server stopped", Grpc.UNAVAILABLE),
    "outcome_unknown": ("etcdserver: request timed out", Grpc.UNAVAILABLE),
    "corrupt_record": ("etcdserver: corrupt cluster", Grpc.DATA_LOSS),
    # Ours.
    "wrong_shard": (_OWN, _PRECONDITION),
    "wrong_regime": (_OWN, Grpc.UNIMPLEMENTED),
    "keyspace_not_found": (_OWN, Grpc.NOT_FOUND),
}
TIMED_OUT: Final = "etcdserver: request timed out"


def answer_of(error: JanusError) -> GrpcAnswer:
    if isinstance(error, EtcdError):
        return GrpcAnswer(str(error), error.grpc)
    found = _TABLE.get(error.code)
    if found is not None:
        message, grpc = found
        return GrpcAnswer(message or str(error), grpc)
    if error.outcome is Outcome.UNKNOWN:
        return GrpcAnswer(TIMED_OUT, Grpc.UNAVAILABLE)
    if isinstance(error, InvalidRequestError):
        return GrpcAnswer(str(error), _INVALID)
    return GrpcAnswer(str(error), Grpc.UNAVAILABLE if error.retryable else Grpc.INTERNAL)


def encode_error(error: JanusError) -> tuple[int, bytes]:
    """(HTTP status, body) of a call that failed."""
    return encode_answer(answer_of(error))


def encode_answer(answer: GrpcAnswer) -> tuple[int, bytes]:
    message, grpc = answer
    body = {"error": message, "code": int(grpc), "message": message}
    return HTTP_STATUS[grpc][0], msgspec.json.encode(body)


def encode_stream_error(error: JanusError) -> bytes:
    """The last message of a stream that had begun to answer."""
    message, grpc = answer_of(error)
    status, words = HTTP_STATUS[grpc]
    shown = {
        "grpc_code": int(grpc),
        "http_code": status,
        "message": message,
        "http_status": words,
    }
    return msgspec.json.encode({"error": shown}) + b"\n"


def as_unknown(error: JanusError) -> EtcdError:
    """What etcd makes of any error inside its lock and election services, which are clients of
    their own server: the words stay, the code is lost."""
    return EtcdError(Grpc.UNKNOWN, answer_of(error).message)
