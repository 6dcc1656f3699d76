#!/usr/bin/env python3
"""Makes the data directories of this version, for later versions to open: see README.md here.

    python tests/golden/make_directories.py v1      from the root of the repository

An existing version is never made again: what it holds is what that version wrote. Each directory is
written in two lives of its node: the first ends in good order, the second as a killed process does
(the files are copied while the engines are open), so there is also a journal to be replayed.
`expected.json` beside it is told by the objects that wrote it, before they were closed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(HERE)]

from read_directories import (  # noqa: E402 - the path had to be set first
    CLIENT,
    KEYSPACES,
    SEQUENCES,
    SHARD,
    SHARD_GROUP,
    WALL_MS,
    dump_groups,
    dump_objects,
    dump_shard,
    make_host,
)

from kv.leaderless.dvv import merge  # noqa: E402
from raftgroups.bench_cluster import MemoryLink  # noqa: E402
from raftgroups.commands import (  # noqa: E402
    Command,
    Compact,
    Delete,
    Expire,
    Increment,
    LeaseGrant,
    LeaseKeepAlive,
    Put,
    Tick,
    Token,
    Txn,
    encode,
)
from raftgroups.group import Group  # noqa: E402
from raftgroups.host import GroupHost  # noqa: E402
from raftgroups.outcomes import Applied, Done, Refused  # noqa: E402
from raftgroups.results import Failure  # noqa: E402
from raftgroups.status import Role  # noqa: E402
from raftgroups.transport import NodeId  # noqa: E402
from storage.datadir import DataDirectory, RegimeName  # noqa: E402
from storage.engine import Batch, Engine  # noqa: E402
from storage.environment import open_engine  # noqa: E402
from storage.hints import HintLimits  # noqa: E402
from storage.latest import Latest  # noqa: E402
from storage.memory import MemoryEngine  # noqa: E402
from storage.mvcc import Shard  # noqa: E402
from storage.mvcc_scope import WriteScope  # noqa: E402
from storage.objects import Record  # noqa: E402
from storage.siblings import Actor, Clock, Dot, SiblingSet, Version  # noqa: E402
from storage.system_clock import SystemClock  # noqa: E402
from storage.versions import Turn  # noqa: E402

DIRECTORIES = HERE / "directories"
ENGINES = ("lmdb", "rocksdb")
NODES = (NodeId("n1"), NodeId("n2"), NodeId("n3"))
LEARNER = NodeId("n4")
RECREATED = ("LOCK", "lock.mdb", "LOG")
"""Files that are made anew at each open; LOG names the machine it was written on."""


# --- the strong regime: an MVCC shard --------------------------------------------------------


class ShardLife:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.latest = Latest(engine, SystemClock())
        self.shard = Shard.load(self.latest, SHARD) or Shard.create(
            self.latest, shard=SHARD, keyspace=7, segment=11
        )

    def begin(self) -> WriteScope:
        return self.shard.begin(WALL_MS + 1_000 * self.shard.state.revision)

    def put(self, key: bytes, value: bytes, lease: int = 0) -> None:
        with self.begin() as scope:
            scope.put(key, value, lease)

    def commit(self, *, sweep_events: int = 1_000) -> None:
        batch = Batch()
        self.shard.mark_applied(self.shard.state.applied_index + 1)
        self.shard.prepare(batch, sweep_events=sweep_events)
        self.engine.write(batch, sync=True)
        self.latest.renew()
        self.shard.after_commit()


def first_life_of_shard(engine: Engine) -> None:
    life = ShardLife(engine)
    for number in range(8):
        life.put(b"key/%02d" % number, b"first %d" % number)
    life.commit()
    with life.begin() as scope:  # one revision, several changes, one key twice
        scope.put(b"txn/a", b"1", 901)
        scope.put(b"txn/a", b"2", 901)
        scope.delete(b"key/00")
        scope.put(b"bytes/\x00\xff", b"\x00\xfe\xff")
        scope.put(b"empty", b"")
    life.commit()
    life.put(b"key/01", b"second 1", 901)
    life.put(b"key/02", b"second 2", 902)
    life.put(b"key/00", b"back again")
    life.put(b"large", b"janus" * 1_500)
    life.commit()
    life.shard.compact(5)
    life.commit()
    while life.shard.sweep_pending:
        life.commit()
    life.latest.renew()


def second_life_of_shard(engine: Engine) -> dict[str, Any]:
    life = ShardLife(engine)
    with life.begin() as scope:
        scope.delete_range(b"key/05", b"key/07")
    life.put(b"key/02", b"third 2")  # leaves its lease
    life.put(b"txn/b", b"other lease", 902)
    life.commit()
    life.shard.compact(12)
    life.commit(sweep_events=1)  # most of it is left for the version that opens this
    assert life.shard.sweep_pending
    told = dump_shard(engine, life.shard)
    life.latest.renew()
    return told


SHARD_COMMANDS: tuple[tuple[Command, Token | None], ...] = (
    (LeaseGrant(901, 60), None),
    (LeaseGrant(902, 600), None),
    (Put(b"a", b"1", lease=901), None),
    (Put(b"b", b"2", lease=901), Token(CLIENT, SEQUENCES[0])),
    (Put(b"ttl", b"short", ttl_ms=90_000), None),
    (Put(b"gone", b"soon", ttl_ms=1), None),
    (LeaseKeepAlive((901,)), None),
    (Increment(b"count", 41), Token(CLIENT, SEQUENCES[1])),
    (Increment(b"count"), None),
    (Txn((), (Put(b"t/1", b"x"), Put(b"t/2", b"y"), Delete(b"a")), ()), None),
    (Expire((), (b"gone",)), None),
    (Compact(5), None),
    (Tick(), None),
)


# --- the strong regime: Raft groups ----------------------------------------------------------


class Cluster:
    """n1 on the fixture's engine, the others in memory."""

    def __init__(self, engine: Engine, incarnation: int) -> None:
        loop = asyncio.get_running_loop()
        links: dict[NodeId, MemoryLink] = {}
        self.hosts: dict[NodeId, GroupHost] = {}
        for number, node in enumerate((*NODES, LEARNER)):
            links[node] = MemoryLink(node, loop, links)
            home = engine if node == NODES[0] else MemoryEngine(clock=SystemClock())
            self.hosts[node], _ = make_host(node, home, links[node], loop, incarnation + number)

    @property
    def first(self) -> GroupHost:
        return self.hosts[NODES[0]]

    def create(self, group_id: int, voters: tuple[NodeId, ...]) -> None:
        incarnations = {node: self.hosts[node].incarnation for node in voters}
        for node in voters:
            self.hosts[node].create(group_id, voters, incarnations)

    async def done(self, group_id: int, call: Callable[..., None]) -> None:
        """Ask the leader, whoever it is, until it is done."""
        while True:
            leader = await self.leader(group_id)
            answered = asyncio.get_running_loop().create_future()
            call(leader, answered.set_result)
            outcome = await answered
            if isinstance(outcome, Applied | Done):
                assert not isinstance(getattr(outcome, "result", None), Failure), outcome
                return
            assert isinstance(outcome, Refused), outcome
            await asyncio.sleep(0.05)

    async def leader(self, group_id: int) -> Group:
        while True:
            for host in self.hosts.values():
                group = host.groups.get(group_id)
                if group is not None and group.role is Role.LEADER:
                    return group
            await asyncio.sleep(0.02)

    async def put(self, group_id: int, payload: bytes) -> None:
        await self.done(group_id, lambda group, done: group.propose(payload, done))

    async def settled(self) -> None:
        """n1 has everything, applied and written."""
        for group_id, group in self.first.groups.items():
            while group.role is not Role.REMOVED:
                leader, status = (await self.leader(group_id)).status(), group.status()
                if status.durable_applied_index == status.last_index == leader.last_index:
                    break
                if NODES[0] not in leader.voters:
                    break
                await asyncio.sleep(0.05)


