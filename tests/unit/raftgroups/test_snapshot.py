"""Snapshots and compaction: a replica that is too far behind, crashes in the middle, bad chunks."""

from __future__ import annotations

from typing import Any

from raftgroups.messages import Chunk, Offer, OfferReply
from raftgroups.outcomes import Done, ReadReady
from raftgroups.snapshot import Phase
from raftgroups.status import Role
from raftgroups.transport import NodeId
from storage.engine import Batch
from tests.unit.raftgroups.members import D, Make, changed, steady

SMALL = {"snapshot_chunk_bytes": 64, "snapshot_window_chunks": 2}


def behind(cluster: Any, count: int = 40) -> Any:
    """c is cut off while the others write and compact; a leads."""
    cluster.create()
    cluster.put(b"first")
    cluster.make_leader(NodeId("a"))
    cluster.converge()
    cluster.network.isolate("c", cluster.ids)
    for number in range(count):
        cluster.put(b"%04d" % number)
    cluster.run(1.0)
    assert cluster["a"].group.compact(keep=2) > count
    return cluster["c"]


def test_a_follower_behind_the_log_gets_a_snapshot(make_cluster: Make) -> None:
    cluster = make_cluster(3, **SMALL)
    follower = behind(cluster)
    cluster.network.heal()
    cluster.converge()
    assert follower.group.status().snapshots_received == 1
    cluster.until(lambda: cluster["a"].group.status().snapshots_sent == 1)
    assert len(follower.machine.rows()) == 41
    assert follower.machine.resets == 1
    cluster.put(b"more")
    cluster.converge()
    assert not follower.host.engine.snapshot().get(b"\x15" + (1).to_bytes(8, "big"))


def test_the_ranges_of_a_snapshot_are_those_of_its_rows(make_cluster: Make) -> None:
    cluster = make_cluster(3, **SMALL)
    behind(cluster)
    leader = cluster["a"]
    replica, asked = leader.group.replica, []
    owned_ranges = leader.machine.owned_ranges

    def recorded() -> Any:
        asked.append((replica.journal.durable_applied, replica.raft.applied_index))
        return owned_ranges()

    leader.machine.owned_ranges = recorded
    cluster.put(b"applied and not written yet")
    assert replica.journal.durable_applied < replica.raft.applied_index
    cluster.network.heal()
    cluster.converge()
    assert asked
    assert all(written == applied for written, applied in asked)


def test_compaction_keeps_a_tail_and_no_follower_needs_a_snapshot(make_cluster: Make) -> None:
    cluster = make_cluster(3, compact_after_entries=20, keep_entries=30)
    cluster.create()
    for number in range(200):
        cluster.put(b"%d" % number)
    status = cluster.lead().group.status()
    assert 30 <= status.last_index - status.first_index <= 55
    lagging = cluster.followers()[0].id
    cluster.network.isolate(lagging, cluster.ids)
    for number in range(20):
        cluster.put(b"%d" % number)
    cluster.network.heal()
    cluster.converge()
    assert cluster[lagging].group.status().snapshots_received == 0


def test_the_receiver_crashes_while_staging_and_gets_only_the_rest(make_cluster: Make) -> None:
    cluster = make_cluster(3, **SMALL)
    follower = behind(cluster)
    cluster.network.heal()
    cluster.until(lambda: follower.group.replica.receiver.next_chunk >= 6)
    follower = cluster.restart("c")
    staged = follower.group.replica.receiver.next_chunk
    assert staged >= 4
    assert follower.machine.rows() == [b"first"]
    cluster.network.log.clear()
    cluster.converge()
    sent = [m.number for _, to, m in cluster.network.log if isinstance(m, Chunk) and to == "c"]
    assert min(sent) >= staged
    assert follower.group.status().snapshots_received == 1


