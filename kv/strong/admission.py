"""What is refused before it enters a log: what the machine would refuse whatever its state, and
what would grow a disk that is nearly full. Pure.

The machine checks again, because it must not rest on every proposer; here a client learns sooner,
and the log is spared.
"""

from __future__ import annotations

from typing import Final

from raftgroups import txn as txns
from raftgroups.commands import (
    Absorb,
    BatchWrite,
    Cas,
    Command,
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
    PartOperation,
    Prepare,
    Push,
    Put,
    Range,
    Resolve,
    SetTtl,
    Split,
    Thaw,
    Tick,
    Txn,
    TxnOperation,
    UnderLease,
)
from storage.codec import KEY_MAX_BYTES, VALUE_MAX_BYTES, check_key, check_value
from storage.space import Purpose

_FREEING = (Delete, LeaseRevoke, LeaseEnd, Compact, Expire)
LINEAGE = (Split, MergeBegin, Freeze, Absorb, MergeAbort, Thaw, LeaseEnd, LeaseForget, UnderLease)
"""Those that a keyspace of one shard never needs."""
CROSS = (Prepare, Decide, Resolve, Push, Finish)
"""Those of transactions over several shards (raftgroups/twophase.py)."""
PLAIN_BYTES: Final = min(KEY_MAX_BYTES, VALUE_MAX_BYTES)
"""A put that has a key, and no more than this of key and value together, passes `check`."""
_NEUTRAL = (LeaseKeepAlive, Tick, SetTtl, Split, MergeBegin, Freeze, Absorb, MergeAbort, Thaw)


def check(command: Command) -> None:
    """Raises the error that the machine would answer in any state."""
    if type(command) is Put:
        if not 0 < len(command.key) <= KEY_MAX_BYTES:  # `check_key` has the words
            check_key(command.key)
        if len(command.value) > VALUE_MAX_BYTES:
            check_value(command.value)
    elif isinstance(command, Txn):
        txns.validate(command)
    elif isinstance(command, Cas):
        check_key(command.key)
        check_value(command.value or b"")
    elif isinstance(command, Increment | SetTtl):
        check_key(command.key)
    elif isinstance(command, UnderLease):
        check(command.command)


def purpose_of(command: Command) -> Purpose:
    """A transaction grows if anything in either branch may."""
    if type(command) is Put:  # by far the most frequent
        return Purpose.GROW
    if isinstance(command, UnderLease):
        return purpose_of(command.command)
    if isinstance(command, _FREEING):
        return Purpose.FREE
    if isinstance(command, (*_NEUTRAL, LeaseForget)):
        return Purpose.REPAIR
    if isinstance(command, Cas):
        return Purpose.FREE if command.value is None else Purpose.GROW
    if isinstance(command, BatchWrite):
        grows = any(purpose_of(each) is Purpose.GROW for each in command.operations)
        return Purpose.GROW if grows else Purpose.FREE
    if isinstance(command, CROSS):
        if not isinstance(command, Prepare):
            return Purpose.REPAIR  # what is begun must end
        grows = any(_grows(piece.operation) for piece in command.pieces)
        return Purpose.GROW if grows else Purpose.FREE
    if isinstance(command, Txn):
        operations = (*command.then, *command.otherwise)
        grows = any(_grows(each) for each in operations)
        return Purpose.GROW if grows else Purpose.FREE
    assert isinstance(command, Put | Increment | LeaseGrant)
    return Purpose.GROW


def _grows(operation: TxnOperation | PartOperation) -> bool:
    return not isinstance(operation, Range) and purpose_of(operation) is Purpose.GROW
