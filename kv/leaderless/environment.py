"""The leaderless environment of a real node: its engine, its commits, and the regime over them.

    DATA/leaderless -> engine -> committer (writer, watchdog) -> Leaderless (assembly.py)

It stands beside the strong one in the same data directory and shares node id, link and clock with
it, nothing else: each has its own engine and its own synced batches. Fatal conditions go to the
node's `on_broken` and `on_hung`, which end the process. stand.py makes one where there is a ring.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from kv.cluster.mail import Notes
from kv.cluster.ring import DEFAULT_VNODES, Member
from kv.leaderless.assembly import Leaderless
from kv.leaderless.handoff import HandoffSettings
from kv.leaderless.keyspace import Keyspace
from kv.leaderless.maintenance import MaintenanceSettings
from kv.leaderless.members import MemberSettings
from kv.leaderless.parts import CoordinatorSettings
from kv.leaderless.replica import ReplicaLimits
from raftgroups.transport import Link, NodeId
from storage.clock import Clock
from storage.committer import Committer, SyncWatchdog
from storage.datadir import DataDirectory, RegimeName
from storage.engine import Engine, WritePressure
from storage.environment import ROCKSDB, EngineSettings, open_engine, pressure_of
from storage.errors import JanusError
from storage.space import SpaceGuard
from storage.writers import AdaptiveWriter

FIRST_KEYSPACE = Keyspace(r=2, w=2)


@dataclass(frozen=True, slots=True)
class LeaderlessSettings:
    engine: str = ROCKSDB
    engine_settings: EngineSettings = field(default_factory=EngineSettings)
    default: Keyspace = FIRST_KEYSPACE
    """The keyspace `default` where it is leaderless, when the cluster is formed."""
    vnodes: int = DEFAULT_VNODES
    """Of a node of weight 1.0."""
    coordinator: CoordinatorSettings = field(default_factory=CoordinatorSettings)
    handoff: HandoffSettings = field(default_factory=HandoffSettings)
    limits: ReplicaLimits = field(default_factory=ReplicaLimits)
    members: MemberSettings = field(default_factory=MemberSettings)
    maintenance: MaintenanceSettings = field(default_factory=MaintenanceSettings)
    sync_fatal_s: float = 10.0
    keep_restored: bool = False
    """Serve what a restored directory holds: only when all nodes were restored together."""


class LeftRingError(JanusError):
    """The other nodes go on without this one."""

    code = "left_ring"


class LeaderlessEnvironment:
    def __init__(
        self,
        settings: LeaderlessSettings,
        directory: DataDirectory,
        *,
        link: Link,
        post: Notes,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        reserve_bytes: int,
        on_broken: Callable[[BaseException], None],
        on_hung: Callable[[float], None],
        on_dead: Callable[[str], None],
        wrap: Callable[[Engine], Engine] | None = None,
    ) -> None:
        """Opens the engine; raises what it refuses. Nothing runs yet. `wrap`: see kv/faulty.py."""
        self.engine = open_engine(
            directory,
            RegimeName.LEADERLESS,
            settings.engine,
            clock=clock,
            settings=settings.engine_settings,
        )
        if wrap is not None:
            self.engine = wrap(self.engine)
        self.writer = AdaptiveWriter(
            clock,
            loop.call_soon_threadsafe,
            under_pressure=lambda: pressure_of(self.engine) is not WritePressure.NONE,
        )
        self.committer = Committer(self.engine, self.writer, loop, clock, on_fatal=on_broken)
        self.watchdog = SyncWatchdog(
            self.committer, clock, on_hung, fatal_after_s=settings.sync_fatal_s
        )
        self.guard = SpaceGuard(reserve_bytes)
        self.regime = Leaderless(
            node=NodeId(directory.identity.node_id),
            directory_incarnation=directory.identity.incarnation,
            engine=self.engine,
            committer=self.committer,
            link=link,
            post=post,
            clock=clock,
            scheduler=loop,
            rng=random.Random(os.urandom(16)),
            keyspaces={},
            guard=self.guard,
            limits=settings.limits,
            settings=settings.coordinator,
            handoff=settings.handoff,
            members=settings.members,
            maintenance=settings.maintenance,
            keep_restored=settings.keep_restored,
            on_dead=on_dead,
        )

    def start(self, founders: Iterable[NodeId] | None, ring: Iterable[Member] = ()) -> None:
        """As in assembly.py."""
        self.look_at_space()
        self.watchdog.start()
        self.regime.start(founders, ring)

    def look_at_space(self) -> None:
        """Every second or so."""
        self.guard.observe(self.engine.statistics())
        self.engine.expire_snapshots()

    def stop(self) -> None:
        """Nothing new is taken and everything asked of others is answered; then `close`."""
        self.regime.stop()

    def close(self) -> None:
        """After the link, so that the last answers left."""
        self.committer.stop()
        self.watchdog.close()
        self.writer.close()
        self.engine.close()
