"""What the gateway needs of the node, as values and callables: the seam to the composition root.

Nothing here knows HTTP. What a node cannot do (yet) is left None, and the calls that need it answer
that they are not implemented.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol

from kv.etcd.alarms import Alarms
from kv.etcd.auth import UserBook
from kv.regime import Strong
from raftgroups.lease import MINIMUM_TTL_S
from storage.clock import Rng

SERVER_VERSION: Final = "3.5.1"
"""The etcd whose answers these are. Clients take other paths for versions that they do not know."""
CLUSTER_VERSION: Final = "3.5.0"


def uint64_of(text: str) -> int:
    """The number that stands for a JanusKV id in etcd's protocol: the same on every node."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") or 1


class Member(NamedTuple):
    id: int
    name: str
    peer_urls: tuple[str, ...] = ()
    client_urls: tuple[str, ...] = ()
    is_learner: bool = False


class StatusNumbers(NamedTuple):
    """Of this node, now. `leader` is a member id, 0 while there is none."""

    leader: int
    raft_index: int
    raft_applied_index: int
    size_bytes: int
    """Of the store on the disk."""
    size_in_use_bytes: int
    is_learner: bool = False
    errors: tuple[str, ...] = ()
    has_replica: bool = True
    """False: this node has none of the keyspace, asks others, and knows no leader by itself."""


class SnapshotPart(NamedTuple):
    remaining_bytes: int
    """After this part."""
    blob: bytes


class MemberChanges(Protocol):
    """Raises a JanusError where it cannot be done. Each answers all members afterwards."""

    async def add(self, peer_urls: Sequence[str], is_learner: bool) -> Member: ...

    async def remove(self, member: int) -> None: ...

    async def update(self, member: int, peer_urls: Sequence[str]) -> None: ...

    async def promote(self, member: int) -> None: ...


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    request_bytes: int = 3 * 2**19
    """A call as a protocol message; etcd's default."""
    overhead_bytes: int = 2**19
    """What a message may have beyond that to be refused by a call and not by gRPC itself."""
    stream_message_bytes: int = 64 * 1024
    """One request within a stream."""
    watches_a_stream: int = 1_000
    health_deadline_s: float = 5.0
    gone_after_s: float = 0.25
    """How soon a client that hung up is noticed by a call that waits."""
    hash_keys_a_step: int = 1_000

    @property
    def message_bytes(self) -> int:
        """What gRPC takes at all."""
        return self.request_bytes + self.overhead_bytes

    @property
    def body_bytes(self) -> int:
        """Of HTTP: the same in base64, with room for names."""
        return 2 * self.message_bytes


@dataclass(frozen=True, slots=True)
class GatewayContext:
    strong: Strong
    cluster_id: int
    member_id: int
    members: Callable[[], Sequence[Member]]
    status: Callable[[], StatusNumbers]
    rng: Rng
    """Chooses lease ids."""
    snapshot: Callable[[], AsyncIterator[SnapshotPart]] | None = None
    change_members: MemberChanges | None = None
    transfer_leadership: Callable[[int], Awaitable[None]] | None = None
    alarms: Alarms = field(default_factory=Alarms)
    users: UserBook = field(default_factory=lambda: UserBook(read_only=True))
    minimum_ttl_s: int = MINIMUM_TTL_S
    any_origin: bool = False
    """Whether browsers of any origin may call, as with etcd."""
    limits: GatewayLimits = field(default_factory=GatewayLimits)
