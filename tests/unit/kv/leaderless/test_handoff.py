"""Hinted handoff: paced by the receiver, bounded, and unimpressed by damage and restarts."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.sim.leaderless import LeaderlessCluster, LeaderlessMachine
from chaos.sim.leaderless_storm import held, values
from kv.leaderless import server
from kv.leaderless.assembly import Leaderless
from kv.leaderless.frames import Store
from kv.leaderless.handoff import HandoffSettings
from kv.leaderless.rules import Write
from storage.engine import Batch
from storage.hints import HintUsage, hint_key

COUNT = 40


def with_hints(seed: int, **handoff: Any) -> LeaderlessCluster:
    """Three nodes of which n2 has missed COUNT writes; it is down."""
    cluster = LeaderlessCluster(seed, 3, handoff=HandoffSettings(**handoff))
    cluster.machines[2].crash(power=False)
    cluster.run(1.0)
    for number in range(COUNT):
        put(cluster, b"k%d" % number, b"v")
    cluster.run(3.0)
    assert usage(cluster).count == COUNT
    return cluster


def put(cluster: LeaderlessCluster, key: bytes, value: bytes) -> None:
    regime_of(cluster.machines[0]).coordinator.put(1, key, Write(value), lambda answer: None)


def regime_of(machine: LeaderlessMachine) -> Leaderless:
    assert machine.regime is not None
    return machine.regime


def usage(cluster: LeaderlessCluster) -> HintUsage:
    return regime_of(cluster.machines[0]).replica.hint_usages().get("n2", HintUsage())


def arrived(cluster: LeaderlessCluster) -> int:
    keys = [b"k%d" % number for number in range(COUNT)]
    return sum(values(held(cluster.machines[2], key)) == [b"v"] for key in keys)


def test_they_go_over_in_windows_and_pages() -> None:
    cluster = with_hints(1, window=3, page=7)
    most = 0
    waiting = regime_of(cluster.machines[0]).messenger

    def meddle(source: Any, target: Any, channel: str, frame: bytes) -> bytes:
        nonlocal most
        most = max(most, waiting.waiting)
        return frame

    cluster.network.meddler = meddle
    cluster.machines[2].start()
    cluster.run(5.0)
    assert arrived(cluster) == COUNT
    assert usage(cluster) == HintUsage()
    assert 0 < most <= 3


def test_the_receiver_puts_them_off_while_it_has_enough_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = with_hints(2)
    monkeypatch.setattr(server, "REPLAY_PENDING_MAX", -1)
    cluster.machines[2].start()
    cluster.run(3.0)
    handoff = regime_of(cluster.machines[0]).handoff
    assert arrived(cluster) == 0
    assert usage(cluster).count == COUNT
    assert 10 < handoff.put_off < 64 * 3 / 0.05, "it waits as long as it was told"
    monkeypatch.undo()
    cluster.run(3.0)
    assert arrived(cluster) == COUNT
    assert usage(cluster).count == 0


def test_a_receiver_that_fails_is_tried_again_later() -> None:
    cluster = with_hints(3, retry_s=0.5)
    cluster.machines[2].start()
    regime = regime_of(cluster.machines[2])
    serve = regime.server.serve
    refused = 0

    def failing(peer: Any, request: Any, reply: Any) -> None:
        nonlocal refused
        if isinstance(request, Store) and refused < 2:
            refused += 1
            reply(server.Status.FAILED, b"not now")
        else:
            serve(peer, request, reply)

    regime.server.serve = failing  # type: ignore[method-assign]
    cluster.run(5.0)
    assert refused == 2
    assert arrived(cluster) == COUNT


def test_a_write_during_the_replay_is_not_forgotten() -> None:
    cluster = with_hints(4, window=1)
    cluster.machines[2].start()
    for number in range(COUNT):
        put(cluster, b"k%d" % number, b"w")
        cluster.run(0.01)
    cluster.calm()
    for number in range(COUNT):
        assert values(held(cluster.machines[2], b"k%d" % number)) == [b"v", b"w"]
    assert usage(cluster).count == 0


def test_a_damaged_hint_is_given_up_and_counted() -> None:
    cluster = with_hints(5)
    holder = cluster.machines[0]
    page = regime_of(holder).replica.hints(cluster.machines[2].node, after=0, limit=9, max_bytes=99)
    batch = Batch()
    batch.put(hint_key("n2", page.hints[0].sequence), b"garbage")
    holder.engine.write(batch, sync=True)
    holder.crash(power=False)
    holder.start()
    cluster.machines[2].start()
    cluster.run(8.0)
    assert arrived(cluster) == COUNT, "the target was asked to mend itself"
    assert (usage(cluster).count, usage(cluster).overflowed) == (0, 0)
    assert regime_of(holder).replica.alarms["damaged_hint"] >= 1


def test_hints_outlive_the_node_that_holds_them() -> None:
    cluster = with_hints(6)
    cluster.machines[0].crash(power=True)
    cluster.machines[2].start()
    cluster.run(2.0)
    assert arrived(cluster) == 0
    cluster.machines[0].start()
    cluster.run(3.0)
    assert arrived(cluster) == COUNT