async def raft_groups(engine: Engine, incarnation: int) -> dict[str, Any]:
    """Group 1: three voters and a learner, compacted. Group 2: n1 alone. Group 3: n1 removed.
    Group 4: n1 alone, a shard."""
    cluster = Cluster(engine, incarnation)
    cluster.create(1, NODES)
    cluster.create(2, NODES[:1])
    cluster.create(3, NODES)
    cluster.create(SHARD_GROUP, NODES[:1])
    for number in range(12):
        await cluster.put(1, b"one %d" % number)
    cluster.hosts[LEARNER].join(1)
    await cluster.done(1, lambda group, done: group.add_learner(LEARNER, done))
    await cluster.settled()
    cluster.first.group(1).compact(keep=4)
    for number in range(12, 15):
        await cluster.put(1, b"one %d" % number)
    for number in range(3):
        await cluster.put(2, b"two %d" % number)
        await cluster.put(3, b"three %d" % number)
    for number, command in enumerate(SHARD_COMMANDS):
        clock_ms = 1_000 * (number + 1)
        await cluster.put(SHARD_GROUP, encode(*command, clock_ms, WALL_MS + clock_ms))
    await cluster.settled()
    await cluster.done(3, lambda group, done: group.remove(NODES[0], done))
    await cluster.settled()
    await asyncio.sleep(2.0)  # n1 has heard of its removal, and what is written lazily is written
    assert cluster.first.group(3).role is Role.REMOVED
    told = dump_groups(cluster.first)
    for host in cluster.hosts.values():
        host.stop()
    return told


# --- the leaderless regime -------------------------------------------------------------------


def one(
    node: str, n: int, value: bytes | None, *, expiry_ms: int = 0, epoch: int = 1
) -> SiblingSet:
    actor = Actor(node, 7, epoch)
    version = Version(Dot(*actor, n), value, n << 16, expiry_ms)
    return SiblingSet((version,), Clock({actor: n}))