def test_the_receiver_crashes_after_the_switch_and_goes_on_moving(
    make_cluster: Make, monkeypatch: Any
) -> None:
    monkeypatch.setattr("raftgroups.snapshot_receive.MOVE_BYTES", 100)
    cluster = make_cluster(3, **SMALL)
    follower = behind(cluster)
    cluster.network.heal()

    def half_moved() -> bool:
        incoming = follower.group.replica.receiver.incoming
        return incoming is not None and incoming.phase is Phase.MOVING and incoming.moved >= 3

    cluster.until(half_moved)
    engine = cluster.crash("c")
    cluster.network.lives.pop("c", None)
    follower = cluster.start(NodeId("c"), engine)
    replica = follower.group.replica
    assert replica.installing
    assert not replica.may_campaign()
    assert follower.group.role is Role.FOLLOWER, "its node serves on"
    assert not follower.group.readable
    cluster.until(lambda: not replica.installing)
    cluster.converge()
    assert len(follower.machine.rows()) == 41


def test_the_sender_dies_and_the_next_leader_sends_its_own(make_cluster: Make) -> None:
    cluster = make_cluster(3, **SMALL)
    follower = behind(cluster)
    cluster["b"].group.compact(keep=2)
    cluster.network.heal()
    cluster.until(lambda: follower.group.replica.receiver.next_chunk >= 4)
    cluster.crash("a")
    cluster.converge()
    assert follower.group.status().snapshots_received == 1


def test_lost_chunks_are_sent_again(make_cluster: Make) -> None:
    cluster = make_cluster(3, **SMALL)
    behind(cluster)
    lost: list[int] = []

    def tap(source: str, target: str, message: Any) -> list[Any]:
        if isinstance(message, Chunk) and message.number % 3 == 1 and message.number not in lost:
            lost.append(message.number)
            return []
        return [message]

    cluster.network.tap = tap
    cluster.network.heal()
    cluster.converge()
    assert len(lost) > 3


def test_a_damaged_chunk_or_one_with_foreign_rows_is_never_staged(make_cluster: Make) -> None:
    cluster = make_cluster(3, **SMALL)
    follower = behind(cluster)
    done: list[str] = []

    def tap(source: str, target: str, message: Any) -> list[Any]:
        if isinstance(message, Chunk) and message.number == 2 and "damage" not in done:
            done.append("damage")
            return [message._replace(rows=message.rows[:-1] + b"\x00")]
        if isinstance(message, Chunk) and message.number == 6 and "foreign" not in done:
            done.append("foreign")
            from raftgroups.snapshot import encode_rows

            rows, checksum = encode_rows([(b"\x12elsewhere", b"x")])
            return [message._replace(rows=rows, checksum=checksum)]
        return [message]

    cluster.network.tap = tap
    cluster.network.heal()
    cluster.converge()
    dropped = follower.host.status().dropped
    assert dropped["snapshot-chunk-damaged"] == 1
    assert dropped["snapshot-row-out-of-range"] == 1


def test_an_offer_that_overlaps_another_replica_is_refused(make_cluster: Make) -> None:
    cluster = make_cluster(3, **SMALL)
    follower = behind(cluster)
    follower.host.create(2, ["c"])
    overlapping = follower.host.group(2).replica.machine.owned_ranges()
    follower.host.group(
        2
    ).replica.machine.owned_ranges = follower.group.replica.machine.owned_ranges
    cluster.network.heal()
    cluster.until(lambda: "snapshot-overlaps" in follower.host.status().dropped)
    assert follower.group.status().snapshots_received == 0
    follower.host.group(2).replica.machine.owned_ranges = lambda: overlapping
    cluster.converge()
    assert follower.group.status().snapshots_received == 1


def test_a_new_node_starts_from_a_snapshot_learns_and_becomes_a_voter(make_cluster: Make) -> None:
    cluster = make_cluster(3, **SMALL)
    cluster.create()
    for number in range(30):
        cluster.put(b"%d" % number)
    new = cluster.start(NodeId("d"))
    new.host.join(1)
    cluster.run(3.0)
    assert new.group.status().role is Role.LEARNER
    results: list[object] = []
    cluster.lead().group.add_learner(NodeId("d"), results.append)
    cluster.until(lambda: len(results) == 1)
    assert isinstance(results[0], Done)
    cluster.lead().group.promote(NodeId("d"), results.append)
    cluster.until(lambda: len(results) == 2)
    assert isinstance(results[1], Done)
    cluster.converge()
    assert new.group.status().voters == ("a", "b", "c", "d")
    assert new.group.status().snapshots_received == 1
    read = cluster.read(new)
    cluster.until(lambda: bool(read))
    assert isinstance(read[0], ReadReady)


