"""Hazards of the log and of snapshots: d (disk), h, i (compaction), n2 (late ones), n6 (size)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raftgroups.errors import BrokenLogError
from raftgroups.journal import GroupJournal
from raftgroups.membership import Config
from raftgroups.messages import Ack, Append, Chunk, Offer
from raftgroups.records import journal_key
from raftgroups.transport import NodeId
from storage.engine import Batch
from storage.errors import CorruptRecordError
from storage.memory import MemoryEngine

Make = Callable[..., Any]
A, B = NodeId("a"), NodeId("b")


def led_by_a(make_cluster: Make, count: int = 10, **settings: Any) -> Any:
    cluster = make_cluster(3, **settings)
    cluster.create()
    cluster.put(b"first")
    cluster.make_leader(A)
    for number in range(count):
        cluster.put(b"%d" % number)
    cluster.converge()
    cluster.run(1.0)
    cluster.network.log.clear()
    return cluster


def journal(engine: MemoryEngine, **settings: int) -> GroupJournal:
    sizes = {"window_entries": 100, "window_bytes": 1 << 20, **settings}
    return GroupJournal(engine, 1, **sizes)


def write(made: GroupJournal, engine: MemoryEngine) -> None:
    batch = Batch()
    made.prepare(batch)
    engine.write(batch, sync=True)
    made.after_commit()


def formed(engine: MemoryEngine, entries: int, **settings: int) -> GroupJournal:
    made = journal(engine, **settings)
    made.form(Config.initial([A, B], {A: 1, B: 2}))
    for index in range(2, 2 + entries):
        made.add(b"\x01", index, 1)
    write(made, engine)
    return made


# --- d ---------------------------------------------------------------------------------------


def test_hazard_d_everything_of_a_turn_is_written_together_and_reads_back() -> None:
    engine = MemoryEngine()
    made = formed(engine, 5)
    made.setCurrentTerm(7, "b")
    made.deleteEntriesFrom(4)
    made.add(b"\x01", 5, 6)
    made.add(b"\x01", 6, 7)
    batch = Batch()
    made.prepare(batch)
    again = journal(engine)
    assert again.load()
    assert (again.last_index, again.last_term, again.hard.term) == (6, 1, 0)
    engine.write(batch, sync=True)
    again = journal(engine)
    assert again.load()
    assert [again.term_at(index) for index in range(1, 7)] == [0, 1, 1, 1, 6, 7]
    assert (again.hard.term, again.hard.vote) == (7, "b")


def test_hazard_d_a_damaged_entry_is_never_read_as_something_else(make_cluster: Make) -> None:
    engine = MemoryEngine()
    formed(engine, 5)
    key = journal_key(1, 4)
    record = bytearray(engine.values[key])
    record[-1] ^= 1
    engine.values[key] = bytes(record)
    with pytest.raises(CorruptRecordError):
        journal(engine).load()


def test_hazard_d_an_entry_under_another_index_is_refused() -> None:
    engine = MemoryEngine()
    formed(engine, 5)
    engine.values[journal_key(1, 4)] = engine.values[journal_key(1, 5)]
    with pytest.raises(CorruptRecordError):
        journal(engine).load()


def test_hazard_d_a_gap_in_the_log_is_refused() -> None:
    engine = MemoryEngine()
    formed(engine, 5)
    batch = Batch()
    batch.delete(journal_key(1, 4))
    engine.write(batch, sync=True)
    with pytest.raises(BrokenLogError, match="gaps"):
        journal(engine).load()


def test_entries_that_do_not_follow_are_refused() -> None:
    made = formed(MemoryEngine(), 3)
    with pytest.raises(BrokenLogError, match="cannot follow"):
        made.add(b"\x01", 9, 1)
    with pytest.raises(BrokenLogError, match="cannot follow"):
        made.add(b"\x01", 5, 0)


# --- h, i ------------------------------------------------------------------------------------


def test_hazard_h_compaction_writes_no_dump_and_keeps_a_tail(make_cluster: Make) -> None:
    cluster = led_by_a(make_cluster, 50)
    engine = cluster["a"].engine
    written = engine.statistics().put_bytes
    first = cluster["a"].group.compact(keep=10)
    status = cluster["a"].group.status()
    assert status.last_index - first == 9
    cluster.put(b"next")
    cluster.run(1.0)
    assert engine.statistics().put_bytes - written < 5_000
    assert engine.snapshot().get(journal_key(1, first)) is not None
    assert engine.snapshot().get(journal_key(1, first - 1)) is None


def test_hazard_h_compaction_waits_for_a_snapshot_under_way(make_cluster: Make) -> None:
    cluster = led_by_a(make_cluster, 30, snapshot_chunk_bytes=64, snapshot_window_chunks=1)
    cluster.network.isolate("c", cluster.ids)
    for number in range(30):
        cluster.put(b"%d" % number)
    cluster.run(1.0)
    cluster["a"].group.compact(keep=0)
    cluster.network.heal()
    cluster.until(lambda: bool(cluster["a"].group.replica.sender.streams))
    stream = cluster["a"].group.replica.sender.streams["c"]
    cluster.network.hold("c", "a")
    for number in range(30):
        cluster.put(b"%d" % number)
    cluster.run(0.7)
    assert cluster["a"].group.compact(keep=0) == stream.offer.last_index + 1
    cluster.network.release("c", "a")
    cluster.converge()
    assert cluster["c"].group.status().snapshots_received == 1


def test_hazard_h_nothing_is_compacted_that_is_not_durably_applied(make_cluster: Make) -> None:
    cluster = led_by_a(make_cluster)
    cluster.put(b"y")
    status = cluster["a"].group.status()
    assert status.durable_applied_index < status.applied_index
    cluster["a"].group.replica.journal.compact(status.last_index)
    assert cluster["a"].group.status().first_index == status.durable_applied_index + 1


def test_hazard_h_a_log_of_large_entries_is_compacted_by_bytes(make_cluster: Make) -> None:
    cluster = led_by_a(make_cluster, compact_after_bytes=50_000, keep_bytes=20_000)
    for _ in range(200):
        cluster.put(b"x" * 1000)
    status = cluster["a"].group.status()
    assert 10 < status.last_index - status.first_index < 80


def test_hazard_i_a_compacted_log_restarts_where_it_was(make_cluster: Make) -> None:
    cluster = led_by_a(make_cluster, 20)
    cluster["b"].group.compact(keep=3)
    cluster.put(b"y")
    cluster.run(1.0)
    before = cluster["b"].group.status()
    node = cluster.restart("b")
    after = node.group.status()
    assert after.applied_index == before.durable_applied_index >= 20
    assert (after.first_index, after.last_index) == (before.first_index, before.last_index)
    cluster.put(b"z")
    cluster.converge()
    assert [payload for _, payload in node.machine.applied] == [b"z"]


def test_hazard_i_entries_applied_but_not_written_are_applied_again(make_cluster: Make) -> None:
    cluster = led_by_a(make_cluster)
    cluster.put(b"y")
    cluster.converge()
    assert cluster["b"].group.status().durable_applied_index < (
        cluster["b"].group.status().applied_index
    )
    node = cluster.restart("b")
    assert b"y" not in node.machine.rows()
    cluster.converge()
    assert node.machine.rows().count(b"y") == 1


def test_hazard_i_an_index_is_never_applied_twice(make_cluster: Make) -> None:
    cluster = led_by_a(make_cluster, 20)
    for _ in range(3):
        cluster.restart("b")
        cluster.put(b"y")
        cluster.run(1.0)
    cluster.converge()
    assert len(cluster["b"].machine.rows()) == 24


# --- n2 --------------------------------------------------------------------------------------


def _offer(cluster: Any, index: int, term: int) -> Offer:
    leader = cluster["a"].group
    ranges = [list(pair) for pair in leader.machine.owned_ranges()]
    config = leader.replica.journal.config.encode()
    return Offer(1, leader.term, 99, index, term, 1, config, ranges)


def test_hazard_n2_a_late_snapshot_never_rewinds(make_cluster: Make) -> None:
    cluster = led_by_a(make_cluster)
    follower = cluster["b"]
    rows, applied = follower.machine.rows(), follower.group.status().applied_index
    offer = _offer(cluster, 3, 1)
    cluster.inject("a", "b", offer)
    cluster.run(0.01)
    assert cluster.sent(Ack, "b")[-1].next_index == applied + 1
    from raftgroups.snapshot import encode_rows

    data, checksum = encode_rows([])
    cluster.inject("a", "b", Chunk(1, offer.term, 99, 0, True, checksum, data))
    cluster.run(0.5)
    assert follower.group.status().applied_index >= applied
    assert follower.machine.rows() == rows
    assert follower.group.status().snapshots_received == 0


def test_hazard_n2_acknowledged_entries_behind_a_snapshot_are_kept(make_cluster: Make) -> None:
    """b holds and has acknowledged entries that it does not know to be committed; a snapshot that
    ends in the middle of them must not drop the rest."""
    cluster = led_by_a(make_cluster)
    cluster.network.isolate("c", cluster.ids)
    follower = cluster["b"]

    def without_commit(source: str, target: str, message: Any) -> list[Any]:
        if isinstance(message, Append) and target == "b":
            return [message._replace(commit=0)]
        return [message]

    cluster.network.tap = without_commit
    before = follower.group.status().applied_index
    for number in range(5):
        cluster.put(b"%d" % number)
    journal = follower.group.replica.journal
    last = journal.last_index
    assert last >= before + 5
    assert follower.group.status().commit_index == before
    cluster.inject("a", "b", _offer(cluster, before + 2, journal.term_at(before + 2)))
    cluster.run(0.01)
    assert journal.last_index == last
    assert follower.group.replica.receiver.incoming is None


def test_hazard_n2_a_snapshot_overtaken_by_entries_is_thrown_away(make_cluster: Make) -> None:
    cluster = led_by_a(make_cluster, 30, snapshot_chunk_bytes=64)
    follower = cluster["b"]
    offer = _offer(cluster, follower.group.status().last_index + 1, cluster["a"].group.term)
    cluster.inject("a", "b", offer)
    cluster.run(0.01)
    assert follower.group.replica.receiver.incoming is not None
    for number in range(3):
        cluster.put(b"%d" % number)
    cluster.converge()
    rows = follower.machine.rows()
    from raftgroups.snapshot import encode_rows

    data, checksum = encode_rows([])
    cluster.inject("a", "b", Chunk(1, offer.term, 99, 0, True, checksum, data))
    cluster.run(0.1)
    assert follower.machine.rows() == rows
    assert follower.group.replica.receiver.incoming is None


def test_hazard_n2_offers_of_others_or_of_another_term_are_dropped(make_cluster: Make) -> None:
    cluster = led_by_a(make_cluster)
    offer = _offer(cluster, 10_000, 1)
    cluster.inject("c", "b", offer)
    cluster.inject("a", "b", offer._replace(term=offer.term - 1))
    cluster.run(0.01)
    assert cluster["b"].host.status().dropped["late-snapshot"] == 2
    assert cluster["b"].group.replica.receiver.incoming is None


# --- n6 --------------------------------------------------------------------------------------


def test_hazard_n6_only_a_window_of_the_log_is_in_memory(make_cluster: Make) -> None:
    cluster = led_by_a(make_cluster, window_entries=16)
    cluster.network.isolate("c", cluster.ids)
    for number in range(200):
        cluster.put(b"%d" % number)
    journal = cluster["a"].group.replica.journal
    assert journal.last_index - journal.window.first < 20
    cluster.network.heal()
    cluster.converge()
    assert cluster["c"].group.status().snapshots_received == 0
    assert journal.last_index - journal.window.first < 20


def test_hazard_n6_the_window_is_bounded_in_bytes_and_never_loses_the_last_entry() -> None:
    engine = MemoryEngine()
    made = formed(engine, 1, window_bytes=1000)
    for index in range(3, 60):
        made.add(b"\x01" + b"x" * 2000, index, 1)
        write(made, engine)
    assert made.last_index - made.window.first < 3
    assert made[-1][1] == 59
    assert [entry[1] for entry in made.window.read(2, 1 << 20)] == list(range(2, 60))
    assert [entry[1] for entry in made.entries(2, 4)] == [2, 3, 4, 5]


def test_hazard_n6_a_truncation_below_the_window_keeps_the_log_whole() -> None:
    engine = MemoryEngine()
    made = formed(engine, 60, window_entries=8)
    assert made.window.first > 50
    made.deleteEntriesFrom(20)
    assert (made[-1][1], made.last_index) == (20, 20)
    made.add(b"\x01", 21, 2)
    write(made, engine)
    again = journal(engine)
    assert again.load()
    assert [again.term_at(index) for index in (19, 20, 21)] == [1, 1, 2]
    assert again.last_index == 21


def test_hazard_n6_pages_read_back_do_not_outlive_a_truncation() -> None:
    engine = MemoryEngine()
    made = formed(engine, 60, window_entries=8)
    assert made.term_at(10) == 1
    made.deleteEntriesFrom(20)
    for index in range(21, 61):
        made.add(b"\x01", index, 2)
    write(made, engine)
    assert made.window.first > 50
    assert [made.term_at(index) for index in (20, 21, 40)] == [1, 2, 2]


def test_hazard_n6_a_leap_of_the_clock_costs_no_safety(make_cluster: Make) -> None:
    cluster = led_by_a(make_cluster)
    for node in ("a", "b"):
        term = cluster["b"].group.term
        cluster[node].life.leapt_s = 3600.0
        cluster.run(1.0)
        assert cluster["b"].group.term <= term + 1
        cluster.put(b"after " + node.encode())
        cluster.converge()
    assert cluster["c"].machine.rows()[-2:] == [b"after a", b"after b"]
