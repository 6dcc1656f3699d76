"""Which function executes which command in a shard's machine, and those that change keys. Pure.

    a plain Put        ShardMachine itself: by far the most frequent
    keys               here, by operations.py and txn.py
    leases, times      lifetimes.py
    splits, merges     lineage.py
    transactions over  twophase.py
    several shards

A handler is called with the machine between two write scopes, and leaves none open; what it raises
of REFUSALS has changed nothing. There is no other table: the command within an UnderLease is looked
up here, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from raftgroups import lifetimes, lineage, twophase
from raftgroups import txn as txns
from raftgroups.commands import (
    Absorb,
    BatchWrite,
    Cas,
    Compact,
    Decide,
    Delete,
    Expire,
    Finish,
    Freeze,
    Increment,
    LeaseEnd,
    LeaseForget,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseRevoke,
    MergeAbort,
    MergeBegin,
    Prepare,
    Push,
    Range,
    Resolve,
    SetTtl,
    Split,
    Thaw,
    Tick,
    Txn,
    UnderLease,
)
from raftgroups.operations import ConditionFailedError, run_batch
from raftgroups.results import (
    BatchResult,
    CasResult,
    CompactResult,
    DeleteResult,
    IncrementResult,
    Result,
    TxnResult,
)

if TYPE_CHECKING:
    from raftgroups.machine import ShardMachine


def delete(machine: ShardMachine, command: Delete) -> DeleteResult:
    return machine.in_scope(lambda operations: operations.delete(command))


def increment(machine: ShardMachine, command: Increment) -> IncrementResult:
    return machine.in_scope(lambda operations: operations.increment(command))


def compare_and_set(machine: ShardMachine, command: Cas) -> CasResult:
    return machine.in_scope(lambda operations: operations.compare_and_set(command))


def transact(machine: ShardMachine, command: Txn) -> TxnResult:
    """Without a scope if it takes a path that only reads."""
    txns.validate(command)
    view = machine.shard.view
    path = txns.choose(view, command)
    txns.check(view, command, path, machine.attachable)
    if all(isinstance(taken, Range) for taken in txns.taken_operations(command, path)):
        return txns.run(machine.operations(view), command, path)
    return machine.in_scope(lambda operations: txns.run(operations, command, path))


def write_batch(machine: ShardMachine, command: BatchWrite) -> BatchResult:
    try:
        return machine.in_scope(lambda operations: run_batch(operations, command))
    except ConditionFailedError as failed:
        revision = machine.shard.state.revision
        answer = CasResult(revision, False, failed.answer.current)
        return BatchResult(revision, failed.place, (answer,))


def compact(machine: ShardMachine, command: Compact) -> CompactResult:
    machine.shard.compact(command.revision)
    return CompactResult(machine.shard.state.revision)


HANDLERS: Final[dict[type, Callable[[ShardMachine, Any], Result]]] = {
    Delete: delete,
    Txn: transact,
    Compact: compact,
    LeaseGrant: lifetimes.grant,
    LeaseRevoke: lifetimes.revoke,
    LeaseKeepAlive: lifetimes.keep_alive,
    Tick: lifetimes.tick,
    Expire: lifetimes.expire,
    SetTtl: lifetimes.set_ttl,
    Increment: increment,
    Cas: compare_and_set,
    BatchWrite: write_batch,
    Split: lineage.split,
    MergeBegin: lineage.begin_merge,
    Freeze: lineage.freeze,
    Absorb: lineage.absorb,
    MergeAbort: lineage.abort_merge,
    Thaw: lineage.thaw,
    LeaseEnd: lifetimes.end_leases,
    LeaseForget: lifetimes.forget_leases,
    UnderLease: lifetimes.under_lease,
    Prepare: twophase.prepare,
    Decide: twophase.decide,
    Resolve: twophase.resolve,
    Push: twophase.push,
    Finish: twophase.finish,
}
