"""The leaderless regime on virtual time, one situation a test: partitions, silent and lost nodes.

Who takes a write, where its copies and hints go, what is answered, and that everything converges.
"""

from __future__ import annotations

from typing import Any

from chaos.sim import leaderless_storm as storm
from chaos.sim.leaderless import LeaderlessCluster, LeaderlessMachine
from chaos.sim.leaderless_storm import held, owners_of, values
from kv.cluster.membership import NodeInfo, Status
from kv.errors import OutcomeUnknownError, StoppingError
from kv.leaderless.dvv import Context, context_of
from kv.leaderless.get_core import GetResult, SessionNotReachedError
from kv.leaderless.handoff import HandoffSettings
from kv.leaderless.keyspace import Keyspace, Wish
from kv.leaderless.put_core import Written
from kv.leaderless.quorum import Level, LevelError, UnavailableError, WriteQuorumError
from kv.leaderless.replica import ReplicaLimits
from kv.leaderless.rules import Increment, Rule, SetLimits, Write
from kv.leaderless.view import RingView
from raftgroups.transport import NodeId
from storage.errors import JanusError, KeyTooLongError, NoSpaceError, Outcome
from storage.hints import HintLimits
from storage.siblings import SiblingSet
from storage.space import SpaceGuard


def without_gossip(source: NodeId, target: NodeId, channel: str, frame: bytes) -> bytes | None:
    return None if channel == "gossip" else frame


def put(
    cluster: LeaderlessCluster,
    machine: LeaderlessMachine,
    key: bytes,
    value: bytes | None,
    context: Context | None = None,
    **wish: Any,
) -> Written | JanusError:
    answers: list[Written | JanusError] = []
    assert machine.regime is not None
    machine.regime.coordinator.put(1, key, Write(value, context), answers.append, Wish(**wish))
    assert answers == [], "answered inside the call"
    cluster.run(6.0)
    (answer,) = answers
    return answer


def get(
    cluster: LeaderlessCluster, machine: LeaderlessMachine, key: bytes, **wish: Any
) -> GetResult | JanusError:
    return storm.get(cluster, machine, key, Wish(**wish))


# --- directed --------------------------------------------------------------------------------


def test_every_node_takes_every_key_and_names_who_has_it() -> None:
    cluster = LeaderlessCluster(1, 5)
    for number, machine in enumerate(cluster.machines):
        written = put(cluster, machine, b"k", b"%d" % number, nodes="ALL")
        assert isinstance(written, Written)
        assert sorted(written.replicas) == sorted(m.node for m in owners_of(cluster, b"k"))
        assert (written.stand_ins, written.level) == ((), Level.ALL)
    result = get(cluster, cluster.machines[0], b"k", nodes="ALL")
    assert isinstance(result, GetResult)
    assert values(result.siblings) == [b"0", b"1", b"2", b"3", b"4"]
    seen = context_of(result.siblings)
    assert isinstance(put(cluster, cluster.machines[4], b"k", b"merged", seen), Written)
    result = get(cluster, cluster.machines[1], b"k")
    assert isinstance(result, GetResult)
    assert values(result.siblings) == [b"merged"]
    assert len(result.replicas) >= 2


def test_a_writers_context_replaces_his_own_write_and_no_sibling_he_never_saw() -> None:
    cluster = LeaderlessCluster(2, 3)
    first, other = cluster.machines[:2]
    put(cluster, other, b"k", b"unseen")
    mine = put(cluster, first, b"k", b"mine")
    assert isinstance(mine, Written)
    put(cluster, first, b"k", b"mine again", mine.context)
    cluster.run(1.0)
    for machine in cluster.machines:
        assert values(held(machine, b"k")) == [b"mine again", b"unseen"]


