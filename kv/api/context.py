"""What the handlers of the REST face share: the regime, this node, settings.

No rules here; the composition root makes it, the tests make it over a machine of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from kv.api.admin_bodies import ClusterState, NodeStatus, RepairReply, RingState
from kv.api.failures import REQUEST_MAX_BYTES
from kv.api.guard import Access
from kv.api.keyspace_bodies import (
    CreateKeyspaceBody,
    KeyspaceShown,
    OptionsGiven,
    ShardOperation,
    ShardShown,
)
from kv.api.leaderless.face import Face
from kv.api.watching import encode_event
from kv.errors import KeyspaceNotFoundError, StoppingError, UnavailableError
from kv.model import DEFAULT_KEYSPACE
from kv.placement.service import PlacementService
from kv.regime import Strong
from kv.watch.watches import Watches
from raftgroups.lease import MINIMUM_TTL_S
from storage.clock import Clock, Rng

Observe = Callable[[str, str, int, float, str], None]
"""(route's template, method, status, seconds, level that was met or ""): called once a request, for
metrics."""


class Node(Protocol):
    """What the node can say about itself and its cluster."""

    def status(self) -> NodeStatus: ...

    async def cluster(self) -> ClusterState:
        """As far as it can be known in time: a node that does not answer is `unreachable`."""
        ...

    def ring(self) -> RingState:
        """Raises WrongRegimeError where nothing is leaderless."""
        ...

    def repair(self, done: Callable[[RepairReply], None]) -> bool:
        """False: too many repairs wait already. Raises WrongRegimeError."""
        ...

    async def transfer_leader(self, target: str | None, deadline_s: float | None) -> str:
        """The node that leads now. Raises JanusErrors."""
        ...


class Keyspaces(Protocol):
    """What operators do with keyspaces and shards (kv/meta/keyspace_admin.py). Raises
    JanusErrors."""

    async def look_anew(self) -> None: ...

    def all(self) -> list[KeyspaceShown]: ...

    def named(self, name: str) -> KeyspaceShown: ...

    def shards(self, name: str | None) -> list[ShardShown]: ...

    async def create(
        self, wanted: CreateKeyspaceBody, deadline_s: float | None
    ) -> KeyspaceShown: ...

    async def alter(
        self, name: str, wanted: OptionsGiven, deadline_s: float | None
    ) -> KeyspaceShown: ...

    async def drop(self, name: str, deadline_s: float | None) -> None: ...

    async def split(self, shard: int, key: bytes) -> tuple[ShardShown, ShardShown]: ...

    async def merge(self, left: int, right: int | None) -> ShardShown: ...

    async def end_merge(self, shard: int) -> ShardOperation: ...


@dataclass(frozen=True, slots=True)
class ApiSettings:
    access: Access = field(default_factory=Access)
    request_max_bytes: int = REQUEST_MAX_BYTES
    minimum_lease_ttl_s: int = MINIMUM_TTL_S


class Api:
    """Used from the node's loop only."""

    def __init__(
        self,
        strong: Strong,
        node: Node,
        *,
        clock: Clock,
        rng: Rng,
        settings: ApiSettings | None = None,
        observe: Observe | None = None,
        keyspaces: Keyspaces | None = None,
        others: Callable[[str], Strong | Face] | None = None,
        leaderless: Face | None = None,
        placement: PlacementService | None = None,
    ) -> None:
        """`leaderless`: the keyspace is of that regime, and is served from there.
        `placement`: nodes and replicas; None where there is only one replica, in tests."""
        self.strong: Final = strong
        self.node: Final = node
        self.clock: Final = clock
        self.rng: Final = rng
        self.settings: Final = settings or ApiSettings()
        self.observe: Final = observe
        self._keyspaces = keyspaces
        self._others = others
        self._by_served: dict[int, Api] = {}
        self.leaderless: Final = leaderless
        self.placement: Final = placement
        self._watches: Watches | None = None
        self._stopping = False

    @property
    def keyspaces(self) -> Keyspaces:
        if self._keyspaces is None:
            raise UnavailableError("this node has no map of keyspaces; ask another one")
        return self._keyspaces

    def of_keyspace(self, name: str) -> Api:
        """The same face over another keyspace. Raises KeyspaceNotFoundError."""
        if name == DEFAULT_KEYSPACE:
            return self
        if self._others is None:
            raise KeyspaceNotFoundError(
                f"there is no keyspace {name!a}; only {DEFAULT_KEYSPACE!r} exists"
            )
        served = self._others(name)
        found = self._by_served.get(id(served))
        if found is None:
            leaderless = served if isinstance(served, Face) else None
            found = self._by_served[id(served)] = Api(
                self.strong if isinstance(served, Face) else served,
                self.node,
                clock=self.clock,
                rng=self.rng,
                settings=self.settings,
                observe=self.observe,
                keyspaces=self._keyspaces,
                others=self._others,
                leaderless=leaderless,
                placement=self.placement,
            )
            if self._stopping:
                found.close()
        return found

    def shard(self, key: bytes = b"") -> int:
        """Where a key is, for session tokens; 0 while this node cannot know. Leases are where the
        first key is."""
        return self.strong.shard_of(key)

    def watches(self) -> Watches:
        """Raises StoppingError."""
        if self._stopping:
            raise StoppingError("this node is stopping; watch at another one")
        if self._watches is None:
            self._watches = self.strong.watches(encode_event)
        return self._watches

    def close(self) -> None:
        """No new watches; those that are there end with a reason."""
        self._stopping = True
        for other in self._by_served.values():
            other.close()
        if self._watches is not None:
            self._watches.close("this node is stopping; go on at another one")
