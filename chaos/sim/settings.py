"""What one seed runs with: the asked-for size and faults, and a configuration drawn from the seed.

Drawing the configuration is half of finding bugs: with windows, batches and tails of a few entries
the rare paths (flow control, reading back from the engine, snapshots in many chunks) are taken all
the time, and with slow disks or long latencies the usual order of things is turned round. Each
parameter is left at its default in about half of the seeds, so that ordinary runs are covered too.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from chaos.sim.disk import DiskSettings
from chaos.sim.network import NetworkSettings
from raftgroups.config import CANARIES, HostConfig

CALM_PART = 0.3
CALM_MIN_S = 12.0
"""Recovery (8 s at most) and the last reads (3 s) fit into it."""
CROWDED_PART = 0.3
"""Seeds in which clients hardly wait between two calls: then one entry is written while the one
before is acknowledged."""


@dataclass(frozen=True, slots=True)
class SimConfig:
    """What the caller asks for. Values only, so that it can be sent to another process."""

    seed: int
    nodes: int = 3
    groups: int = 2
    seconds: float = 40.0
    faults: frozenset[str] = frozenset()
    canaries: frozenset[str] = frozenset()
    dense: bool = False
    """Every allowed fault, often, under many clients: to find one bug soon, not to roam."""

    @property
    def calm_at(self) -> float:
        """When the faults stop."""
        return max(0.0, self.seconds - max(CALM_MIN_S, self.seconds * CALM_PART))

    @property
    def spare_nodes(self) -> int:
        """Nodes that begin outside every group, for membership changes."""
        if "deaths" in self.faults:
            return 3
        if self.faults & {"moves", "joins", "drains"}:
            return 2
        return 1 if "membership" in self.faults else 0


@dataclass(slots=True)
class DrawnSettings:
    """What the seed adds."""

    host: HostConfig
    network: NetworkSettings
    disks: list[DiskSettings]
    clients: int
    think_s: float
    registers: int
    lists: int
    weights: dict[str, float] = field(default_factory=dict)
    """How likely each fault of this seed is; some of the allowed ones are left out."""
    fault_every_s: float = 1.0
    fault_length: float = 1.0
    """Faults last this part of their usual time."""
    born_in_storm: bool = False
    """Faults strike from the first moment, before the groups are formed."""


def draw(config: SimConfig, rng: random.Random) -> DrawnSettings:
    host = _draw_host(config, rng)
    slow_network = rng.random() < 0.2
    network = NetworkSettings(
        latency_s=(0.001, 0.02) if slow_network else (0.0002, 0.002),
        channel_max_frames=rng.choice((4096, 4096, 64, 16)),
        give_up_s=(0.5, rng.choice((1.0, 6.0))),
    )
    disks = [_draw_disk(rng) for _ in range(config.nodes + config.spare_nodes)]
    names = sorted(config.faults)
    chosen = [name for name in names if rng.random() < 0.7] or names
    drawn = DrawnSettings(
        host=host,
        network=network,
        disks=disks,
        clients=rng.choice((2, 3, 5)),
        think_s=rng.choice((0.06, 0.12, 0.3)),
        registers=rng.choice((1, 2, 3)),
        lists=rng.choice((1, 2)),
        weights={name: rng.choice((0.3, 1.0, 1.0, 3.0)) for name in chosen},
        fault_every_s=rng.choice((0.4, 1.0, 2.5)),
    )
    drawn.fault_length = rng.choice((0.3, 1.0, 1.0))
    drawn.born_in_storm = rng.random() < 0.1
    if random.Random(f"crowd/{config.seed}").random() < CROWDED_PART:
        drawn.clients, drawn.think_s = 8, 0.005
    if config.dense:
        drawn.clients, drawn.think_s = 8, 0.05
        drawn.fault_every_s, drawn.fault_length = 0.3, 0.3
        drawn.weights = dict.fromkeys(names, 1.0)
    return drawn


def _draw_host(config: SimConfig, rng: random.Random) -> HostConfig:
    def maybe(default: float, *rare: float) -> float:
        return rng.choice(rare) if rng.random() < 0.5 else default

    compacting = "snapshot" in config.faults
    return HostConfig(
        heartbeat_s=maybe(0.1, 0.05, 0.15),
        propose_timeout_s=maybe(5.0, 0.5, 2.0),
        read_timeout_s=maybe(2.0, 0.3),
        transfer_timeout_s=maybe(1.0, 0.2),
        change_timeout_s=maybe(30.0, 1.0),
        reads_max=int(maybe(65536, 2)),
        queue_max_operations=int(maybe(4096, 4)),
        entry_max_bytes=int(maybe(2 * 1024 * 1024, 400)),
        inflight_max_bytes=int(maybe(8 * 1024 * 1024, 600, 5_000)),
        append_max_bytes=int(maybe(1024 * 1024, 100, 1_000)),
        window_entries=int(maybe(1024, 4, 32)),
        window_bytes=int(maybe(8 * 1024 * 1024, 2_000)),
        compact_after_entries=int(maybe(200, 10, 50)) if compacting else 20_000,
        keep_entries=int(maybe(20, 0, 2)) if compacting else 5_000,
        compact_after_bytes=int(maybe(64 * 1024 * 1024, 4_000)),
        keep_bytes=int(maybe(8 * 1024 * 1024, 500)),
        snapshot_chunk_bytes=int(maybe(512 * 1024, 300, 2_000)),
        snapshot_window_chunks=int(maybe(12, 1, 2)),
        snapshot_retry_s=maybe(1.0, 0.3),
        snapshot_abandon_s=maybe(30.0, 2.0),
        snapshot_max_age_s=maybe(600.0, 1.0),
        snapshot_streams_max=int(maybe(2, 1)),
        hibernate_after_s=maybe(5.0, 0.0, 0.5),
        canaries=config.canaries & CANARIES,
    )


def _draw_disk(rng: random.Random) -> DiskSettings:
    quick = rng.random() < 0.7
    return DiskSettings(
        sync_s=(0.0002, 0.002) if quick else (0.005, 0.03),
        spike_p=rng.choice((0.0, 0.01, 0.05)),
        spike_s=rng.choice((0.03, 0.3)),
    )
