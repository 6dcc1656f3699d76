"""What a shard's machine refuses: the client's errors of the strong regime.

Inside the machine a refusal is an exception, because it has to undo an open write; apply turns it
into a Failure (results.py), whose code is the code of its class here. The outer edges translate by
that code. All but WrongShardError are InvalidRequestError; anything else that is raised while an
entry is applied is a fault of this replica and stops the node.

Messages are part of the answer that every replica gives: they may depend on the command and on the
replicated state, on nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from raftgroups.txnref import TxnRef
from storage.errors import InvalidRequestError, Outcome, StorageError


class UnknownCommandError(InvalidRequestError):
    """Bytes that no version of JanusKV writes as a command."""

    code = "unknown_command"


class NewerCommandError(StorageError):
    """A command of a later version. It is never answered: the replicas that know it execute it, so
    a replica that does not must stop rather than pass it over."""

    code = "newer_command"


class ReplicaAheadError(StorageError):
    """The data of a replica holds more of the log than its group knows of: they do not belong
    together."""

    code = "replica_ahead"


class ReplicaBehindError(StorageError):
    """A replica that a merge takes for granted is not here as it should be: this node cannot do
    what the others do, and must stop."""

    code = "replica_behind"


class TokenTooOldError(InvalidRequestError):
    """The answer to this idempotency token is no longer remembered, so nobody knows whether it was
    executed. It is not executed now."""

    code = "token_too_old"
    outcome = Outcome.UNKNOWN


class AnswerNotKeptError(InvalidRequestError):
    """The token was executed, at the revision that the message names; the answer was too large to
    be remembered. (An outcome of NONE would say that nothing was done.)"""

    code = "answer_not_kept"
    outcome = Outcome.UNKNOWN


class InvalidTokenError(InvalidRequestError):
    code = "invalid_token"


class MergeOverError(InvalidRequestError):
    """The attempt to merge that this command belongs to is not under way: it was given up, or it is
    done, or it never began here."""

    code = "merge_over"


class NotNowError(InvalidRequestError):
    """A split or a merge that the present state of the shard does not allow."""

    code = "not_now"


class LeaseNotFoundError(InvalidRequestError):
    code = "lease_not_found"


class LeaseFencedError(InvalidRequestError):
    """The leases were looked at in an epoch of their home after which some have ended. Nothing was
    done; look again, and try again."""

    code = "lease_fenced"
    retryable = True


class LockedError(InvalidRequestError):
    """A transaction over several shards holds what this would change, or wants to change what this
    reads. Nothing was done; see what becomes of `holders` (twophase.py), and try again."""

    code = "locked"
    retryable = True

    def __init__(self, message: str, holders: Sequence[TxnRef] = ()) -> None:
        super().__init__(message)
        self.holders = tuple(holders)


class TooManyTransactionsError(InvalidRequestError):
    """So many transactions over several shards hold locks here that there is no room for more."""

    code = "too_many_transactions"
    retryable = True


class LeaseExistsError(InvalidRequestError):
    code = "lease_exists"


class TtlTooLargeError(InvalidRequestError):
    code = "ttl_too_large"


class KeyNotFoundError(InvalidRequestError):
    """A put that keeps the old value or lease of a key that does not exist."""

    code = "key_not_found"


class ValueProvidedError(InvalidRequestError):
    code = "value_provided"


class LeaseProvidedError(InvalidRequestError):
    code = "lease_provided"


class TooManyOperationsError(InvalidRequestError):
    code = "too_many_operations"


class DuplicateKeyError(InvalidRequestError):
    """Two operations of one transaction write the same key."""

    code = "duplicate_key"


class InvalidSortError(InvalidRequestError):
    code = "invalid_sort"


class NotAnIntegerError(InvalidRequestError):
    code = "not_an_integer"


class IntegerOverflowError(InvalidRequestError):
    code = "integer_overflow"
