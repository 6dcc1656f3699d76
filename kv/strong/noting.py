"""Which key a read asks for: found by evaluating it up to its first look at the data.

Reads are closures and queries of several faces; what they have in common is the reader that they
are evaluated on. Of the few reads whose key is wanted (kv/division/meter.py) this costs a
microsecond each, and nothing of all others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from raftgroups.commands import Range, Txn
from storage.errors import JanusError


class _Noted(Exception):  # noqa: N818 - no error: it ends the evaluation
    pass


class NotingReader:
    """In the place of a ReplicaReader; the first look at it ends in `_Noted`."""

    __slots__ = ("key",)

    def __init__(self) -> None:
        self.key = b""

    def get(self, key: bytes, revision: int = 0) -> NoReturn:
        self.key = key
        raise _Noted

    def range(self, operation: Range) -> NoReturn:
        self.key = operation.key
        raise _Noted

    def read_txn(self, txn: Txn) -> NoReturn:
        self.key = next((getattr(each, "key", b"") for each in (*txn.compares, *txn.then)), b"")
        raise _Noted

    def __getattr__(self, name: str) -> NoReturn:
        raise _Noted


def key_of_read(evaluate: Callable[[Any], Any]) -> bytes:
    """Empty: it asks for no key."""
    reader = NotingReader()
    try:
        evaluate(reader)
    except (_Noted, JanusError):
        return reader.key
    return b""