def gap() -> SiblingSet:
    actor = Actor("node-b", 9, 2)
    dots = [Dot(*actor, n) for n in (1, 4)]
    versions = tuple(Version(dot, b"of %d" % dot.n, dot.n << 16) for dot in dots)
    return SiblingSet(versions, Clock({actor: 1}, {actor: (4, 6)}))


def first_life_of_objects(engine: Engine) -> None:
    with engine.snapshot() as rows:
        turn = Turn(rows, merge)
        for number in range(6):
            record = Record(one("node-a", 1, b"value %d" % number), turn.next_epoch())
            turn.put(KEYSPACES[0], b"plain/%d" % number, record)
        siblings = merge(one("node-a", 2, b"left", epoch=3), one("node-b", 1, b"right"))
        turn.put(KEYSPACES[0], b"siblings", Record(siblings, 3))
        turn.put(KEYSPACES[0], b"tombstone", Record(one("node-a", 3, None)))
        turn.put(KEYSPACES[0], b"expires", Record(one("node-a", 1, b"soon", expiry_ms=1 << 41)))
        turn.put(KEYSPACES[1], b"gap", Record(gap()))
        turn.put(KEYSPACES[1], b"bytes/\x00\xff", Record(one("node-\xfc", 1, b"\x00\xff")))
        turn.put(KEYSPACES[1], b"large", Record(one("node-a", 1, b"janus" * 1_500)))
        turn.put(KEYSPACES[0], b"dropped", Record(one("node-a", 4, None)))
        turn.hints.add("node-b", KEYSPACES[0], b"plain/0", one("node-a", 1, b"value 0"), 1_000)
        turn.hints.add("node-b", KEYSPACES[0], b"plain/1", one("node-a", 1, b"value 1"), 1_001)
        turn.hints.add("node-c", KEYSPACES[1], b"gap", gap(), 1_002)
        write(engine, turn)


def second_life_of_objects(engine: Engine) -> dict[str, Any]:
    with engine.snapshot() as rows:
        turn = Turn(rows, merge, hint_limits=HintLimits(count=2))
        turn.drop(KEYSPACES[0], b"dropped")
        turn.put(KEYSPACES[0], b"plain/5", Record(one("node-a", 2, b"newer", epoch=6), 6))
        for number, value in ((0, b"again"), (2, b"one too many")):
            held = one("node-c", 1, value)
            turn.hints.add("node-b", KEYSPACES[0], b"plain/%d" % number, held, 2_000)
        assert turn.hints.remove("node-b", 2)
        write(engine, turn)
    return dump_objects(engine)


def write(engine: Engine, turn: Turn) -> None:
    batch = Batch()
    turn.collect(batch)
    engine.write(batch, sync=True)


# --- the directories -------------------------------------------------------------------------


def make(path: Path, engine_name: str, target: Path) -> dict[str, Any]:
    """Write one data directory, leave `target` as a kill would leave it, tell what it holds."""
    with lives(path, engine_name) as (_, strong, leaderless):
        first_life_of_shard(strong)
        first_life_of_objects(leaderless)
    with lives(path, engine_name) as (directory, strong, leaderless):
        identity = directory.identity
        told = {
            "identity": {
                "cluster_id": identity.cluster_id,
                "node_id": identity.node_id,
                "incarnation": identity.incarnation,
            },
            "shard": second_life_of_shard(strong),
            "raft": asyncio.run(raft_groups(strong, identity.incarnation)),
            "objects": second_life_of_objects(leaderless),
        }
        keep(path, target)
    return told


@contextmanager
def lives(path: Path, engine_name: str) -> Iterator[tuple[DataDirectory, Engine, Engine]]:
    with DataDirectory.open(path, create=True, cluster_id="golden", node_id="n1") as directory:
        engines = [
            open_engine(directory, regime, engine_name, clock=SystemClock())
            for regime in (RegimeName.STRONG, RegimeName.LEADERLESS)
        ]
        try:
            yield (directory, *engines)
        finally:
            for engine in engines:
                engine.close()


def keep(source: Path, target: Path) -> None:
    """Copy what a later version needs, and nothing that tells where it was made."""
    for file in sorted(source.rglob("*")):
        if not file.is_file() or file.name in RECREATED or file.name.startswith("LOG.old"):
            continue
        held = file.read_bytes()
        for place in (str(ROOT), str(source), str(Path.home())):
            if place.encode() in held:
                raise SystemExit(f"{file} names {place}, a path of this machine")
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(held)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the data directories of this version.")
    parser.add_argument("version", help="v1, v2, ...: a new one")
    version = DIRECTORIES / parser.parse_args().version
    if version.exists():
        raise SystemExit(f"{version} exists; a fixture is never changed: choose the next number")
    DIRECTORIES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="making-", dir=DIRECTORIES) as scratch:
        made = Path(scratch) / version.name
        for engine_name in ENGINES:
            home = made / engine_name
            home.mkdir(parents=True)
            told = make(Path(scratch) / engine_name, engine_name, home / "data")
            (home / "expected.json").write_text(json.dumps(told, indent=1) + "\n")
        made.rename(version)


if __name__ == "__main__":
    main()
