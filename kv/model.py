"""What a request says beside what it wants: how fresh a read must be, until when, as whom. Pure.

The operations themselves are the commands of raftgroups/commands.py (strong) and what they answer
are the results of raftgroups/results.py; no second set of them exists here.

    Level            how fresh a read is: what was asked, and what a reply says was met
    SessionToken     shard -> revision: what a client has seen; a SESSION read is at least so new
    ReadOptions, WriteOptions
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from raftgroups.commands import Token
from storage.errors import InvalidOptionError, InvalidRequestError

DEFAULT_KEYSPACE: Final = "default"
REVISION_MAX: Final = 2**63 - 1
SHARDS_IN_TOKEN_MAX: Final = 4096


class Level(StrEnum):
    LINEARIZABLE = "LINEARIZABLE"
    """Sees every write that was acknowledged anywhere before the read began. Strong only."""
    SESSION = "SESSION"
    """Sees everything that the session token has seen."""
    EVENTUAL = "EVENTUAL"
    """Whatever the node that was asked has."""
    ONE = "ONE"
    QUORUM = "QUORUM"
    ALL = "ALL"


STRONG_LEVELS: Final = (Level.LINEARIZABLE, Level.SESSION, Level.EVENTUAL)


class InvalidLevelError(InvalidRequestError):
    code = "invalid_level"


class InvalidSessionError(InvalidRequestError):
    code = "invalid_session"


def parse_level(text: str, known: tuple[Level, ...] = STRONG_LEVELS) -> Level:
    """Whatever the case. Raises InvalidLevelError."""
    try:
        level = Level(text.strip().upper())
    except ValueError:
        level = None
    if level not in known:
        names = ", ".join(known)
        raise InvalidLevelError(
            f"the consistency level {text.strip()[:40]!r} cannot be met here; give one of {names}"
        )
    assert level is not None
    return level


@dataclass(frozen=True, slots=True)
class SessionToken:
    """As text `1:57,4:9`: at least revision 57 of shard 1 and 9 of shard 4. Clients pass it on as
    it is."""

    revisions: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> SessionToken:
        """Raises InvalidSessionError."""
        revisions: dict[int, int] = {}
        for part in text.split(",") if text.strip() else ():
            shard, colon, revision = part.strip().partition(":")
            if not (colon and _is_number(shard) and _is_number(revision)):
                raise InvalidSessionError(
                    f"the session token {text[:60]!r} is not one that a reply gave (shard:revision "
                    "pairs with commas); send back the one of the last reply, or none"
                )
            revisions[int(shard)] = max(int(revision), revisions.get(int(shard), 0))
        if len(revisions) > SHARDS_IN_TOKEN_MAX:
            raise InvalidSessionError(
                f"the session token names {len(revisions)} shards; begin anew"
            )
        return cls(revisions)

    def __str__(self) -> str:
        return ",".join(f"{shard}:{seen}" for shard, seen in sorted(self.revisions.items()))

    def saw(self, shard: int, revision: int) -> SessionToken:
        """The token of someone who has now seen this, too."""
        if self.revisions.get(shard, 0) >= revision:
            return self
        return SessionToken({**self.revisions, shard: revision})


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text[:20]) <= REVISION_MAX


NO_SESSION: Final = SessionToken()


@dataclass(frozen=True, slots=True)
class ReadOptions:
    level: Level = Level.LINEARIZABLE
    session: SessionToken = NO_SESSION
    deadline_s: float | None = None
    """Seconds from now; None is the node's default."""

    def __post_init__(self) -> None:
        check_deadline(self.deadline_s)


@dataclass(frozen=True, slots=True)
class WriteOptions:
    token: Token | None = None
    """Makes a retry answer what the first try answered (raftgroups/dedupe.py)."""
    deadline_s: float | None = None
    across: bool = False
    """A transaction or an atomic batch may touch several shards; else it is refused."""

    def __post_init__(self) -> None:
        check_deadline(self.deadline_s)


DEADLINE_MAX_S: Final = 300.0


def check_deadline(deadline_s: float | None) -> None:
    if deadline_s is not None and not 0 < deadline_s <= DEADLINE_MAX_S:
        raise InvalidOptionError(
            f"a deadline of {deadline_s} s is outside 0 to {DEADLINE_MAX_S:g} s; give one within"
        )


PLAIN_READ: Final = ReadOptions()
LOCAL_READ: Final = ReadOptions(level=Level.EVENTUAL)
PLAIN_WRITE: Final = WriteOptions()
