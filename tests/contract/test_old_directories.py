"""Data directories that earlier versions wrote (tests/golden) open with today's code, whole.

A fixture is copied, opened, read to the last value and compared with what its writer knew; then it
is used: the shard, the log, the epochs and the hints go on where they stopped.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kv.leaderless.dvv import merge
from raftgroups.commands import Increment, LeaseRevoke, Token, encode
from raftgroups.outcomes import Applied, ProposeResult, Refused
from raftgroups.transport import NodeId
from storage.datadir import DataDirectory, RegimeName
from storage.engine import Batch, Engine
from storage.environment import engine_name_of, open_engine
from storage.errors import CompactedError
from storage.latest import Latest
from storage.mvcc import Shard
from storage.objects import compute_leaves, index_leaves, read_record
from storage.system_clock import SystemClock
from storage.versions import Turn

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
FIXTURES = sorted(path.parent for path in GOLDEN.glob("directories/v*/*/data"))


@pytest.fixture(scope="module")
def reader() -> ModuleType:
    """tests/golden/read_directories.py, which the maker of the fixtures uses too."""
    spec = importlib.util.spec_from_file_location("golden_reader", GOLDEN / "read_directories.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=FIXTURES, ids=lambda path: f"{path.parent.name}-{path.name}")
def fixture(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def data(fixture: Path, tmp_path: Path) -> Path:
    return shutil.copytree(fixture / "data", tmp_path / "data")


@pytest.fixture
def expected(fixture: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((fixture / "expected.json").read_text())
    return told


@contextmanager
def opened(data: Path, regime: RegimeName) -> Iterator[Engine]:
    with DataDirectory.open(data, create=False, cluster_id="golden", node_id="n1") as directory:
        name = engine_name_of(directory, regime)
        engine = open_engine(directory, regime, name, clock=SystemClock())
        try:
            yield engine
        finally:
            engine.close()


class Nobody:
    """A link on which no other node ever answers."""

    def send(self, peer: NodeId, channel: str, frame: bytes, *, at_once: bool = False) -> bool:
        return False

    def push(self) -> None:
        pass

    def connected(self, peer: NodeId) -> bool:
        return False

    def subscribe(self, channel: str, handler: Callable[[NodeId, bytes], None]) -> None:
        pass

    def on_peer_change(self, handler: Callable[[NodeId, bool], None]) -> None:
        pass

    def set_peer(self, peer: NodeId, address: tuple[str, int]) -> None:
        pass

    def remove_peer(self, peer: NodeId) -> None:
        pass


def holds(expected: Any, found: Any, place: str = "") -> None:
    """Everything that was told then is read now. Readers may learn to tell more."""
    if isinstance(expected, dict):
        for name, value in expected.items():
            assert name in found, f"{place}/{name} is gone"
            holds(value, found[name], f"{place}/{name}")
    else:
        assert found == json.loads(json.dumps(expected)), place


def plain(value: Any) -> Any:
    """As it comes back from JSON: tuples are lists."""
    return json.loads(json.dumps(value))


def test_there_are_fixtures_of_every_durable_engine() -> None:
    found = {(path.parent.name, path.name) for path in FIXTURES}
    assert {("v1", "lmdb"), ("v1", "rocksdb")} <= found


def test_fixtures_tell_nothing_of_the_machine_that_made_them(fixture: Path) -> None:
    for file in fixture.rglob("*"):
        if file.is_file():
            assert not file.name.startswith(("LOG", "LOCK", "lock.mdb")), file
            held = file.read_bytes()
            for place in (b"/tmp/", b"/home/", b"/root/", b"/Users/"):
                assert place not in held, f"{file} names a path below {place!r}"


def test_the_stamp_is_read(data: Path, expected: dict[str, Any]) -> None:
    with DataDirectory.open(data, create=False, cluster_id="golden") as directory:
        for name, value in expected["identity"].items():
            assert getattr(directory.identity, name) == value


def test_the_shard_reads_as_it_was_written_and_goes_on(
    data: Path, expected: dict[str, Any], reader: ModuleType
) -> None:
    with opened(data, RegimeName.STRONG) as engine:
        holds(expected["shard"], plain(reader.dump_shard(engine)))
        latest = Latest(engine, SystemClock())
        shard = Shard.load(latest, reader.SHARD)
        assert shard is not None
        before = shard.state.revision
        assert before >= 15
        kept = shard.view.get(b"key/01")
        assert kept is not None
        assert kept.value == b"second 1"
        assert (kept.version, kept.lease) == (2, 901)
        assert kept.modified_ms == reader.WALL_MS + 1_000 * (kept.mod_revision - 1)
        large = shard.view.get(b"large")
        assert large is not None
        assert large.value == b"janus" * 1_500
        assert shard.view.get(b"key/05") is None
        with pytest.raises(CompactedError):
            shard.view.get(b"key/01", 3)
        with shard.begin() as scope:
            scope.put(b"key/01", b"of a later version")
        shard.mark_applied(shard.state.applied_index + 1)
        while shard.dirty or shard.sweep_pending:
            batch = Batch()
            shard.prepare(batch)
            engine.write(batch, sync=True)
            latest.renew()
            shard.after_commit()
        latest.renew()
    with opened(data, RegimeName.STRONG) as engine:
        shard = Shard.load(Latest(engine, SystemClock()), reader.SHARD)
        assert shard is not None
        assert shard.state.revision == before + 1
        assert not shard.sweep_pending
        newest = shard.view.get(b"key/01")
        assert newest is not None
        assert (newest.value, newest.version) == (b"of a later version", 3)
        told = reader.dump_shard(engine)
        assert [row for row in told["keys"] if row[0] != "key/01"] == [
            row for row in expected["shard"]["keys"] if row[0] != "key/01"
        ], "finishing the compaction changed what is live"


async def propose(host: Any, group_id: int, payload: bytes) -> Applied:
    """Through the group's own election."""
    deadline = asyncio.get_running_loop().time() + 10
    while asyncio.get_running_loop().time() < deadline:
        answered: asyncio.Future[ProposeResult] = asyncio.get_running_loop().create_future()
        host.group(group_id).propose(payload, answered.set_result)
        outcome = await asyncio.wait_for(answered, 10)
        if isinstance(outcome, Applied):
            return outcome
        assert isinstance(outcome, Refused), outcome
        await asyncio.sleep(0.02)
    raise AssertionError(f"group {group_id} took nothing within 10 s")