def test_a_lone_node_takes_writes_of_keys_it_does_not_own_and_hands_them_over() -> None:
    cluster = LeaderlessCluster(3, 5)
    key = b"k"
    lone = next(m for m in cluster.machines if m not in owners_of(cluster, key))
    cluster.partition([lone], [m for m in cluster.machines if m is not lone])
    cluster.run(10.0)
    written = put(cluster, lone, key, b"alone", nodes=1)
    assert isinstance(written, Written)
    assert written.replicas == written.stand_ins == (lone.node,)
    refused = put(cluster, lone, key, b"no", nodes=2)
    assert isinstance(refused, UnavailableError)
    assert refused.outcome is Outcome.NONE
    assert isinstance(put(cluster, lone, key, b"no", nodes=1, owners=1), UnavailableError)
    assert isinstance(put(cluster, lone, key, b"no", nodes=1, strict=True), UnavailableError)
    found = get(cluster, lone, key, nodes=1)
    assert isinstance(found, GetResult)
    assert values(found.siblings) == [b"alone"]
    cluster.calm()
    for machine in owners_of(cluster, key):
        assert values(held(machine, key)) == [b"alone"]
    assert held(lone, key) is None, "a stand-in gives up its copy with its last hint"
    assert lone.regime is not None
    assert lone.regime.replica.hint_usages() == {}


def test_both_sides_of_a_partition_take_writes_and_the_siblings_meet() -> None:
    cluster = LeaderlessCluster(4, 5)
    left, right = cluster.machines[:2], cluster.machines[2:]
    cluster.partition(left, right)
    cluster.run(10.0)
    for number in range(20):
        for name, side in ((b"l", left), (b"r", right)):
            written = put(cluster, side[0], b"k%d" % number, name)
            assert isinstance(written, Written), written
            assert len(written.replicas) >= 2
    cluster.calm()
    for number in range(20):
        key = b"k%d" % number
        sets = [held(machine, key) for machine in owners_of(cluster, key)]
        assert sets[0] == sets[1] == sets[2]
        assert values(sets[0]) == [b"l", b"r"]


def test_a_down_owner_gets_what_it_missed_by_hints_alone() -> None:
    cluster = LeaderlessCluster(5, 3)
    down = cluster.machines[2]
    down.crash(power=True)
    cluster.run(1.0)
    for number in range(300):
        assert cluster.machines[0].regime is not None
        cluster.machines[0].regime.coordinator.put(
            1, b"k%d" % number, Write(b"v"), lambda answer: None
        )
    cluster.run(5.0)
    down.start()
    cluster.run(5.0)
    for number in range(300):
        assert values(held(down, b"k%d" % number)) == [b"v"]
    assert sum(m.regime.handoff.replayed for m in cluster.machines if m.regime) >= 300


def test_without_hints_a_read_repairs_the_replica_that_lacks_the_write() -> None:
    cluster = LeaderlessCluster(6, 3, handoff=HandoffSettings(enabled=False))
    down = cluster.machines[2]
    down.crash(power=False)
    cluster.run(1.0)
    put(cluster, cluster.machines[0], b"k", b"v")
    down.start()
    cluster.run(2.0)
    assert held(down, b"k") is None
    result = get(cluster, cluster.machines[0], b"k", nodes="ALL")
    assert isinstance(result, GetResult)
    assert values(held(down, b"k")) == [b"v"]


def test_an_owner_that_is_connected_and_silent_is_stood_in_for() -> None:
    cluster = LeaderlessCluster(7, 5)
    owners = owners_of(cluster, b"k")
    assert owners[1].process is not None
    for silent in owners[1:]:
        assert silent.process is not None
        silent.process.freeze(cluster.world.now + 5.0)
    answers: list[Any] = []
    assert owners[0].regime is not None
    started = cluster.world.now
    times: list[float] = []

    def done(answer: Any) -> None:
        answers.append(answer)
        times.append(cluster.world.now - started)

    owners[0].regime.coordinator.put(1, b"k", Write(b"v"), done)
    cluster.run(4.0)
    (written,) = answers
    assert isinstance(written, Written)
    assert len(written.replicas) == 2
    assert len(written.stand_ins) == 1
    assert times[0] < 2.0
    cluster.calm()
    for owner in owners:
        assert values(held(owner, b"k")) == [b"v"]


def test_too_few_copies_is_unknown_and_names_got_and_required() -> None:
    cluster = LeaderlessCluster(8, 3)
    for silent in cluster.machines[1:]:
        assert silent.process is not None
        silent.process.freeze(cluster.world.now + 30.0)
    answer = put(cluster, cluster.machines[0], b"k", b"v", nodes=2)
    assert isinstance(answer, WriteQuorumError)
    assert (answer.got, answer.required, answer.outcome) == (1, 2, Outcome.UNKNOWN)
    cluster.world.wake(cluster.machines[1].process)  # type: ignore[arg-type]
    cluster.world.wake(cluster.machines[2].process)  # type: ignore[arg-type]
    cluster.calm()
    assert values(held(cluster.machines[1], b"k")) == [b"v"], "it may still appear, and does"


