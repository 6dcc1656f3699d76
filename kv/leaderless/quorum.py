"""How many replicas a request asks for, and what is said when they are not reached.

N owners store a key. R and W say how many DISTINCT nodes must answer, PR and PW how many of them
must be owners. A number may be given as a level: ONE, QUORUM (more than half of N), ALL.

With a sloppy quorum, the default, nodes past the preference list stand in for owners that cannot be
reached; a strict one counts owners only. R + W > N makes a strict read see every write that was
acknowledged before it. That is not linearizability: concurrent writes stay siblings, and a write
that failed may still appear. This file is pure.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

import msgspec

from storage.errors import InvalidRequestError, JanusError, Outcome


class Level(StrEnum):
    ONE = "ONE"
    QUORUM = "QUORUM"
    ALL = "ALL"

    def of(self, n: int) -> int:
        return {Level.ONE: 1, Level.QUORUM: n // 2 + 1, Level.ALL: n}[self]


class LevelError(InvalidRequestError):
    """R, W or a level that cannot be: it names what can."""

    code = "invalid_level"


class UnavailableError(JanusError):
    """Too few replicas were reachable, and nothing was sent: surely nothing was done."""

    code = "unavailable"
    retryable: ClassVar[bool] = True


class ReadQuorumError(JanusError):
    """Too few replicas answered a read in time. A read has no effect."""

    code = "read_quorum"
    retryable: ClassVar[bool] = True


class WriteQuorumError(JanusError):
    """Some replicas have the write and too few said so in time: it may still appear."""

    code = "write_quorum"
    retryable: ClassVar[bool] = True
    outcome: ClassVar[Outcome] = Outcome.UNKNOWN

    def __init__(self, message: str, *, got: int, required: int) -> None:
        super().__init__(message)
        self.got = got
        self.required = required


class Quorum(msgspec.Struct, frozen=True, gc=False):
    """What one read, or one write, must reach. Invariant: 0 <= owners <= nodes <= n, nodes >= 1."""

    n: int
    nodes: int
    """R or W: distinct nodes."""
    owners: int = 0
    """PR or PW: how many of them must be owners."""
    strict: bool = False
    """Count owners only."""

    @classmethod
    def of(
        cls,
        n: int,
        wanted: int | str,
        *,
        owners: int | str = 0,
        strict: bool = False,
        name: str = "R",
    ) -> Quorum:
        """From what a request or a keyspace says. `name` is R or W, for the message."""
        nodes = parse_count(wanted, n, name=name, least=1)
        primary = parse_count(owners, n, name="P" + name, least=0)
        # PW=3 with W=2 means that three must answer.
        return cls(n, max(nodes, primary), primary, strict)


def parse_count(wanted: int | str, n: int, *, name: str, least: int) -> int:
    if isinstance(wanted, str):
        word = wanted.strip().upper()
        if word in Level.__members__:
            return Level[word].of(n)
        if not (word.isascii() and word.isdigit() and len(word) < 6):
            raise LevelError(
                f"{name}={wanted!r} is no level; give ONE, QUORUM, ALL or a number up to N={n}"
            )
        wanted = int(word)
    if not least <= wanted <= n:
        raise LevelError(f"{name}={wanted} is not between {least} and N={n} of this keyspace")
    return wanted


def level_met(n: int, answered: int) -> Level | None:
    """The highest level that this many distinct nodes amount to."""
    if answered >= n:
        return Level.ALL
    if answered > n // 2:
        return Level.QUORUM
    return Level.ONE if answered > 0 else None


def refuse_hopeless(quorum: Quorum, *, owners: int, others: int) -> None:
    """Before anything is sent: enough nodes must be thought alive. `others` are stand-ins."""
    nodes = owners if quorum.strict else owners + others
    if nodes < quorum.nodes or owners < quorum.owners:
        kind = "owners" if quorum.strict or owners < quorum.owners else "nodes"
        needed = quorum.owners if owners < quorum.owners else quorum.nodes
        have = owners if kind == "owners" else nodes
        raise UnavailableError(
            f"{have} {kind} of this key can be reached and {needed} are required; nothing was "
            "done; try again, or ask for a lower level"
        )
