"""Random lives of one deleted key: once reaped, nothing of it comes back.

Three owners and two other nodes; a value is written and then deleted while messages are late, out
of order and lost to time-outs that send hints to stand-ins; stand-ins replay hints or pass them on
(as a node that leaves does); owners repair each other; a driver runs proofs among all that. At the
end everything is delivered. The same histories must convict both canaries.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from kv.leaderless.dvv import Minter, context_of, merge
from kv.leaderless.hlc import HybridClock
from kv.leaderless.reap import (
    Canary,
    Candidate,
    Phase,
    Quiet,
    QuietLedger,
    ReapProof,
    holds_exactly,
)
from kv.leaderless.rules import Rule, Write, apply_write, resolve
from raftgroups.transport import NodeId
from storage.buckets import set_digest
from storage.objects import Record
from storage.siblings import SiblingSet

KEY = b"key"
OWNERS = tuple(NodeId(name) for name in "abc")
OTHERS = tuple(NodeId(name) for name in "de")
MEMBERS = OWNERS + OTHERS


class CameBackError(AssertionError):
    pass


@dataclass
class Node:
    name: NodeId
    record: Record | None = None
    hints: dict[NodeId, SiblingSet] = field(default_factory=dict)
    ledger: QuietLedger = field(default_factory=QuietLedger)

    def merge_in(self, siblings: SiblingSet) -> None:
        held = self.record.siblings if self.record is not None else SiblingSet()
        self.record = Record(merge(held, siblings), self.record.epoch if self.record else 0)

    def add_hint(self, target: NodeId, siblings: SiblingSet) -> None:
        self.hints[target] = merge(self.hints.get(target, SiblingSet()), siblings)
        self.ledger.took(1, KEY)


@dataclass(frozen=True)
class Message:
    source: NodeId
    target: NodeId
    siblings: SiblingSet
    hint_for: NodeId | None = None
    replays: NodeId | None = None
    """The hint of the source that this delivers."""


class History:
    def __init__(self, seed: int, canaries: frozenset[Canary]) -> None:
        self.rng = random.Random(seed)
        self.canaries = canaries
        self.nodes = {name: Node(name) for name in MEMBERS}
        self.flying: list[Message] = []
        self.acks: list[Message] = []
        self.answers: list[tuple[NodeId, Phase, object]] = []
        self.proof: ReapProof | None = None
        self.asked: set[tuple[Phase, NodeId]] = set()
        self.epoch = 0
        self.reaped = 0

    def run(self) -> int:
        self.write(b"value")
        for _ in range(self.rng.randrange(8)):
            self.network_step()
        self.write(None)
        for _ in range(150):
            self.rng.choice([self.network_step, self.network_step, self.proof_step])()
        self.proof = None
        while self.flying or self.acks or any(node.hints for node in self.nodes.values()):
            self.network_step()
        self.repair_all()
        for node in self.nodes.values():
            if node.record and resolve(Rule.SIBLINGS, node.record.siblings, 1):
                raise CameBackError("the deleted value is back")
        return self.reaped

    def next_epoch(self) -> int:
        self.epoch += 1
        return self.epoch

    def write(self, value: bytes | None) -> None:
        node = self.nodes[OWNERS[0]]
        context = context_of(node.record.siblings) if node.record is not None else None
        node.record = apply_write(
            Rule.SIBLINGS,
            node.record,
            Write(value, context),
            minter=Minter(node.name, 1, self.next_epoch),
            clock=HybridClock(),
            now_ms=1,
        )
        for owner in OWNERS[1:]:
            self.send(Message(node.name, owner, node.record.siblings))

    def send(self, message: Message) -> None:
        self.nodes[message.source].ledger.sending(1, KEY)
        self.flying.append(message)

    # --- the network -------------------------------------------------------------------------

    def network_step(self) -> None:
        self.rng.choice([self.deliver, self.deliver, self.ack, self.time_out, self.hand_on])()
        if self.rng.random() < 0.15:
            self.repair_all(rounds=1)

    def deliver(self) -> None:
        if not self.flying:
            return
        message = self.flying.pop(self.rng.randrange(len(self.flying)))
        target = self.nodes[message.target]
        if message.hint_for is None:
            target.merge_in(message.siblings)
        else:
            target.add_hint(message.hint_for, message.siblings)
        self.acks.append(message)

    def ack(self) -> None:
        if not self.acks:
            return
        message = self.acks.pop(self.rng.randrange(len(self.acks)))
        source = self.nodes[message.source]
        source.ledger.sent(1, KEY)
        if message.replays is not None and source.hints.get(message.replays) == message.siblings:
            del source.hints[message.replays]

    def time_out(self) -> None:
        """The sender gives up waiting and asks a stand-in; the message is still on its way."""
        late = [m for m in self.flying if m.hint_for is None and m.replays is None]
        if late and self.rng.random() < 0.5:
            message = self.rng.choice(late)
            stand_in = self.rng.choice(OTHERS)
            self.send(Message(message.source, stand_in, message.siblings, message.target))

    def hand_on(self) -> None:
        node = self.nodes[self.rng.choice(OTHERS)]
        for target, siblings in node.hints.items():
            if self.rng.random() < 0.4:
                self.send(Message(node.name, target, siblings, None, target))
            elif self.rng.random() < 0.6 and self.proof is not None:
                # It leaves: another stand-in takes its hints.
                other = OTHERS[1 - OTHERS.index(node.name)]
                self.send(Message(node.name, other, siblings, target, target))

    def repair_all(self, rounds: int = 2) -> None:
        for _ in range(rounds):
            for one in OWNERS:
                for other in OWNERS:
                    record = self.nodes[one].record
                    if record is not None and one != other:
                        self.nodes[other].merge_in(record.siblings)

    # --- the proof ---------------------------------------------------------------------------

    def proof_step(self) -> None:
        if self.proof is None or self.proof.phase is Phase.FAILED:
            self.begin()
            return
        if self.proof.phase is Phase.DROP:
            self.drop(self.proof)
            return
        asked = sorted(self.proof.asked())
        node = self.nodes[self.rng.choice(asked)]
        phase, question = self.proof.phase, self.proof.question(node.name)
        if (phase, node.name) not in self.asked:
            # The member answers as it is now; the answer may be late.
            self.asked.add((phase, node.name))
            self.answers.append((node.name, phase, self.answer(node, phase, question)))
        if self.answers and self.rng.random() < 0.7:
            name, phase, answer = self.answers.pop(self.rng.randrange(len(self.answers)))
            if phase is Phase.CONFIRM:
                self.proof.on_confirmed(name, 1, 1, answer)  # type: ignore[arg-type]
            else:
                self.proof.on_quiet(name, 1, 1, phase, answer)  # type: ignore[arg-type]

    def answer(self, node: Node, phase: Phase, question: tuple[Candidate, ...]) -> object:
        if phase is Phase.CONFIRM:
            return tuple(c for c in question if holds_exactly(node.record, c, 1))
        answers: dict[Candidate, Quiet] = {}
        for candidate in question:
            quiet = node.ledger.answer(
                1,
                KEY,
                0,
                hinted=bool(node.hints),
                foreign=node.name not in OWNERS and node.record is not None,
            )
            if quiet is not None:
                answers[candidate] = quiet
        return answers

    def begin(self) -> None:
        record = self.nodes[OWNERS[0]].record
        self.answers, self.asked = [], set()
        if record is not None and record.siblings.reapable_from_ms() == 0:
            candidate = Candidate(1, KEY, set_digest(KEY, record.siblings))
            self.proof = ReapProof(1, {candidate: OWNERS}, MEMBERS, canaries=self.canaries)

    def drop(self, proof: ReapProof) -> None:
        for owner, drops in proof.drops().items():
            node = self.nodes[owner]
            # A drop may get lost: then repair brings the tombstone back, which is harmless.
            if holds_exactly(node.record, drops[0][0], 1) and self.rng.random() < 0.9:
                node.record = None
                self.reaped += 1
        self.proof = None


def run_all(seeds: int, *canaries: Canary) -> int:
    return sum(History(seed, frozenset(canaries)).run() for seed in range(seeds))


@pytest.mark.slow
def test_what_was_reaped_does_not_come_back(rounds: int) -> None:
    reaped = run_all(600 * rounds)
    assert reaped > 100, "the histories hardly reap: they show nothing"


@pytest.mark.parametrize("canary", list(Canary))
def test_the_histories_convict_each_canary(canary: Canary) -> None:
    with pytest.raises(CameBackError):
        run_all(3_000, canary)
