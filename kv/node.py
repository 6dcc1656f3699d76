"""One node without its faces: the directory, the engine, the link, the group host, put together.

    data directory (locked, stamped) -> engine -> committer -> link -> group host -> serving.py
                                                                          '-- meta group --> map

    start     open everything; a node that knows its groups resumes them, one of `initial` finds the
              others and forms the meta group with them, once; what other groups are here follows
              the map (kv/meta/keeper.py)
    hand_over_all, drain     leadership moves to another node; then no new work is taken
    close     everything pending is answered, everything is closed

The groups that are here, and who asks them: kv/serving.py. HTTP stands in kv/app.py, which makes
one of these. Fatal conditions (a failed or hanging write, a
task that died) go to `on_fatal`, which must end the process at once: nothing may be acknowledged
any more, and recovery decides at the next start.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final

from kv.cluster.cards import Address, Card
from kv.cluster.link import PeerLink
from kv.cluster.link_config import LinkConfig
from kv.cluster.link_handshake import Identity
from kv.cluster.link_tls import LinkTls
from kv.cluster.mail import Mail
from kv.cluster.tasks import Tasks
from kv.division.divider import DividerSettings
from kv.division.stand import NodeDivision
from kv.faulty import NodeFaults
from kv.leaderless.environment import LeaderlessEnvironment, LeaderlessSettings
from kv.leaderless.stand import LeaderlessStand
from kv.meta.begin import Beginning
from kv.meta.keeper import Keeper
from kv.meta.service import MetaService
from kv.neighbours import Neighbours
from kv.placement.mover import MoverSettings
from kv.placement.stand import NodePlacement
from kv.serving import Serving
from kv.strong.forward import Forwarder
from kv.strong.gate import Gate
from kv.strong.shard import ShardSettings
from raftgroups.host import GroupHost, HostConfig
from raftgroups.meta.records import (
    KeyspaceOptions,
)
from raftgroups.transport import NodeId
from storage.clock import Clock
from storage.committer import Committer, SyncWatchdog
from storage.datadir import DataDirectory, RegimeName
from storage.engine import WritePressure
from storage.environment import EngineSettings, open_engine, pressure_of
from storage.space import SpaceGuard, default_reserve_bytes
from storage.system_clock import SystemClock
from storage.writers import AdaptiveWriter, kernel_syncs

_log = logging.getLogger(__name__)

EXIT_BROKEN: Final = 70
EXIT_HUNG: Final = 71
EXIT_TASK: Final = 72
SPACE_LOOK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class NodeSettings:
    data: Path
    name: str = "januskv"
    cluster_id: str | None = None
    """None: an embedded single node, which makes an id of its own at its first start."""
    peer_listen: Address | None = None
    """None: no peers, and nothing listens for them."""
    peer_advertise: Address | None = None
    client_url: str = ""
    initial: tuple[Address, ...] = ()
    secret: bytes | None = field(default=None, repr=False)
    insecure: bool = False
    names: Mapping[Address, str] = field(default_factory=dict)
    """What the configuration calls the nodes of `initial`."""
    peer_routes: Mapping[str, Address] = field(default_factory=dict)
    """By advertised "host:port", name or node id: where to dial instead, so that a link can run
    through a proxy."""
    tls: LinkTls | None = None
    engine: str = "lmdb"
    engine_settings: EngineSettings = field(default_factory=EngineSettings)
    reserve_bytes: int | None = None
    host: HostConfig = field(default_factory=HostConfig)
    shard: ShardSettings = field(default_factory=ShardSettings)
    sync_fatal_s: float = 10.0
    leaderless: LeaderlessSettings | None = None
    """None: this node takes no part in a ring, and leaderless keyspaces are refused."""
    default_leaderless: KeyspaceOptions | None = None
    """Of the keyspace `default` if a cluster is formed with it leaderless; None: it is strong."""
    shards: int = 1
    """Of the keyspace `default`, when a cluster is formed; then the map says."""
    options: KeyspaceOptions = field(default_factory=KeyspaceOptions)
    rack: str = ""
    datacentre: str = ""
    weight: float = 1.0
    join: tuple[Address, ...] = ()
    """Peer addresses of the cluster that a new, empty node asks to be admitted."""
    mover: MoverSettings = field(default_factory=MoverSettings)
    divider: DividerSettings = field(default_factory=DividerSettings)
    faults: NodeFaults | None = None
    """For tests alone: its disk and clock fail on demand."""


Fatal = Callable[[int, str], None]


class Node:
    def __init__(
        self, settings: NodeSettings, *, loop: asyncio.AbstractEventLoop, on_fatal: Fatal
    ) -> None:
        """Opens the directory and the engine; raises what they refuse. Nothing runs yet."""
        self.settings = settings
        self.loop = loop
        self.on_fatal = on_fatal
        faults = settings.faults
        self.clock: Clock = SystemClock() if faults is None else faults.clock
        self.tasks = Tasks(loop, lambda name, _: on_fatal(EXIT_TASK, f"task {name} died"))
        self.directory = DataDirectory.open(
            settings.data, create=True, cluster_id=settings.cluster_id
        )
        try:
            if self.directory.identity.cluster_id is None:
                self.directory.adopt_cluster(f"single-{self.directory.identity.node_id}")
            self.engine = open_engine(
                self.directory,
                RegimeName.STRONG,
                settings.engine,
                clock=self.clock,
                settings=settings.engine_settings,
            )
            if faults is not None:
                self.engine = faults.wrap(self.engine)
        except BaseException:
            self.directory.close()
            raise
        self._assemble()

    def _assemble(self) -> None:
        settings, loop, clock = self.settings, self.loop, self.clock
        identity = self.directory.identity
        self.node_id = NodeId(identity.node_id)
        assert identity.cluster_id is not None, "it was adopted above"
        self.cluster_id: str = identity.cluster_id
        has_gauge = hasattr(self.engine, "write_pressure")
        self.writer = AdaptiveWriter(
            clock,
            loop.call_soon_threadsafe,
            under_pressure=self._under_pressure if has_gauge else _never,
            sync_apart=True,
            kernel=kernel_syncs(clock, loop, _log.info),
        )
        self.committer = Committer(
            self.engine,
            self.writer,
            loop,
            clock,
            on_fatal=self.broken,
            stall_after_s=settings.host.election_timeout_s[1],
        )
        self.watchdog = SyncWatchdog(
            self.committer,
            clock,
            self.hung,
            fatal_after_s=settings.sync_fatal_s,
        )
        self.link = PeerLink(
            Identity(self.cluster_id, self.node_id, self.directory.boot_id, settings.secret),
            loop=loop,
            tasks=self.tasks,
            clock=clock,
            rng=random.Random(os.urandom(16)),
            entropy=os.urandom,
            config=LinkConfig(
                listen=settings.peer_listen or ("127.0.0.1", 0), insecure=settings.insecure
            ),
            tls=settings.tls,
        )
        disk_bytes = self._disk_bytes()
        reserve_bytes = settings.reserve_bytes or default_reserve_bytes(disk_bytes)
        self.guard = SpaceGuard(reserve_bytes)
        self.gate = Gate(self.guard, pressure=self._pressure if has_gauge else None)
        self.serving = Serving(self)
        self.host = GroupHost(
            node_id=self.node_id,
            boot_id=self.directory.boot_id,
            incarnation=identity.incarnation,
            engine=self.engine,
            committer=self.committer,
            link=self.link,
            clock=clock,
            rng=random.Random(os.urandom(16)),
            scheduler=loop,
            config=settings.host,
            machines=self.serving.make_machine,
        )
        self.forwarder = Forwarder(
            self.link,
            scheduler=loop,
            clock=clock,
            execute=self.serving.lead_each,
            evaluate=self.serving.evaluate,
        )
        self.host.on_answered(self.forwarder.flush)
        self.mail = Mail(self.link, loop)
        self.neighbours = Neighbours(
            self.node_id,
            self.directory.path,
            self.link,
            self.mail,
            initial=settings.initial,
            names=settings.names,
            routes=settings.peer_routes,
            full=self._note_full_peers,
        )
        self.meta = MetaService(
            node_id=self.node_id,
            directory=self.directory.path,
            forwarder=self.forwarder,
            mail=self.mail,
            link=self.link,
            peers=lambda: iter(self.neighbours.others),
            loop=loop,
            clock=clock,
            entropy=os.urandom,
            tasks=self.tasks,
        )
        self.keeper = Keeper(
            host=self.host,
            engine=self.engine,
            meta=self.meta,
            serve=self.serving.serve,
            leave=self.serving.leave,
            served=lambda: self.serving.shards,
            tasks=self.tasks,
            loop=loop,
        )
        self.host.roster.on_birth = lambda group: self.serving.serve(group.group_id)
        self.host.roster.on_end = self.serving.leave
        self.host.on_unknown_group = self.serving.unknown
        self.stand = LeaderlessStand(self)
        self.placement = NodePlacement(self)
        self.division = NodeDivision(self)
        self._space_timer: asyncio.TimerHandle | None = None
        self.draining = False
        self._closed = False

    @property
    def leaderless(self) -> LeaderlessEnvironment | None:
        """None: there is no ring, or not here."""
        return self.stand.environment

    def hung(self, seconds: float) -> None:
        self.on_fatal(EXIT_HUNG, f"a write has lasted {seconds:.1f} s")

    def _pressure(self) -> WritePressure:
        return pressure_of(self.engine)

    def _under_pressure(self) -> bool:
        return self._pressure() is not WritePressure.NONE

    def _note_full_peers(self, names: list[str]) -> None:
        self.gate.full_peers = names

    def _disk_bytes(self) -> int:
        space = os.statvfs(self.settings.data)
        return space.f_blocks * space.f_frsize

    def broken(self, error: BaseException) -> None:
        _log.critical("this node cannot go on: %s", error, exc_info=error)
        self.on_fatal(EXIT_BROKEN, f"this node cannot go on: {error}")

    # --- start ----------------------------------------------------------------------------

    async def start(self) -> None:
        """Returns once this node's shards are here; `ready` says whether they can serve."""
        settings = self.settings
        peer_address = settings.peer_advertise or settings.peer_listen or ("127.0.0.1", 0)
        if settings.peer_listen is not None:
            bound = await self.link.start()
            if settings.peer_advertise is None:
                peer_address = bound
        own = Card(
            self.node_id,
            settings.name,
            peer_address,
            settings.client_url,
            version("januskv"),
            incarnation=self.host.incarnation,
            rack=settings.rack,
            datacentre=settings.datacentre,
            weight=settings.weight,
        )
        self.neighbours.open(own)
        self.watchdog.start()
        self._look_at_space()
        self.meta.load_file()
        self.host.start()
        self.beginning = Beginning(self)
        await self.beginning.begin()
        self.neighbours.dial()
        self.meta.start()
        self.keeper.start()
        self.placement.start()
        self.division.start()
        self.meta.map.on_change(lambda _: self.serving.note_begun())
        await self.serving.begun()
        self.stand.start()

    def _look_at_space(self) -> None:
        raised = self.guard.raised
        self.guard.observe(self.engine.statistics())
        self.engine.expire_snapshots()
        self.stand.look_at_space()
        if self.guard.raised != raised:
            _log.warning(
                "NOSPACE %s: %s bytes available, %d kept in reserve",
                "raised" if self.guard.raised else "cleared",
                self.guard.available_bytes,
                self.guard.reserve_bytes,
            )
        self.neighbours.show(alarms=("NOSPACE",) if self.guard.raised else ())
        self._space_timer = self.loop.call_later(SPACE_LOOK_S, self._look_at_space)

    # --- while it runs ----------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """This one can be asked: its shards are led, by whomever."""
        return self.meta.map.known and not self.draining and self.serving.led

    # --- the end ----------------------------------------------------------------------------

    async def hand_over_all(self) -> None:
        """Somebody else leads what this node leads; it still serves."""
        await self.serving.hand_over_all()

    def drain(self, why: str) -> None:
        """Take nothing new; watchers are told the end."""
        self.draining = True
        self.serving.drain(why)
        self.stand.drain()

    async def close(self) -> None:
        """Safe to call twice, and after a start that failed."""
        if self._closed:
            return
        self._closed = True
        self.draining = True
        if self._space_timer is not None:
            self._space_timer.cancel()
        self.placement.stop()
        self.division.stop()
        self.keeper.stop()
        self.meta.stop()
        self.forwarder.stop()
        self.serving.stop()
        self.host.stop()
        self.stand.stop()
        await asyncio.sleep(0)  # the answers that the stop gave go out
        await self.link.close()
        await self.tasks.close()
        self.committer.stop()
        self.watchdog.close()
        self.writer.close()
        self.engine.close()
        self.stand.close()
        self.directory.close()


def _never() -> bool:
    """An engine without background work is under no pressure."""
    return False