def joining(cluster: Any, count: int = 60) -> Any:
    """d is added as a learner and has got some of its first snapshot."""
    cluster.create()
    for number in range(count):
        cluster.put(b"%04d" % number)
    new = cluster.start(NodeId("d"))
    new.host.join(1)
    cluster.lead().group.add_learner(NodeId("d"), lambda result: None)
    cluster.until(lambda: new.group.replica.receiver.written >= 4)
    return new


def rows_of_data(engine: Any) -> int:
    with engine.snapshot() as rows:
        return sum(1 for key, _ in rows.scan(limit=100_000).items if key[0] >= 0x20)


def test_a_replica_without_a_state_gets_rows_put_in_place_at_once(
    make_cluster: Make, monkeypatch: Any
) -> None:
    monkeypatch.setattr("raftgroups.snapshot_receive.BATCH_BYTES", 1)
    cluster = make_cluster(3, **SMALL)
    new = joining(cluster)
    replica = new.group.replica
    assert replica.receiver.placing
    assert rows_of_data(new.host.engine)
    assert list(replica.owned_ranges()) == list(replica.receiver.incoming.ranges)
    assert not replica.may_campaign()
    assert new.machine.applied == []
    with new.host.engine.snapshot() as rows:
        assert rows.get(b"\x15" + (1).to_bytes(8, "big")) is not None
        assert not rows.scan(b"\x15" + (1).to_bytes(8, "big") + b"\x01", b"\x16").items
    cluster.until(lambda: new.group.status().snapshots_received == 1)
    cluster.converge()
    assert len(new.machine.rows()) == 60
    assert not new.host.engine.snapshot().get(b"\x15" + (1).to_bytes(8, "big"))


def test_what_was_placed_and_not_switched_to_is_gone_after_a_restart(
    make_cluster: Make, monkeypatch: Any
) -> None:
    monkeypatch.setattr("raftgroups.snapshot_receive.BATCH_BYTES", 1)
    cluster = make_cluster(3, **SMALL)
    new = joining(cluster)
    assert rows_of_data(new.host.engine)
    new = cluster.restart("d")
    assert new.group.replica.receiver.incoming is None
    assert new.group.replica.waiting
    assert not rows_of_data(new.host.engine)
    cluster.converge()
    assert len(new.machine.rows()) == 60


def test_what_was_placed_goes_when_the_next_leader_offers_its_own(
    make_cluster: Make, monkeypatch: Any
) -> None:
    monkeypatch.setattr("raftgroups.snapshot_receive.BATCH_BYTES", 1)
    cluster = make_cluster(3, **SMALL)
    new = joining(cluster)
    first = new.group.replica.receiver.incoming.snapshot
    prefix = new.group.replica.receiver.incoming.ranges[0][0]
    stray = Batch()
    stray.put(prefix + b"zzz-of-the-first", b"x")
    new.host.engine.write(stray, sync=True)
    cluster.crash(cluster.lead().id)
    receiver = new.group.replica.receiver
    cluster.until(lambda: receiver.incoming is not None and receiver.incoming.snapshot != first)
    cluster.converge()
    assert len(new.machine.rows()) == 60
    assert new.host.engine.snapshot().get(prefix + b"zzz-of-the-first") is None


def test_a_replica_that_is_being_filled_is_erased_with_its_rows(
    make_cluster: Make, monkeypatch: Any
) -> None:
    monkeypatch.setattr("raftgroups.snapshot_receive.BATCH_BYTES", 1)
    cluster = make_cluster(3, **SMALL)
    new = joining(cluster)
    cluster.network.isolate("d", cluster.ids)
    gone: list[bool] = []
    new.host.forget(1, lambda: gone.append(True))
    cluster.until(lambda: bool(gone))
    assert not rows_of_data(new.host.engine)