async def test_raft_groups_reopen_as_they_were_and_go_on(
    data: Path, expected: dict[str, Any], reader: ModuleType
) -> None:
    loop = asyncio.get_running_loop()
    told = expected["raft"]
    with opened(data, RegimeName.STRONG) as engine:
        host, committer = reader.make_host(
            NodeId("n1"), engine, Nobody(), loop, told["incarnation"]
        )
        host.start()
        holds(told, plain(reader.dump_groups(host)))
        assert host.group(1).machine.rows() == [b"one %d" % number for number in range(15)]
        assert host.group(1).status().learners == ("n4",)
        assert host.group(3).status().role == "removed"
        levels = {group.feature_level for group in host.groups.values()}
        assert levels == {1}, "what was written without a level is of the first"
        shard = reader.SHARD_GROUP
        count = host.group(shard).machine.shard.view.get(b"count")
        assert (count.value, count.modified_ms) == (b"42", reader.WALL_MS + 9_000)
        again = encode(Increment(b"count", 41), Token(reader.CLIENT, reader.SEQUENCES[1]))
        answered = (await propose(host, shard, again)).result
        assert answered.value == 41, "an old token is answered, not executed"
        assert answered.modified_ms == reader.WALL_MS + 8_000
        assert host.group(shard).machine.shard.view.get(b"count").value == b"42"
        revoked = (await propose(host, shard, encode(LeaseRevoke(901)))).result
        assert revoked.revision == told["groups"][str(shard)]["revision"] + 1
        assert host.group(shard).machine.shard.view.get(b"b") is None, "it went with its lease"
        outcome = await propose(host, 2, b"of a later version")
        assert outcome.index > told["groups"]["2"]["last_index"]
        alone = host.group(1).status()
        assert alone.term == told["groups"]["1"]["term"], "nobody else agreed to an election"
        assert alone.leader is None
        host.stop()
        committer.stop()
    with opened(data, RegimeName.STRONG) as engine:
        host, committer = reader.make_host(
            NodeId("n1"), engine, Nobody(), loop, told["incarnation"]
        )
        host.start()
        rows = [b"two 0", b"two 1", b"two 2", b"of a later version"]
        # The last one may be in the log only, until the group's own election commits it again.
        assert host.group(2).machine.rows() in (rows[:3], rows)
        await propose(host, 2, b"the last")
        assert host.group(2).machine.rows() == [*rows, b"the last"]
        host.stop()
        committer.stop()


def test_objects_and_hints_read_as_they_were_written_and_go_on(
    data: Path, expected: dict[str, Any], reader: ModuleType
) -> None:
    told = expected["objects"]
    with opened(data, RegimeName.LEADERLESS) as engine:
        holds(told, plain(reader.dump_objects(engine)))
        with engine.snapshot() as rows:
            for keyspace in reader.KEYSPACES:
                leaves = index_leaves(rows, keyspace)
                assert leaves == compute_leaves(rows, keyspace)
                assert leaves
            both = read_record(rows, 1, b"siblings")
            assert both is not None
            assert sorted(v.value or b"" for v in both.siblings.versions) == [b"left", b"right"]
            dead = read_record(rows, 1, b"tombstone")
            assert dead is not None
            assert dead.siblings.reapable_from_ms() == 0
            assert read_record(rows, 1, b"dropped") is None
            turn = Turn(rows, merge)
            used = max(
                record["epoch"]
                for space in told["keyspaces"].values()
                for record in space["objects"].values()
            )
            assert turn.next_epoch() == used + 1, "no epoch is given out twice"
            turn.hints.add("node-c", 1, b"siblings", both.siblings, 3_000)
            held = turn.hints.held("node-c", 1, b"siblings")
            assert held is not None
            assert held.sequence == told["last_hint_sequence"] + 1
            batch = Batch()
            turn.collect(batch)
        engine.write(batch, sync=True)


def test_the_comparison_sees_a_single_changed_value(
    fixture: Path, expected: dict[str, Any]
) -> None:
    changed = json.loads(json.dumps(expected))
    changed["shard"]["keys"][0][5] += "x"
    with pytest.raises(AssertionError):
        holds(expected, changed)
    del changed["objects"]["hints"]
    changed["shard"] = expected["shard"]
    with pytest.raises(AssertionError, match="hints is gone"):
        holds(expected, changed)
