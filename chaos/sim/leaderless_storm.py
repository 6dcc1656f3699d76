"""A storm over leaderless nodes: seeded clients and faults, a calm, and what must be true then.

Clients read, merge and write, write blindly, or delete, at nodes that the dice choose, while nodes
are cut off, killed, frozen, started, join and leave, disks fail and wall clocks jump. Then comes
the calm: everybody is up, members have settled, hints are delivered, and every node repairs itself
once (no read helps). After it:

- an acknowledged write is there, or was replaced by one whose author had read it and which itself
  is there or was so replaced, or was deleted by somebody who had read it;
- what an acknowledged write or delete replaced is gone: nothing comes back;
- a write that was surely refused never appears;
- all owners of a key hold the same, nobody else holds anything, no replica has raised an alarm;
- no value stands there twice, and a reader who merges all siblings leaves one;
- a session never read less than it had seen (judged while it runs).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from chaos.sim.leaderless import LeaderlessCluster, LeaderlessMachine
from chaos.sim.leaderless_keyspaces import KeyspaceStorm
from kv.cluster.membership import Status
from kv.leaderless.assembly import Leaderless
from kv.leaderless.dvv import Context, context_of, covers_clock
from kv.leaderless.exchange import Report
from kv.leaderless.get_core import Found, GetResult
from kv.leaderless.handoff import HandoffSettings
from kv.leaderless.keyspace import Keyspace, Wish
from kv.leaderless.maintenance import MaintenanceSettings
from kv.leaderless.parts import CoordinatorSettings
from kv.leaderless.put_core import Written
from kv.leaderless.reap import Canary
from kv.leaderless.reaper import ReapSettings
from kv.leaderless.rules import SetLimits, Write
from storage.errors import JanusError, Outcome
from storage.siblings import SiblingSet

ROOMY = Keyspace(limits=SetLimits(siblings=10_000))
NODES_MIN = 4
NODES_MAX = 7
"""Between these numbers nodes join and leave."""


def values(siblings: SiblingSet | None) -> list[bytes | None]:
    versions = () if siblings is None else siblings.versions
    return sorted((version.value for version in versions), key=repr)


def live(machine: LeaderlessMachine) -> Leaderless:
    assert machine.regime is not None, f"{machine.node} does not run"
    return machine.regime


def owners_of(cluster: LeaderlessCluster, key: bytes) -> list[LeaderlessMachine]:
    return [cluster.machine(node) for node in live(cluster.running[0]).view.place(key, 3).owners]


def held(machine: LeaderlessMachine, key: bytes) -> SiblingSet | None:
    """What is committed at this node."""
    found = live(machine).replica.read(1, key)
    return found.siblings if isinstance(found, Found) else None


def get(
    cluster: LeaderlessCluster, machine: LeaderlessMachine, key: bytes, wish: Wish
) -> GetResult | JanusError:
    """One read, and the time that it may take."""
    answers: list[GetResult | JanusError] = []
    live(machine).coordinator.get(1, key, answers.append, wish)
    assert not answers, "answered inside the call"
    for _ in range(60):
        cluster.run(0.1)
        if answers:
            break
    (answer,) = answers
    return answer


@dataclass
class Attempt:
    """One write of the workload. `read`: what its author had read and replaces."""

    key: bytes
    value: bytes
    read: frozenset[bytes]
    delete: bool = False
    acknowledged: bool = False
    refused: bool = False


@dataclass
class Workload:
    """Clients that read, merge and write, or write blindly, at nodes drawn by the dice."""

    cluster: LeaderlessCluster
    keys: int = 6
    deletes: float = 0.0
    """Which part of the writes that follow a read delete what they read."""
    attempts: dict[bytes, Attempt] = field(default_factory=dict)
    sessions: dict[bytes, Context] = field(default_factory=dict)
    """What the last acknowledged writer of a key has seen."""
    session_reads: int = 0
    broken_sessions: list[str] = field(default_factory=list)
    made: KeyspaceStorm | None = None
    """Of keyspaces that come and go, if they do."""

    def step(self) -> None:
        rng = self.cluster.rng
        machines = self.cluster.running
        if not machines:
            return
        machine = rng.choice(machines)
        key = b"key%d" % rng.randrange(self.keys)
        wish = Wish(nodes=rng.choice([1, 1, 2, None]))
        if rng.random() < 0.5:
            self._write(machine, key, wish, None, frozenset())
            return
        if key in self.sessions and rng.random() < 0.2:
            self._read_session(machine, key, wish)
            return
        delete = rng.random() < self.deletes

        def read(answer: GetResult | JanusError) -> None:
            if isinstance(answer, JanusError) or machine.regime is None:
                return
            seen = frozenset(v.value for v in answer.siblings.versions if v.value is not None)
            self._write(machine, key, wish, context_of(answer.siblings), seen, delete=delete)

        live(machine).coordinator.get(1, key, read, wish)

    def _read_session(self, machine: LeaderlessMachine, key: bytes, wish: Wish) -> None:
        clock = self.sessions[key].clock

        def read(answer: GetResult | JanusError) -> None:
            if isinstance(answer, JanusError):
                return
            self.session_reads += 1
            # A key of which nothing is held any more was deleted and forgotten by all.
            if answer.siblings.clock and not covers_clock(answer.siblings.clock, clock):
                self.broken_sessions.append(f"{key!r}: read less than the session had seen")

        live(machine).coordinator.get(1, key, read, wish, must_cover=clock)

    def _write(
        self,
        machine: LeaderlessMachine,
        key: bytes,
        wish: Wish,
        context: Context | None,
        seen: frozenset[bytes],
        *,
        delete: bool = False,
    ) -> None:
        value = b"v%d" % len(self.attempts)
        attempt = self.attempts[value] = Attempt(key, value, seen, delete)

        def done(answer: Written | JanusError) -> None:
            if isinstance(answer, Written):
                attempt.acknowledged = True
                if not delete:
                    self.sessions[key] = answer.context
            elif answer.outcome is Outcome.NONE:
                attempt.refused = True

        change = Write(None if delete else value, context)
        live(machine).coordinator.put(1, key, change, done, wish)

    # --- after the calm -------------------------------------------------------------------

    def check(self) -> None:
        assert not self.broken_sessions, self.broken_sessions[0]
        if self.made is not None:
            self.made.check()
        for machine in self.cluster.running:
            assert not live(machine).replica.alarms, f"{machine.node} raised an alarm"
        for number in range(self.keys):
            key = b"key%d" % number
            owners = owners_of(self.cluster, key)
            sets = [held(machine, key) for machine in owners]
            assert all(each == sets[0] for each in sets), f"the owners of {key!r} differ"
            for machine in self.cluster.running:
                if machine not in owners and live(machine).handoff.enabled:
                    assert held(machine, key) is None, f"{machine.node} still has {key!r}"
            found = [value for value in values(sets[0]) if value is not None]
            assert len(found) == len(set(found)), f"{key!r} holds a value twice: {found}"
            self._check_key(key, set(found))

    def _check_key(self, key: bytes, last: set[bytes]) -> None:
        attempts = [each for each in self.attempts.values() if each.key == key]
        kept: dict[bytes, bool] = {}

        def lives_on(attempt: Attempt) -> bool:
            if attempt.value not in kept:
                kept[attempt.value] = attempt.delete or attempt.value in last
                if not kept[attempt.value]:
                    followers = [
                        each for each in attempts if attempt.value in each.read and not each.refused
                    ]
                    kept[attempt.value] = any(lives_on(each) for each in followers)
            return kept[attempt.value]

        for attempt in attempts:
            if attempt.acknowledged:
                assert lives_on(attempt), f"{attempt} was lost; {key!r} holds {sorted(last)}"
                for old in attempt.read:
                    assert old not in last, f"{old!r} is back, although {attempt} replaced it"
            assert not (attempt.refused and attempt.value in last), "a refused write appeared"

    def merge_all(self) -> None:
        """A reader who merges all siblings leaves one."""
        for number in range(self.keys):
            key, machine = b"key%d" % number, self.cluster.running[0]
            found = get(self.cluster, machine, key, Wish(nodes="ALL", strict=True))
            assert isinstance(found, GetResult), found
            written: list[Written | JanusError] = []
            change = Write(b"merged", context_of(found.siblings))
            wish = Wish(nodes="ALL", strict=True)
            live(machine).coordinator.put(1, key, change, written.append, wish)
            self.cluster.run(1.0)
            assert isinstance(written[0], Written), written
            for owner in owners_of(self.cluster, key):
                assert values(held(owner, key)) == [b"merged"]


def storm(
    seed: int,
    *,
    nodes: int = 5,
    seconds: float = 20.0,
    drawn: bool = False,
    members: bool = False,
    hints: bool | None = None,
    keyspaces: bool = False,
    canaries: frozenset[Canary] = frozenset(),
    began: Callable[[LeaderlessCluster], object] = lambda _: None,
) -> Workload:
    """`drawn`: the seed decides the number of nodes, whether hints are replayed (unless `hints`
    says so), and some writes delete; `members`: nodes join and leave too; `keyspaces`: some are
    made and dropped. `began` is told of the cluster at once."""
    dice = LeaderlessCluster.dice(seed)
    nodes = dice.randrange(NODES_MIN, NODES_MAX) if drawn else nodes
    replayed = not drawn or dice.random() < 0.7
    if hints is not None:
        replayed = hints
    cluster = LeaderlessCluster(
        seed,
        nodes,
        keyspaces={1: ROOMY},
        settings=CoordinatorSettings(deadline_s=2.0, replica_timeout_s=0.5),
        handoff=HandoffSettings(enabled=replayed),
        maintenance=MaintenanceSettings(
            repair_s=0.0, reap=ReapSettings(reap_s=0.5, rest_s=0.5, canaries=canaries)
        ),
    )
    began(cluster)
    for machine in cluster.machines:
        machine.disk.sync_s = (0.001, 0.05)  # slow, so that power fails in the middle of writes
    hinting = live(cluster.machines[0]).handoff.enabled
    workload = Workload(cluster, deletes=0.3 if drawn else 0.0)
    if keyspaces:
        workload.made = KeyspaceStorm(cluster)
    rng = cluster.rng
    until = cluster.world.now + seconds
    while cluster.world.now < until:
        if rng.random() < 0.1:
            cluster.fault()
        # A node whose hints nobody delivers may neither join nor leave.
        if members and hinting and rng.random() < 0.01:
            change_members(cluster)
        for _ in range(rng.randrange(3)):
            workload.step()
        if workload.made is not None:
            workload.made.step()
        cluster.run(rng.uniform(0.01, 0.2))
    cluster.calm()
    if workload.made is not None:
        workload.made.calm()
    settle(cluster)
    return workload


def change_members(cluster: LeaderlessCluster) -> None:
    """Somebody joins or leaves, if nobody is about to."""
    members = [machine for machine in cluster.machines if not machine.gone]
    settled = all(
        machine.regime is not None and machine.regime.members.status is Status.NORMAL
        for machine in members
    )
    if not settled:
        return
    if len(members) < NODES_MAX and cluster.rng.random() < 0.5:
        cluster.count("join")
        joiner = cluster.join()
        joiner.disk.sync_s = (0.001, 0.05)
    elif len(members) > NODES_MIN:
        cluster.count("leave")
        live(cluster.rng.choice(members)).maintenance.leave()


def settle(cluster: LeaderlessCluster) -> None:
    """Members first, then hints, then one repair by everybody; reads repair nothing here."""

    def settled() -> bool:
        views = {live(machine).view.epoch for machine in cluster.running}
        return len(views) == 1 and all(
            live(machine).members.status is Status.NORMAL and not live(machine).members.lacking
            for machine in cluster.running
        )

    wait(cluster, settled, 180)
    hinting = live(cluster.running[0]).handoff.enabled
    if hinting:
        wait(cluster, lambda: not any(hints(machine) for machine in cluster.running))
    for machine in cluster.running:
        reports: list[Report] = []
        assert live(machine).maintenance.repair(reports.append)
        wait(cluster, lambda reports=reports: bool(reports))  # type: ignore[misc]
        assert not reports[0].broken_off, reports[0].broken_off
    if hinting:
        wait(cluster, lambda: not any(live(m).maintenance.house.foreign for m in cluster.running))
    cluster.run(2.0)


def hints(machine: LeaderlessMachine) -> int:
    return sum(usage.count for usage in live(machine).replica.hint_usages().values())


def wait(cluster: LeaderlessCluster, condition: Callable[[], bool], seconds: int = 60) -> None:
    for _ in range(seconds):
        if condition():
            return
        cluster.run(1.0)
    raise AssertionError(f"not within {seconds} virtual seconds")