def test_a_forwarded_write_that_is_not_answered_is_unknown() -> None:
    cluster = LeaderlessCluster(9, 5)
    stranger = next(m for m in cluster.machines if m not in owners_of(cluster, b"k"))
    for owner in owners_of(cluster, b"k"):
        assert owner.process is not None
        owner.process.freeze(cluster.world.now + 30.0)
    answer = put(cluster, stranger, b"k", b"v", deadline_s=0.5)
    assert isinstance(answer, OutcomeUnknownError)


def test_what_cannot_be_asked_for_is_refused_before_anything_is_sent() -> None:
    cluster = LeaderlessCluster(10, 5)
    machine = cluster.machines[0]
    assert isinstance(put(cluster, machine, b"k", b"v", nodes=4), LevelError)
    assert isinstance(put(cluster, machine, b"k", b"v", nodes="MOST"), LevelError)
    assert isinstance(get(cluster, machine, b"k", owners=9), LevelError)
    assert isinstance(put(cluster, machine, b"k" * 433, b"v"), KeyTooLongError)
    result = get(cluster, machine, b"k")
    assert isinstance(result, GetResult)
    assert result.siblings == SiblingSet()


def test_refusals_of_the_rules_come_back_from_the_node_that_mints() -> None:
    cluster = LeaderlessCluster(11, 5, keyspaces={1: Keyspace(limits=SetLimits(siblings=2))})
    stranger = next(m for m in cluster.machines if m not in owners_of(cluster, b"k"))
    for _ in range(2):
        assert isinstance(put(cluster, stranger, b"k", b"v", nodes="ALL"), Written)
    refused = put(cluster, stranger, b"k", b"v")
    assert isinstance(refused, JanusError)
    assert (refused.code, refused.outcome) == ("too_many_siblings", Outcome.NONE)


def test_increments_at_all_nodes_add_up() -> None:
    cluster = LeaderlessCluster(12, 3, keyspaces={1: Keyspace(rule=Rule.COUNTER)})
    cluster.partition(cluster.machines[:1], cluster.machines[1:])
    cluster.run(10.0)
    answers: list[Any] = []
    for machine in cluster.machines:
        assert machine.regime is not None
        for _ in range(10):
            machine.regime.coordinator.put(1, b"k", Increment(1), answers.append, Wish(nodes=1))
    cluster.run(6.0)
    assert all(isinstance(answer, Written) for answer in answers)
    cluster.calm()
    total = sum(int(v.value or b"0") for v in held(cluster.machines[0], b"k").versions)
    assert total == 30


def test_a_node_with_another_ring_is_refused_unread() -> None:
    cluster = LeaderlessCluster(13, 3)
    odd = cluster.machines[0]
    assert odd.regime is not None
    membership = odd.regime.members.membership
    membership.apply([NodeInfo(NodeId("n9"), 1, status=Status.NORMAL)])
    odd.regime.members.view = RingView.of(membership)
    cluster.network.meddler = without_gossip
    answer = put(cluster, odd, b"k", b"v", nodes=2, strict=True)
    assert isinstance(answer, JanusError)
    for machine in cluster.machines[1:]:
        assert held(machine, b"k") is None
        assert machine.regime is not None
        assert machine.regime.messenger.foreign_rings > 0
    cluster.network.meddler = None
    assert isinstance(put(cluster, odd, b"k", b"v", nodes=2), Written), "gossip has passed"


def test_hints_are_bounded_and_the_write_goes_on() -> None:
    cluster = LeaderlessCluster(14, 3, limits=ReplicaLimits(hints=HintLimits(count=5)))
    cluster.machines[2].crash(power=False)
    cluster.run(1.0)
    for number in range(10):
        written = put(cluster, cluster.machines[0], b"k%d" % number, b"v")
        assert isinstance(written, Written)
        assert len(written.replicas) == 2
    usages = [m.regime.replica.hint_usages().get("n2") for m in cluster.machines[:2] if m.regime]
    assert sum(usage.count for usage in usages if usage) <= 10
    assert all(usage.count <= 5 for usage in usages if usage)


