"""What becomes of leaderless data that was put back from a copy."""

from __future__ import annotations

import random

import pytest

from kv.cluster.gossip_wire import Kept, encode_kept
from kv.cluster.membership import NodeInfo, Status
from kv.leaderless.incarnation import read_incarnation, write_incarnation
from kv.leaderless.members import ROW, empty_if_restored, keep_if_restored
from raftgroups.transport import NodeId
from storage.engine import Batch, Engine
from storage.memory import MemoryEngine
from storage.rows import put_row

BEFORE, AFTER = 11, 22
"""Incarnations of the data directory: when the copy was made, and once it was put back."""
DATA = b"\x30something"


def _info(name: str) -> NodeInfo:
    return NodeInfo(NodeId(name), 1, 1, Status.NORMAL, "a:1", "a:2")


@pytest.fixture
def engine() -> Engine:
    engine = MemoryEngine()
    batch = Batch()
    write_incarnation(batch, 7, BEFORE)
    put_row(batch, ROW, encode_kept(Kept(_info("n1"), (_info("n2"),), (), {})))
    batch.put(DATA, b"kept")
    engine.write(batch, sync=True)
    return engine


def _has_data(engine: Engine) -> bool:
    with engine.snapshot() as reader:
        return reader.get(DATA) is not None


def test_a_restored_node_begins_empty_since_others_can_fill_it(engine: Engine) -> None:
    assert empty_if_restored(engine, AFTER)
    assert not _has_data(engine)


def test_a_restart_is_no_restoration(engine: Engine) -> None:
    assert not empty_if_restored(engine, BEFORE)
    assert _has_data(engine)


def test_data_that_is_kept_once_stays_at_every_later_start(engine: Engine) -> None:
    keep_if_restored(engine, AFTER, random.Random(1))
    with engine.snapshot() as reader:
        assert read_incarnation(reader, AFTER) not in (None, 7)
    assert not empty_if_restored(engine, AFTER)
    assert _has_data(engine)


def test_keeping_changes_nothing_where_nothing_was_restored(engine: Engine) -> None:
    keep_if_restored(engine, BEFORE, random.Random(1))
    with engine.snapshot() as reader:
        assert read_incarnation(reader, BEFORE) == 7
