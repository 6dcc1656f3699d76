"""Gossip as a node does it: each round to some peers, and at once what changes the ring.

    round --digest--> peer --answer--> this node --records--> peer       membership.py has the rules

- A peer that connects is greeted with a digest, so a node that joins or comes back knows the ring
  within one exchange.
- News that change the ring are passed on at once, to `eager` peers; else they would wait for the
  next round of everybody. A peer whose messages bear another ring is asked at once too (`ask`).
- Heartbeats, whoever brought them, feed the failure detector (phi.py). `down` stays in this node.
- A node that has kept nothing (`fresh`) says nothing of itself before it has heard whether others
  know it: it may have lost its disk, or be no founder although its configuration says so.
- What changes this node's own record is kept on the disk before anybody hears of it: while `keep`
  has not answered, this node says nothing. Its generation rises at each start in the same way.

Notes are lost now and then; every round makes up for the last. One message is one record a node,
so with 1,000 nodes a digest has 40 KB. This file knows no ring and no key.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from kv.cluster import gossip_wire as wire
from kv.cluster.mail import Notes
from kv.cluster.membership import Death, Learned, Membership, NodeInfo, Status, Version
from kv.cluster.phi import Health, PhiDetector
from kv.cluster.said_once import SaidOnce
from raftgroups.transport import NodeId
from storage.clock import Clock, Rng, Scheduler, Timer

_log = logging.getLogger(__name__)

DIGEST: Final = "gossip-digest"
ANSWER: Final = "gossip-answer"
RECORDS: Final = "gossip-records"
ASK_AGAIN_S: Final = 0.05

Keep = Callable[[Callable[[], None]], None]
"""Write down what this node knows, synced, then call back."""


@dataclass(frozen=True, slots=True)
class GossipSettings:
    interval_s: float = 1.0
    fanout: int = 1
    eager: int = 4
    """How many peers hear at once of what changes the ring."""
    dead_after_s: float | None = None
    """Declare a node dead that was down for so long, on a side with most of the members. None:
    only people declare a death."""


class Gossip:
    """Invariant: nothing is sent between a change of the own record and its `keep`."""

    def __init__(
        self,
        membership: Membership,
        *,
        post: Notes,
        connected: Callable[[NodeId], bool],
        detector: PhiDetector,
        clock: Clock,
        scheduler: Scheduler,
        rng: Rng,
        keep: Keep,
        changed: Callable[[Learned], None],
        settings: GossipSettings | None = None,
        met: Iterable[NodeId] = (),
        fresh: bool = False,
    ) -> None:
        """`changed` is told of all news, after they were taken in. `met` are connected already.
        `fresh`: this node has kept nothing, so it believes others who know more of it."""
        self.membership = membership
        self.detector = detector
        self._post = post
        self._connected = connected
        self._clock = clock
        self._scheduler = scheduler
        self._rng = rng
        self._keep = keep
        self._changed = changed
        self._settings = settings or GossipSettings()
        self._fresh = fresh
        self._met = list(met)
        self._said = SaidOnce(_log)
        self._timer: Timer | None = None
        self._stopped = self._started = False
        self._keeping = 0
        self._asked_s: dict[NodeId, float] = {}
        self.down: set[NodeId] = set()
        """Whom the detector called down when it was last asked, a round ago at most."""
        self._down_since: dict[NodeId, float] = {}
        self._changed_s: float | None = None
        self.convergence_s = 0.0
        """How long the last change of the ring took until every member went by it, as seen here."""
        self.rounds = self.sent_bytes = 0
        post.on(DIGEST, self._on_digest)
        post.on(ANSWER, self._on_answer)
        post.on(RECORDS, self._on_records)

    # --- rounds ---------------------------------------------------------------------------

    def start(self) -> None:
        """Keeps the new generation first; the first round follows."""
        self.keep(self._begin)

    def _begin(self) -> None:
        if not self._stopped:
            self._started = True
            self._changed(Learned(ring_changed=True))
            for peer in self._met:
                self.peer_changed(peer, connected=True)
            self._round()

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _round(self) -> None:
        # Spread, so that nodes that started together do not speak together for ever.
        pause_s = self._settings.interval_s * self._rng.uniform(0.9, 1.1)
        self._timer = self._scheduler.call_later(pause_s, self._round)
        now_s = self._clock.monotonic()
        self.detector.tick(now_s)
        self.rounds += 1
        self.membership.beat()
        self._look_at_convergence(now_s)
        self._look_for_dead(now_s)
        if self._keeping:
            return
        linked = {
            node: self.health(node) if self._connected(node) else Health.DOWN
            for node in self.membership.infos
        }
        targets = self.membership.targets(linked, self._rng, fanout=self._settings.fanout)
        body = wire.encode_digest(self._digest()) if targets else b""
        for target in targets:
            self._tell(target, DIGEST, body)

    def _look_at_convergence(self, now_s: float) -> None:
        if self._changed_s is not None and self.membership.agreed():
            self.convergence_s = now_s - self._changed_s
            self._changed_s = None

    def _look_for_dead(self, now_s: float) -> None:
        patience_s = self._settings.dead_after_s
        healths = self.healths()
        self.down = {node for node, health in healths.items() if health is Health.DOWN}
        for node, health in healths.items():
            if health is not Health.DOWN:
                self._down_since.pop(node, None)
                continue
            since_s = self._down_since.setdefault(node, now_s)
            if patience_s is None or now_s - since_s < patience_s:
                continue
            if self.membership.may_declare(healths):
                self.declare_dead(node, f"down for {now_s - since_s:.0f} s")
                return

    # --- what others ask ------------------------------------------------------------------

    def healths(self) -> Mapping[NodeId, Health]:
        return {
            node: self.health(node) for node in self.membership.infos if node != self.membership.me
        }

    def health(self, node: NodeId) -> Health:
        return self.detector.health(node, self._clock.monotonic())

    def phi(self, node: NodeId) -> float:
        return self.detector.phi(node, self._clock.monotonic())

    def peer_changed(self, peer: NodeId, connected: bool) -> None:
        """A connection is a sign of life, and the moment to hear what the other knows."""
        if connected:
            self._alive(peer)
            self._asked_s.pop(peer, None)
            self.ask(peer)

    def ask(self, peer: NodeId) -> None:
        """Exchange with this peer now: it goes by another ring, or has just come."""
        now_s = self._clock.monotonic()
        if now_s - self._asked_s.get(peer, -ASK_AGAIN_S) >= ASK_AGAIN_S:
            self._asked_s[peer] = now_s
            self._tell(peer, DIGEST, wire.encode_digest(self._digest()))

    # --- this node's own changes ----------------------------------------------------------

    def keep(self, then: Callable[[], None]) -> None:
        self._keeping += 1

        def kept() -> None:
            self._keeping -= 1
            then()

        self._keep(kept)

    def change_mine(self, then: Callable[[], None], **changes: object) -> None:
        """Kept, then told to the others; `then` is called when it is kept."""
        self.membership.change_mine(**changes)

        def kept() -> None:
            self._news(Learned(ring_changed=True))
            then()

        self.keep(kept)

    def declare_dead(self, node: NodeId, reason: str) -> Death:
        """Final; see membership.py for who may."""
        death = self.membership.declare_dead(node, reason)
        self._news(Learned(died=[node], ring_changed=True))
        return death

    def say_farewell(self, reason: str) -> None:
        """This node has handed everything over: the others go on without it."""
        body = wire.encode_records((), [self.membership.last_words(reason)])
        for node in self.membership.infos:
            if node != self.membership.me:
                self._tell(node, RECORDS, body)

    # --- messages -------------------------------------------------------------------------

    def _digest(self) -> dict[NodeId, Version]:
        digest = self.membership.digest()
        if self._fresh:
            del digest[self.membership.me]
        return digest

    def _without_own(self, infos: tuple[NodeInfo, ...]) -> tuple[NodeInfo, ...]:
        return tuple(info for info in infos if info.node != self.membership.me)

    def _tell(self, peer: NodeId, kind: str, body: bytes) -> None:
        if self._keeping or self._stopped or not self._started:
            return
        if self._post.tell(peer, kind, body):
            self.sent_bytes += len(body)

    def _on_digest(self, peer: NodeId, body: bytes) -> None:
        try:
            digest = wire.decode_digest(body)
        except wire.MalformedGossipError as error:
            self._said.warn(f"peer {peer}", "malformed_gossip", str(error))
            return
        answer = self.membership.answer(digest)
        if self._fresh:
            answer = replace(answer, newer=self._without_own(answer.newer))
        if answer.newer or answer.wanted or answer.deaths:
            self._tell(peer, ANSWER, wire.encode_answer(answer))

    def _heard_of_itself(self, newer: tuple[NodeInfo, ...]) -> Learned | None:
        """What a fresh node makes of an answer. Whoever knows it has its record among what he
        answers, because it named none; who knows others and not this node has never been in one
        cluster with it, whatever its configuration says: it joins then."""
        known = [info for info in newer if info.node == self.membership.me]
        if not newer:
            return None
        self._fresh = False
        if known and known[0].version > self.membership.mine.version:
            self.membership.outbid(known[0])
            return Learned(ring_changed=True, forgot=True)
        if not known and self.membership.mine.status is Status.NORMAL:
            self.membership.change_mine(status=Status.JOINING)
            return Learned(ring_changed=True, forgot=True)
        return Learned(ring_changed=True)

    def _on_answer(self, peer: NodeId, body: bytes) -> None:
        try:
            answer = wire.decode_answer(body)
        except wire.MalformedGossipError as error:
            self._said.warn(f"peer {peer}", "malformed_gossip", str(error))
            return
        newer = answer.newer
        if self._fresh:
            learned = self._heard_of_itself(newer)
            newer = self._without_own(newer)
            if learned is not None:
                self._news(learned)
        records = self.membership.records(answer.wanted)
        if self._fresh:
            records = self._without_own(records)
        deaths = self.membership.deaths.values()
        if records or deaths:
            self._tell(peer, RECORDS, wire.encode_records(records, deaths))
        self._take(newer, answer.deaths)

    def _on_records(self, peer: NodeId, body: bytes) -> None:
        try:
            records, deaths = wire.decode_records(body)
        except wire.MalformedGossipError as error:
            self._said.warn(f"peer {peer}", "malformed_gossip", str(error))
            return
        self._take(records, deaths)

    def _take(self, records: tuple[NodeInfo, ...], deaths: tuple[Death, ...]) -> None:
        if self._stopped:
            return
        learned = self.membership.apply(records, deaths)
        for node in learned.heard:
            self._alive(node)
        if self._fresh:
            learned.usurped = None  # an answer is coming that says more
        self._news(learned)

    def _alive(self, node: NodeId) -> None:
        self.detector.heard(node, self._clock.monotonic())
        self.down.discard(node)

    def _news(self, learned: Learned) -> None:
        for node in learned.died:
            self.detector.forget(node)
            self._down_since.pop(node, None)
        if learned.ring_changed:
            self._changed_s = self._clock.monotonic()
            self.keep(self._pass_on)
        self._changed(learned)

    def _pass_on(self) -> None:
        peers = [n for n in self.membership.infos if n != self.membership.me and self._connected(n)]
        body = wire.encode_digest(self._digest())
        for _ in range(min(self._settings.eager, len(peers))):
            peer = peers.pop(self._rng.randrange(0, len(peers)))
            self._tell(peer, DIGEST, body)