def test_a_node_that_lost_its_disk_reuses_no_dot_and_is_filled_by_the_others() -> None:
    cluster = LeaderlessCluster(15, 3, handoff=HandoffSettings(enabled=False))
    victim, *others = cluster.machines
    put(cluster, victim, b"k", b"before", nodes="ALL")
    cluster.partition([victim], others)
    victim.lose_disk()
    cluster.run(2.0)
    cluster.network.heal()
    cluster.run(1.0)
    assert held(victim, b"k") is None
    regime = victim.regime
    assert regime is not None
    assert regime.members.lacking, "it knows by now that it has a past"
    storm.wait(cluster, lambda: not regime.members.lacking)
    assert values(held(victim, b"k")) == [b"before"]
    assert isinstance(put(cluster, victim, b"k", b"after", nodes="ALL"), Written)
    result = get(cluster, cluster.machines[1], b"k", nodes="ALL")
    assert isinstance(result, GetResult)
    assert values(result.siblings) == [b"after", b"before"]
    for machine in cluster.machines:
        assert values(held(machine, b"k")) == [b"after", b"before"]


def test_a_session_is_told_when_nobody_in_reach_has_what_it_saw() -> None:
    cluster = LeaderlessCluster(16, 3, handoff=HandoffSettings(enabled=False))
    lone, others = cluster.machines[0], cluster.machines[1:]
    cluster.partition([lone], others)
    cluster.run(10.0)
    written = put(cluster, others[0], b"k", b"v")
    assert isinstance(written, Written)
    answers: list[Any] = []

    def read() -> Any:
        assert lone.regime is not None
        clock = written.context.clock
        lone.regime.coordinator.get(1, b"k", answers.append, Wish(nodes=1), must_cover=clock)
        cluster.run(6.0)
        return answers.pop()

    assert isinstance(read(), SessionNotReachedError)
    cluster.network.heal()
    cluster.run(5.0)
    assert values(read().siblings) == [b"v"]


def full_disk(cluster: LeaderlessCluster, machine: LeaderlessMachine) -> None:
    machine.crash(power=False)
    machine.guard = SpaceGuard(1 << 63)
    assert machine.guard.observe(machine.engine.statistics()), "no disk has so much"
    machine.start()
    cluster.run(2.0)


def test_a_node_with_a_full_disk_lets_others_take_its_clients_writes() -> None:
    cluster = LeaderlessCluster(17, 3)
    full = cluster.machines[0]
    full_disk(cluster, full)
    written = put(cluster, full, b"k", b"v")
    assert isinstance(written, Written)
    assert full.node not in written.replicas
    assert len(written.replicas) == 2
    keeping, keeper = next(
        (m, m.regime)
        for m in cluster.running
        if m.regime and full.node in m.regime.replica.hint_usages()
    )
    later = put(cluster, keeping, b"k", b"later", written.context, nodes=2)
    assert isinstance(later, Written)
    cluster.run(2.0)
    assert "kept in reserve" in keeper.handoff.troubles[full.node]
    hints = [m.regime.replica.hint_usages() for m in cluster.running if m.regime]
    assert [usage[full.node].count for usage in hints if full.node in usage] == [1]
    for machine in cluster.machines[1:]:
        full_disk(cluster, machine)
    assert isinstance(put(cluster, full, b"k", b"w"), NoSpaceError)
    assert isinstance(put(cluster, full, b"k", None, written.context), Written)


def test_a_node_that_stops_sends_forwarded_writes_on_to_the_next() -> None:
    cluster = LeaderlessCluster(18, 5)
    owners = owners_of(cluster, b"k")
    stranger = next(m for m in cluster.machines if m not in owners)
    assert owners[0].regime is not None
    owners[0].regime.coordinator.stop()
    written = put(cluster, stranger, b"k", b"v")
    assert isinstance(written, Written)
    assert written.context.clock.actors()[0].node == owners[1].node
    assert isinstance(put(cluster, owners[0], b"k", b"v"), StoppingError)
