"""pysyncobj is replaced and reached into by name. If a name moves, this says which one, loudly."""

from __future__ import annotations

import inspect
import random
import re
from types import SimpleNamespace
from typing import Any

import pysyncobj.syncobj as module
import pytest
from pysyncobj.node import Node
from pysyncobj.syncobj import SyncObj

from raftgroups import raftcore, seams
from raftgroups.config import HostConfig
from raftgroups.journal import GroupJournal
from raftgroups.membership import Config
from raftgroups.messages import Ack, Append
from raftgroups.raftcore import Raft
from raftgroups.transport import NodeId
from storage.memory import MemoryEngine

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")


class Quiet:
    """Hooks that write down what pysyncobj asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.stand = False

    def may_stand(self) -> bool:
        self.asked.append(("may_stand",))
        return self.stand

    def heartbeat_is_due(self) -> float:
        self.asked.append(("heartbeat",))
        return 1e9

    def apply_committed(self) -> None:
        self.asked.append(("apply",))

    def request_votes(self, *what: Any) -> None:
        self.asked.append(("request_votes", *what))

    def grant_vote(self, *what: Any) -> None:
        self.asked.append(("grant_vote", *what))

    def acknowledge(self, node: NodeId, **what: Any) -> None:
        self.asked.append(("acknowledge", node, what))

    def role_changed(self, old: int, new: int) -> None:
        self.asked.append(("role", old, new))


def core() -> tuple[Raft, Quiet, SimpleNamespace]:
    environment = SimpleNamespace(now=100.0, rng=random.Random(1))
    environment.clock = SimpleNamespace(monotonic=lambda: environment.now)
    journal = GroupJournal(MemoryEngine(), 1, window_entries=100, window_bytes=1 << 20)
    journal.form(Config.initial([A, B, C], {}))
    hooks = Quiet()
    raft = Raft(A, journal, environment, HostConfig(), hooks)
    raft.adopt([B, C], [])
    return raft, hooks, environment


def test_every_name_is_where_seams_expects_it() -> None:
    assert seams.missing_names() == [], (
        "pysyncobj has moved these names; correct raftgroups/seams.py, then run the hazard tests "
        f"and the simulation: {seams.missing_names()}"
    )


def test_another_version_is_refused_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "9.9.9")
    with pytest.raises(seams.SeamMovedError, match=r"9\.9\.9 is installed .* written for 0\.3\.17"):
        seams.verify()


def test_a_method_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(SyncObj, "_SyncObj__connectedToAnyone")
    with pytest.raises(seams.SeamMovedError, match="_SyncObj__connectedToAnyone"):
        seams.verify()


def test_a_core_has_every_attribute_that_is_used() -> None:
    raft, _, _ = core()
    missing = [name for name in seams.ATTRIBUTE_NAMES if not hasattr(raft._core, name)]
    assert missing == [], f"pysyncobj has moved these attributes: {missing}"


def test_attributes_named_in_raftcore_are_in_the_table() -> None:
    source = inspect.getsource(raftcore) + inspect.getsource(seams)
    used = set(re.findall(r"_SyncObj__\w+", source))
    unknown = used - {*seams.ATTRIBUTE_NAMES, *seams.METHOD_NAMES}
    assert unknown == set(), f"add to the tables of raftgroups/seams.py: {unknown}"


def test_module_names_are_replaced() -> None:
    assert module.createJournal("the journal") == "the journal"
    assert module.PIPE_NOTIFIER_ENABLED is False
    for name in ("loads", "dumps"):
        with pytest.raises(AssertionError, match="nothing is pickled here"):
            getattr(module.pickle, name)(b"")


def test_the_gate_is_asked_exactly_when_the_deadline_has_passed() -> None:
    raft, hooks, environment = core()
    raft.tick()
    assert ("may_stand",) not in hooks.asked
    environment.now += 2.0
    raft.tick()
    assert ("may_stand",) in hooks.asked
    assert raft.role == seams.FOLLOWER
    hooks.stand = True
    raft.tick()
    assert raft.role == seams.CANDIDATE
    asked = [what for what in hooks.asked if what[0] == "request_votes"]
    assert sorted(asked) == [("request_votes", B, 1, 1, 0), ("request_votes", C, 1, 1, 0)]


def test_a_vote_makes_a_leader_with_a_no_op_and_heartbeats() -> None:
    raft, hooks, environment = core()
    hooks.stand = True
    environment.now += 2.0
    raft.tick()
    raft.receive_vote(B, 1)
    assert raft.leads
    assert raft.noop_index == 2
    assert ("heartbeat",) in hooks.asked
    assert ("role", seams.CANDIDATE, seams.LEADER) in hooks.asked


def test_pysyncobj_applies_and_sends_through_the_hooks_only() -> None:
    raft, hooks, _ = core()
    raft.tick()
    assert ("apply",) in hooks.asked
    raft.receive_vote_request(B, 3, 1, 0)
    assert ("grant_vote", B, 3) in hooks.asked
    with pytest.raises(AssertionError, match="no way out"):
        raft._core._SyncObj__transport.send(None, {"type": "apply_command"})
    for name, argument in (
        ("_SyncObj__loadDumpFile", True),
        ("_SyncObj__doApplyCommand", b"\x00"),
        ("_SyncObj__doChangeCluster", ["add", "x"]),
    ):
        with pytest.raises(AssertionError):
            getattr(raft._core, name)(argument)


def test_a_higher_term_without_a_vote() -> None:
    raft, hooks, _ = core()
    raft.raise_term(B, 7)
    assert raft.term == 7
    assert not [what for what in hooks.asked if what[0] == "grant_vote"]


def test_a_node_hashes_alike_in_every_process() -> None:
    assert hash(seams.PeerNode(A)) == 0x100 + ord("a")
    assert seams.PeerNode(NodeId("668235f3da5575f0")) in {
        seams.PeerNode(NodeId("668235f3da5575f0"))
    }


def test_nodes_are_equal_exactly_where_their_identities_are() -> None:
    names = ["", "a", "\0a", "aa", "b", "\N{SNOWMAN}"]
    for one in names:
        for other in names:
            assert (seams.PeerNode(NodeId(one)) == seams.PeerNode(NodeId(other))) is (one == other)
    node = seams.PeerNode(A)
    assert node.id == node.node == A
    assert isinstance(node, Node)


class Applies(Quiet):
    """Applies at once whatever is committed and durable, with a heartbeat every 0.1 s."""

    raft: Raft
    environment: SimpleNamespace
    durable = 1

    def heartbeat_is_due(self) -> float:
        self.asked.append(("heartbeat",))
        return float(self.environment.now) + 0.1

    def apply_committed(self) -> None:
        if self.raft.leads and self.raft.commit_index > self.durable:
            self.raft.commit_index = max(self.raft.applied_index, self.durable)
        if self.raft.applied_index < self.raft.commit_index:
            self.asked.append(("apply", self.raft.commit_index))
            self.raft.applied_index = self.raft.commit_index


def story(seed: int, *, spared: bool) -> list[tuple[Any, ...]]:
    """What a core does over one random story; unless `spared`, it has every tick."""
    environment = SimpleNamespace(now=100.0, rng=random.Random(seed))
    environment.clock = SimpleNamespace(monotonic=lambda: environment.now)
    dice, others = random.Random(seed), [[], [B], [B, C]][seed % 3]
    journal = GroupJournal(MemoryEngine(), 1, window_entries=100, window_bytes=1 << 20)
    journal.form(Config.initial([A, *others], {}))
    hooks = Applies()
    raft = Raft(A, journal, environment, HostConfig(), hooks)
    hooks.raft, hooks.environment, hooks.stand = raft, environment, True
    raft.adopt(others, [])
    seen: list[tuple[Any, ...]] = []
    for number in range(120):
        what, who = dice.randrange(10), dice.choice(others or [A])
        last = journal.last_index
        if number >= 60:
            environment.now += 0.03
        if what == 0:
            environment.now += dice.choice((0.03, 0.06, 0.11, 0.2, 0.6))
        elif what <= 2 and raft.leads:
            raft.append(b"\x00x")
        elif what <= 5 and number < 60 and raft.leads and others:  # then they are silent
            raft.receive_ack(who, Ack(1, raft.term, dice.randint(1, last + 1), True, False))
        elif what == 6 and others and not raft.leads:
            raft.receive_vote(who, raft.term)
        elif what == 7 and others and dice.random() < 0.3:
            append = Append(1, raft.term + 1, last, journal.last_term, last, False, [])
            raft.receive_append(who, append)
        elif what == 8:
            hooks.durable = last
        elif what == 9 and dice.random() < 0.1:
            others = [B, C][: dice.randrange(3)]
            raft.adopt(others, [])
        if spared:
            raft.tick()
        else:
            seams.activate(environment)
            raft._core._onTick(0)
        seen.append((raft.role, raft.term, raft.commit_index, raft.applied_index, raft.leader))
        seen.append((raft.election_deadline, raft.heartbeat_deadline, *hooks.asked))
        hooks.asked.clear()
    return seen


@pytest.mark.parametrize("seed", range(60))
def test_a_tick_that_is_spared_would_have_done_nothing(seed: int) -> None:
    assert story(seed, spared=True) == story(seed, spared=False)
