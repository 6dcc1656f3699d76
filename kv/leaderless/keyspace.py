"""What a leaderless keyspace promises: copies, quorums, the merge rule, its limits. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kv.leaderless.quorum import Level, Quorum
from kv.leaderless.rules import Rule, SetLimits


@dataclass(frozen=True, slots=True)
class Keyspace:
    """The same on every node: replicas and coordinators both go by it."""

    number: int = 1
    name: str = "default"
    rule: Rule = Rule.SIBLINGS
    n: int = 3
    r: int | str = Level.QUORUM
    w: int | str = Level.QUORUM
    pr: int | str = 0
    pw: int | str = 0
    strict: bool = False
    limits: SetLimits = field(default_factory=SetLimits)


class Keyspaces(dict[int, Keyspace]):
    """Those that a node serves, by number."""

    def __init__(self, first: Mapping[int, Keyspace]) -> None:
        super().__init__(first)
        self._copies = {number: each.n for number, each in first.items()}

    def put(self, keyspace: Keyspace) -> None:
        """A new one, or other options of one that there is."""
        assert self._copies.setdefault(keyspace.number, keyspace.n) == keyspace.n, "N stays"
        self[keyspace.number] = keyspace

    def drop(self, number: int) -> None:
        self.pop(number, None)

    def n_of(self, number: int) -> int:
        """Also of one that was served: work on it may be under way when it is dropped."""
        return self._copies[number]


@dataclass(frozen=True, slots=True)
class Wish:
    """What one request asks for beside what its keyspace says; None: as the keyspace says."""

    nodes: int | str | None = None
    """R or W."""
    owners: int | str | None = None
    """PR or PW."""
    strict: bool | None = None
    deadline_s: float | None = None


PLAIN = Wish()


def read_quorum(keyspace: Keyspace, wish: Wish, owners: int) -> Quorum:
    """`owners`: how many there are, N or fewer in a small cluster. Raises LevelError."""
    return Quorum.of(
        min(keyspace.n, owners),
        _fitting(keyspace.r, owners) if wish.nodes is None else wish.nodes,
        owners=_fitting(keyspace.pr, owners) if wish.owners is None else wish.owners,
        strict=keyspace.strict if wish.strict is None else wish.strict,
        name="R",
    )


def write_quorum(keyspace: Keyspace, wish: Wish, owners: int) -> Quorum:
    """As `read_quorum`."""
    return Quorum.of(
        min(keyspace.n, owners),
        _fitting(keyspace.w, owners) if wish.nodes is None else wish.nodes,
        owners=_fitting(keyspace.pw, owners) if wish.owners is None else wish.owners,
        strict=keyspace.strict if wish.strict is None else wish.strict,
        name="W",
    )


def _fitting(count: int | str, owners: int) -> int | str:
    """A keyspace's own number in a cluster that has fewer nodes than copies."""
    return min(count, owners) if isinstance(count, int) else count
