"""What Merkle sums cost of a put: their processor time on every replica, in a whole put's.

    a copy     turns of copies on an engine of its own, every other one with the sums left out (a
               canary's switch): the digest in the index row, or the row itself if the key is there
               already, and the sums with each peer. The median difference, and the hash that both
               compute, are what a leaf costs.
    a put      three leaderless nodes under REST puts: processor time of all nodes

Blind puts of old keys would make siblings, so a put is measured with new keys; one of an old key is
taken to cost as much more as its copies do (`replaced_us`), though reading a context costs more as
well. All is processor time on this machine in one run, so that other work weighs on it alike.
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
from storage.buckets import plain_digest
from storage.engine import Batch, Engine
from storage.siblings import Actor, Clock, Dot, SiblingSet, Version, encode_set
from storage.versions import StorageCanary, Turn

COPIES: Final = 3
TURN_KEYS: Final = 64
OLD_KEYS: Final = 100 * TURN_KEYS
NEW: Final = "new"
OLD: Final = "old"
_NODES: Final = tuple(NodeId(name) for name in ("a", "b", "c"))
_LEFT_OUT: Final = frozenset((StorageCanary.LEAF_NOT_UPDATED,))


@dataclass(frozen=True, slots=True)
class LeafCost:
    keys: str
    """NEW or OLD."""
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


def leaf_cost(
    engine: Engine, *, turns: int, fresh: bool = True, value_bytes: int = 100
) -> tuple[float, float]:
    """(microseconds of a leaf, of a copy with it)"""
    dice = random.Random(1)
    roots = PeerRoots(lambda _: _NODES, _NODES[0])
    times: dict[bool, list[float]] = {True: [], False: []}
    known = [] if fresh else [_key(dice) for _ in range(OLD_KEYS)]
    hashing: list[float] = []
    for number in range(-len(known) // TURN_KEYS, 2 * turns + 20):
        leaves = number < 0 or number % 2 == 0  # negative: every old key is put once
        if fresh:
            keys = [_key(dice) for _ in range(TURN_KEYS)]
        else:
            at = number * TURN_KEYS % len(known)
            keys = known[at : at + TURN_KEYS]
        rows = [(key, _set(dice, value_bytes)) for key in keys]
        begun = process_time()
        with engine.snapshot() as reader:
            turn = Turn(reader, merge, canaries=frozenset() if leaves else _LEFT_OUT)
            for key, encoded in rows:
                turn.get_encoded(1, key)
                turn.put_encoded(1, key, encoded)
            batch = Batch()
            turn.collect(batch)
        engine.write(batch, sync=True)
        roots.change_all([change[1:] for change in turn.leaf_changes])
        ended = process_time()
        if number >= 20:  # the first ones are slower
            times[leaves].append((ended - begun) * 1e6 / TURN_KEYS)
            for key, encoded in rows:
                plain_digest(key, encoded)
            hashing.append((process_time() - ended) * 1e6 / TURN_KEYS)
    with_it, without = median(times[True]), median(times[False])
    return max(0.0, with_it - without) + median(hashing), with_it


def _key(dice: random.Random) -> bytes:
    return b"bench/%010d" % dice.randrange(10**9)


def _set(dice: random.Random, value_bytes: int) -> bytes:
    actor = Actor("a" * 16, 1, dice.randrange(1, 1 << 20))
    version = Version(Dot(*actor, 1), dice.randbytes(value_bytes), 7 << 16)
    return encode_set(SiblingSet((version,), Clock({actor: 1})))


def replaced_us(put_us: float, new_copy_us: float, old_copy_us: float) -> float:
    """What a put of an old key costs, from one of a new key."""
    return put_us + COPIES * (old_copy_us - new_copy_us)


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
