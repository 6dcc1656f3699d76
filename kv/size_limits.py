"""A node's own limits on keys, values and transactions, where its config sets them narrower than
what every replica takes. Pure.

They are a door's rule, not the machine's: what one node refuses another may take, and what is
stored stays readable and deletable whatever they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from raftgroups.commands import BatchWrite, Cas, Command, Increment, Put, Txn, UnderLease
from raftgroups.refusals import TooManyOperationsError
from raftgroups.txn import MAX_OPERATIONS
from storage.codec import KEY_MAX_BYTES, VALUE_MAX_BYTES
from storage.errors import KeyTooLongError, ValueTooLargeError

TXN_OPERATIONS_MAX: Final = MAX_OPERATIONS


@dataclass(frozen=True, slots=True)
class SizeLimits:
    key_bytes: int = KEY_MAX_BYTES
    value_bytes: int = VALUE_MAX_BYTES
    txn_operations: int = TXN_OPERATIONS_MAX
    """Of each list of a transaction: its conditions, and either branch with those nested in it."""

    def narrowed(self) -> SizeLimits | None:
        """None: nothing to check beyond what is checked of every command."""
        return None if self == WIDEST else self

    def check(self, command: Command) -> None:
        """Raises KeyTooLongError, ValueTooLargeError, TooManyOperationsError."""
        if isinstance(command, UnderLease):
            self.check(command.command)
            return
        if isinstance(command, Txn):
            self._check_length(command)
        for key, value in _written(command):
            self.check_pair(key, value)

    def check_pair(self, key: bytes, value: bytes) -> None:
        if len(key) > self.key_bytes:
            raise KeyTooLongError(
                f"a key of {len(key)} bytes is over this node's limit of {self.key_bytes} "
                "(limits.key_bytes); shorten it"
            )
        if len(value) > self.value_bytes:
            raise ValueTooLargeError(
                f"a value of {len(value)} bytes is over this node's limit of {self.value_bytes} "
                "(limits.value_bytes); store it in parts"
            )

    def _check_length(self, txn: Txn) -> None:
        longest = _longest(txn)
        if longest > self.txn_operations:
            raise TooManyOperationsError(
                f"a list of {longest} conditions or operations is over this node's limit of "
                f"{self.txn_operations} (limits.txn_operations); make several transactions of it"
            )


WIDEST: Final = SizeLimits()


def _longest(txn: Txn) -> int:
    nested = [each for each in (*txn.then, *txn.otherwise) if isinstance(each, Txn)]
    own = max(len(txn.compares), len(txn.then), len(txn.otherwise))
    return own + max((_longest(each) for each in nested), default=0)


def _written(command: Command) -> Iterator[tuple[bytes, bytes]]:
    if isinstance(command, Put):
        yield command.key, command.value
    elif isinstance(command, Cas):
        yield command.key, command.value or b""
    elif isinstance(command, Increment):
        yield command.key, b""
    elif isinstance(command, BatchWrite):
        for write in command.operations:
            yield from _written(write)
    elif isinstance(command, Txn):
        for operation in (*command.then, *command.otherwise):
            if isinstance(operation, Put | Txn):
                yield from _written(operation)
