"""Five leaderless nodes, a partition with conflicting writes on both sides, and how it heals.

    writes    each key is written once on either side of a partition of three and two nodes, so that
              all of them end with two siblings
    heal      the virtual seconds until every owner of every key holds both, and nobody else any
    bytes     what was transferred for it against what owners lacked at that moment

With hints, or with Merkle repair alone: then there is no room for any hint, writes go out with W=1,
and what owners lack comes by repair. On virtual time, with the production code; one seed, one run.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Final

from chaos.sim.leaderless import LeaderlessCluster
from chaos.sim.leaderless_storm import held, live, owners_of
from kv.leaderless.keyspace import Wish
from kv.leaderless.maintenance import MaintenanceSettings
from kv.leaderless.put_core import Written
from kv.leaderless.reaper import ReapSettings
from kv.leaderless.replica import ReplicaLimits
from kv.leaderless.rules import Write
from storage.hints import HintLimits

NODES: Final = 5
CUT: Final = 3
LOOK_S: Final = 0.25
REPAIR_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Healing:
    writes: int
    acknowledged: int
    lacking_keys: int
    """(key, owner) without all that was written, when the partition ended."""
    lacking_bytes: int
    healed_s: float
    """Until all owners held all; infinity: not within the time that there was."""
    transferred_bytes: int
    """All frames between replicas until then, questions and answers."""

    @property
    def factor(self) -> float:
        return self.transferred_bytes / max(1, self.lacking_bytes)


def heal(
    seed: int,
    *,
    hints: bool,
    writes: int = 10_000,
    value_bytes: int = 1024,
    partition_s: float = 60.0,
    limit_s: float = 1.25 * REPAIR_S,
) -> Healing:
    maintenance = MaintenanceSettings(repair_s=REPAIR_S, reap=ReapSettings(enabled=False))
    limits = ReplicaLimits() if hints else ReplicaLimits(hints=HintLimits(0, 0))
    wish = Wish() if hints else Wish(nodes=1)
    cluster = LeaderlessCluster(seed, NODES, limits=limits, maintenance=maintenance)
    cluster.run(5.0)
    sides = cluster.machines[:CUT], cluster.machines[CUT:]
    cluster.partition(*sides)
    cluster.run(1.0)
    answers: list[Any] = []
    dice = random.Random(seed)
    keys = [b"key%d" % number for number in range(writes // 2)]
    started_s = cluster.world.now
    for number, key in enumerate(keys):
        for side in sides:
            machine = side[number % len(side)]
            value = b"%s:" % machine.node.encode() + dice.randbytes(value_bytes - 3)
            live(machine).coordinator.put(1, key, Write(value), answers.append, wish)
        cluster.run(0.9 * partition_s / len(keys))
    cluster.run(max(0.0, started_s + partition_s - cluster.world.now))
    lacking = _lacking(cluster, keys)
    before = cluster.network.sent_bytes["replica"]
    cluster.network.heal()
    healed_s, at = float("inf"), cluster.world.now
    while cluster.world.now - at < limit_s:
        cluster.run(LOOK_S)
        if not _lacking(cluster, keys) and not _foreign(cluster, keys):
            healed_s = cluster.world.now - at
            break
    return Healing(
        writes,
        sum(isinstance(answer, Written) for answer in answers),
        len(lacking),
        sum(lacking),
        healed_s,
        cluster.network.sent_bytes["replica"] - before,
    )


def _lacking(cluster: LeaderlessCluster, keys: list[bytes]) -> list[int]:
    """For each owner that has not all of a key: the bytes that it lacks."""
    found: list[int] = []
    for key in keys:
        versions = {
            version.dot: version
            for machine in cluster.machines
            if (siblings := held(machine, key)) is not None
            for version in siblings.versions
        }
        for owner in owners_of(cluster, key):
            siblings = held(owner, key)
            has = set() if siblings is None else {version.dot for version in siblings.versions}
            size = sum(len(v.value or b"") for dot, v in versions.items() if dot not in has)
            if size:
                found.append(size)
    return found


def _foreign(cluster: LeaderlessCluster, keys: list[bytes]) -> bool:
    for key in keys:
        owners = owners_of(cluster, key)
        if any(held(m, key) is not None for m in cluster.machines if m not in owners):
            return True
    return False
