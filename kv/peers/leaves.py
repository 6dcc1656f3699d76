"""What the Merkle leaf costs of a put: its processor time on every replica, in a whole put's.

    a copy     turns of new keys on an engine of its own, every other one with the leaf left out (a
               canary's switch): read, add, seal, write, and the sums with each peer. The median
               difference is a leaf's cost.
    a put      three leaderless nodes under REST puts of new keys: processor time of all nodes

Both are processor time on this machine in one run, so that other work weighs on them alike.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import process_time
from typing import Final

from kv.leaderless.dvv import merge
from kv.leaderless.merkle import PeerRoots
from kv.load import worker
from kv.load.plan import Load, Operation, Speech
from kv.peers.measuring import Meter
from kv.peers.regimes import LEADERLESS, RegimePlan, systems
from raftgroups.transport import NodeId
from storage.engine import Batch, Engine
from storage.siblings import Actor, Clock, Dot, SiblingSet, Version, encode_set
from storage.versions import StorageCanary, Turn

COPIES: Final = 3
TURN_KEYS: Final = 64
_NODES: Final = tuple(NodeId(name) for name in ("a", "b", "c"))
_LEFT_OUT: Final = frozenset((StorageCanary.LEAF_NOT_UPDATED,))


@dataclass(frozen=True, slots=True)
class LeafCost:
    connections: int
    leaf_us: float
    """On one replica."""
    copy_us: float
    """All that a replica's turn does for a copy, the leaf included."""
    put_us: float
    """Of all nodes."""
    errors: dict[str, int]

    @property
    def share(self) -> float:
        return COPIES * self.leaf_us / self.put_us


def leaf_cost(engine: Engine, *, turns: int, value_bytes: int = 100) -> tuple[float, float]:
    """(microseconds of a leaf, of a copy with it)"""
    dice = random.Random(1)
    roots = PeerRoots(lambda _: _NODES, _NODES[0])
    times: dict[bool, list[float]] = {True: [], False: []}
    for number in range(2 * turns + 20):
        leaves = number % 2 == 0
        rows = [_row(dice, value_bytes) for _ in range(TURN_KEYS)]
        begun = process_time()
        with engine.snapshot() as reader:
            turn = Turn(reader, merge, canaries=frozenset() if leaves else _LEFT_OUT)
            for key, encoded in rows:
                if turn.get_encoded(1, key) is None:
                    turn.put_encoded(1, key, encoded)
            batch = Batch()
            turn.collect(batch)
        engine.write(batch, sync=True)
        roots.change_all(
            [(each.bucket, each.old, each.new) for each in turn.leaf_changes if each.old]
        )
        if number >= 20:  # the first ones are slower
            times[leaves].append((process_time() - begun) * 1e6 / TURN_KEYS)
    with_it, without = median(times[True]), median(times[False])
    return max(0.0, with_it - without), with_it


def _row(dice: random.Random, value_bytes: int) -> tuple[bytes, bytes]:
    actor = Actor("a" * 16, 1, dice.randrange(1, 1 << 20))
    version = Version(Dot(*actor, 1), dice.randbytes(value_bytes), 7 << 16)
    key = b"bench/%010d" % dice.randrange(10**9)
    return key, encode_set(SiblingSet((version,), Clock({actor: 1})))


def put_costs(
    scratch: Path,
    engine: str,
    connections: Sequence[int],
    seconds: float,
    told: Callable[[float], None],
    command: Sequence[str] = (),
) -> list[tuple[int, float, dict[str, int]]]:
    """(connections, microseconds of all nodes a put, errors)"""
    plan = RegimePlan(seconds=seconds, engines=(engine,))
    (system,) = [each for regime, _, each in systems(plan, command) if regime == LEADERLESS]
    found = []
    with system.running(scratch) as nodes:
        for count in connections:
            load = Load(
                operation=Operation.PUT,
                endpoints=tuple((node.host, node.port) for node in nodes),
                connections=count,
                seconds=seconds,
                warm_up_s=plan.warm_up_s,
                keys=plan.keys,
                value_bytes=plan.value_bytes,
                seed=random.SystemRandom().randrange(1, 1 << 30),
                speech=Speech.QUORUM,
                fresh=True,
                pause_ms=0.0,
            )
            meter = Meter([node.pid for node in nodes])
            outcome = worker.run(load, 1, told)
            cpu_s, _ = meter.read()
            errors = {name: number for name, number in outcome.errors.items() if number}
            found.append((count, cpu_s * 1e6 / max(1, outcome.acknowledged), errors))
    return found
