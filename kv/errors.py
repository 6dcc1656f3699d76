"""What a node answers when it cannot do what was asked: the errors of the kv layer.

The outer edges (kv/api, kv/etcd) translate by code and by outcome, one table each. The rule behind
the outcomes: NONE says that the operation surely had no effect and never will have one.
"""

from __future__ import annotations

from raftgroups.meta.refusals import KeyspaceNotFoundError as KeyspaceNotFoundError
from storage.errors import InvalidRequestError, JanusError, Outcome


class UnavailableError(JanusError):
    """No leader or no majority could be reached in time. Nothing was done."""

    code = "unavailable"
    retryable = True


class OutcomeUnknownError(JanusError):
    """The write was sent on its way and nobody knows whether it took effect. A client that gave an
    idempotency token may simply ask again; any other has to read."""

    code = "outcome_unknown"
    retryable = False
    outcome = Outcome.UNKNOWN


class OverloadedError(JanusError):
    """Refused early because a queue is full. Nothing was done; ask again after `retry_after_s`."""

    code = "overloaded"
    retryable = True

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QuotaExceededError(JanusError):
    """The keyspace has as much as it may have. Nothing was done; deletes go on."""

    code = "quota_exceeded"


class StoppingError(JanusError):
    """This node is about to stop; another one will serve the call. Nothing was done."""

    code = "stopping"
    retryable = True


class WrongRegimeError(InvalidRequestError):
    """The keyspace's regime has no such operation."""

    code = "wrong_regime"
