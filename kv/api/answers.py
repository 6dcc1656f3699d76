"""Is this the answer to that command? Only with an idempotency token may it not be. Pure.

A token that was used before gets the answer of its first use, whatever is asked now. If that was
another kind of request, the caller has mixed up its tokens and is told so; the same kind of request
for another key cannot be told apart, and gets the first one's answer.
"""

from __future__ import annotations

from typing import Final

from kv.api.failures import TokenReusedError
from kv.model import WriteOptions
from raftgroups.commands import (
    BatchWrite,
    Cas,
    Command,
    Compact,
    Delete,
    Increment,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseRevoke,
    Put,
    Range,
    SetTtl,
    Txn,
)
from raftgroups.results import (
    BatchResult,
    CasResult,
    CompactResult,
    DeleteResult,
    IncrementResult,
    KeepAliveResult,
    LeaseResult,
    PutResult,
    RangeAnswer,
    Result,
    TtlResult,
    TxnResult,
)

_RESULTS: Final[dict[type, type]] = {
    BatchWrite: BatchResult,
    Cas: CasResult,
    Compact: CompactResult,
    Delete: DeleteResult,
    Increment: IncrementResult,
    LeaseGrant: LeaseResult,
    LeaseKeepAlive: KeepAliveResult,
    LeaseRevoke: LeaseResult,
    Put: PutResult,
    Range: RangeAnswer,
    SetTtl: TtlResult,
    Txn: TxnResult,
}


def check_answer(command: Command, options: WriteOptions, result: Result) -> None:
    """Raises TokenReusedError."""
    if options.token is not None and not _fits(command, result):
        client, sequence, _ = options.token
        raise TokenReusedError(
            f"the Idempotency-Key {client.decode(errors='replace')}:{sequence} was used for "
            "another kind of request before, so this one was not done; give each request a "
            "sequence of its own"
        )


def _fits(command: Command, result: Result) -> bool:
    if type(result) is not _RESULTS[type(command)]:
        return False
    if isinstance(command, Txn):
        assert isinstance(result, TxnResult)
        branch = command.then if result.succeeded else command.otherwise
        return _alike(branch, result.responses)
    if isinstance(command, BatchWrite):
        assert isinstance(result, BatchResult)
        if result.failed >= 0:
            return result.failed < len(command.operations)
        return _alike(command.operations, result.results)
    if isinstance(command, LeaseKeepAlive):
        assert isinstance(result, KeepAliveResult)
        return len(result.ttls_s) == len(command.leases)
    return True


def _alike(operations: tuple[object, ...], answers: tuple[object, ...]) -> bool:
    return [_RESULTS[type(operation)] for operation in operations] == list(map(type, answers))