def test_all_was_on_the_disk_when_the_receiver_crashed(
    make_cluster: Make, monkeypatch: Any
) -> None:
    """A staged snapshot without its switch: nothing more comes, and it is switched to."""
    cluster = make_cluster(3, **SMALL)
    follower = behind(cluster)
    receiver = type(follower.group.replica.receiver)
    step = receiver.step
    monkeypatch.setattr(receiver, "step", lambda self: None)
    cluster.network.heal()
    replica = follower.group.replica
    cluster.until(lambda: replica.receiver.incoming is not None and replica.receiver._last_came)
    cluster.until(lambda: not replica.receiver._waiting)
    cluster.run(0.1)
    follower = cluster.restart("c")
    assert follower.group.replica.receiver.incoming.chunks > 0
    monkeypatch.setattr(receiver, "step", step)
    cluster.network.log.clear()
    cluster.converge()
    assert not any(isinstance(m, Chunk) for _, _, m in cluster.network.log)
    assert len(follower.machine.rows()) == 41


def test_replies_of_another_stream_are_dropped(make_cluster: Make) -> None:
    cluster = make_cluster(3)
    cluster.create()
    leader = cluster.lead()
    other = cluster.followers()[0].id
    leader.group.replica.sender.on_reply(
        other, cluster[other].host.incarnation, OfferReply(1, 1, 99, 0)
    )
    assert leader.host.status().dropped["late-snapshot-reply"] == 1
    assert not any(isinstance(m, Offer) for _, _, m in cluster.network.log)


def test_a_node_that_lost_its_disk_does_not_keep_the_place_of_a_stream(make_cluster: Make) -> None:
    """What it says counts for nothing in its group, but that it refuses the snapshot does: others
    wait for the place, its replacement among them (seed 17 of the governed storms)."""
    cluster = make_cluster(3, **SMALL)
    behind(cluster)
    cluster.network.heal()
    leader = cluster["a"].group.replica
    cluster.until(lambda: bool(leader.sender.streams))
    (peer, stream), foreign = next(iter(leader.sender.streams.items())), 99
    snapshot = stream.offer.snapshot
    leader.sender.on_reply(peer, foreign, OfferReply(1, 1, snapshot, 1))
    assert leader.sender.streams[peer].acknowledged == stream.acknowledged
    leader.sender.on_reply(peer, foreign, OfferReply(1, 1, snapshot, None))
    assert not leader.sender.streams
    assert leader.services.snapshot_slots.taken == 0


def test_replies_that_come_more_than_once_do_not_multiply_chunks(make_cluster: Make) -> None:
    """Each had the window sent again; every chunk of that was answered, and so on without end."""
    cluster = make_cluster(3, **{**SMALL, "snapshot_window_chunks": 4})
    follower = behind(cluster)
    chunks: list[int] = []

    def tap(source: str, target: str, message: Any) -> list[Any]:
        if isinstance(message, Chunk):
            chunks.append(message.number)
            assert len(chunks) < 1_000, "a storm"
        return [message] * (4 if isinstance(message, OfferReply) else 1)

    cluster.network.tap = tap
    cluster.network.heal()
    cluster.converge()
    assert follower.group.status().snapshots_received == 1
    assert len(chunks) <= 4 * len(set(chunks))


def test_a_snapshot_under_way_tells_how_far_it_is(make_cluster: Make) -> None:
    cluster = steady(make_cluster, snapshot_chunk_bytes=200, snapshot_window_chunks=1)
    for number in range(30):
        cluster.put(b"%d" % number * 20)
    cluster["a"].group.compact(0)
    cluster.run(0.1)
    made = cluster.start(D)
    made.host.join(1)
    changed(cluster, "add_learner", "d")
    seen: list[tuple[int, int]] = []

    def there() -> bool:
        peer = cluster["a"].group.status().peers[D]
        seen.append((peer.snapshot_rows, peer.snapshot_bytes))
        return bool(peer.lag == 0)

    cluster.until(there)
    rows, sizes = max(seen)
    assert rows > 1
    assert sizes > 100
