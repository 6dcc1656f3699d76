"""The planner's shell: while this node leads the meta group, replicas go where they should be.

    look (ten times a second while something moves, else once; and when a report has news)
      ask every node of the map for its report
      what was heard lately --> observed.py --> corrections of the map, proposed
                                           '--> plan.py --> steps: invitations and orders, sent

Nothing here is remembered that is not seen again: whoever leads the meta group next begins by
asking, and so does one that stood still (a frozen process, a suspended machine): the others were
not silent for as long as it did not listen. What is sent may be lost; it is seen not to be done,
and sent again. What limits the pace are plan.Limits, and that leaderships are balanced one by one,
some seconds apart.

ADD is two messages: the node is invited first, and only when its report shows an empty replica is
the group's leader told to admit it. So whoever is admitted has forgotten whatever it knew before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import msgspec

from kv.cluster.mail import Notes
from kv.cluster.ring import Ring
from kv.cluster.said_once import SaidOnce
from kv.placement.attendant import ASK, INVITE, ORDER, REPORT, Attendant, question
from kv.placement.messages import (
    DISMISS,
    Invite,
    Order,
    ReplicaReport,
    ReplicaRole,
    Report,
    Summary,
    Wish,
    decode_report,
    decode_wish,
    encode,
)
from kv.placement.observed import FRESH_S, Heard, Observation, corrections, observe
from kv.placement.plan import (
    GroupView,
    Kind,
    Limits,
    NodeView,
    Plan,
    Standing,
    Step,
    Why,
    plan,
    ring_of_nodes,
)
from kv.placement.summary import summary_of
from raftgroups.meta.commands import MetaCommand
from raftgroups.meta.view import MetaView
from raftgroups.transport import NodeId
from storage.clock import Clock, Scheduler, Timer

_log = logging.getLogger(__name__)

FIRST_LOOKS_S: Final = 2.0
"""A new planner waits so long for the first report of every node before it acts."""
PROPOSE_AGAIN_S: Final = 1.0
CORRECTIONS_MAX: Final = 16
"""Proposed in one look."""
LEADERS_EVERY_S: Final = 2.0
SUMMARY: Final = "placement-summary"
WISH: Final = "placement-wish"
NEWS_S: Final = 0.01
"""A report that tells of another role, leader or member is acted on so soon."""
CALM_S: Final = 5.0
"""Leaderships are balanced once this node has planned for so long: after a failure they are first
where they could be."""


class Meta(Protocol):
    """What the mover needs of the meta group."""

    @property
    def leads(self) -> bool: ...

    @property
    def view(self) -> MetaView: ...

    def propose(self, command: MetaCommand) -> None:
        """Nobody waits for the answer: a later view shows it."""
        ...


@dataclass(frozen=True, slots=True)
class MoverSettings:
    limits: Limits = field(default_factory=Limits)
    dead_after_s: float = 0.0
    """A node that is silent for so long is declared dead; 0: only by an operator."""
    dead_on_ring_after_s: float = 0.0
    """The same where there is a ring: what only that node had taken of leaderless keyspaces is lost
    then, since they are written on both sides of a partition."""
    busy_s: float = 0.1
    idle_s: float = 1.0


class Mover:
    """For the node's loop only."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        meta: Meta,
        notes: Notes,
        attendant: Attendant,
        scheduler: Scheduler,
        clock: Clock,
        settings: MoverSettings,
    ) -> None:
        self._node_id = node_id
        self._meta = meta
        self._notes = notes
        self._attendant = attendant
        self._scheduler = scheduler
        self._clock = clock
        self.settings = settings
        self._said = SaidOnce(_log)
        self._number = 0
        self._asked_at: dict[int, float] = {}
        self._heard: dict[NodeId, Heard] = {}
        self._since: float | None = None
        """Since when this node plans."""
        self._looked_s: float | None = None
        self._proposed: dict[MetaCommand, float] = {}
        self._leaders_at = float("-inf")
        self._ring: tuple[tuple[tuple[NodeId, float], ...], Ring] | None = None
        self._last: tuple[tuple[list[NodeView], list[GroupView], Limits], Plan] | None = None
        """What was planned from last, and the plan."""
        self._timer: Timer | None = None
        self._stopped = False
        self._news = False
        """What the next look is soon for."""
        self.seen: Observation | None = None
        self.plan: Plan | None = None
        """Of the last look; None while this node does not plan."""
        self.on_step: Callable[[Step], None] | None = None
        """For metrics and the simulator: what is sent."""
        self._corrected = False
        """The last look found the map to differ from what is."""
        self._balance_once = False
        """Somebody asked for it: until nothing is left to do, balance though it is switched off."""
        notes.on(REPORT, self._reported)
        notes.on(SUMMARY, self._asked_summary)
        notes.on(WISH, self._wished)

    def start(self) -> None:
        self._look_again()

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def hurry(self) -> None:
        """Something was asked for: look now."""
        self._look_within(0.0)

    def _look_within(self, delay_s: float) -> None:
        if self._timer is not None and not self._stopped:
            self._timer.cancel()
            self._timer = self._scheduler.call_later(delay_s, self._look_again)

    def _look_again(self) -> None:
        self._news = False
        busy = self._look()
        delay_s = self.settings.busy_s if busy else self.settings.idle_s
        self._timer = self._scheduler.call_later(delay_s, self._look_again)

    # --- a look -------------------------------------------------------------------------------

    def _look(self) -> bool:
        """True: something is under way."""
        now_s = self._clock.monotonic()
        if self._looked_s is not None and now_s - self._looked_s > FRESH_S:
            self._forget()
        self._looked_s = now_s
        view = self._meta.view
        if not self._meta.leads or not view.version:
            self._forget()
            return False
        if self._since is None:
            _log.info("this node plans where replicas live")
            self._since = now_s
        since_s = self._since
        known = {NodeId(node) for node in view.nodes}
        # Silence begins when a node becomes known here, however long this one has been planning.
        self._heard = {node: self._heard.get(node) or Heard(now_s) for node in sorted(known)}
        self._ask(now_s)
        first = now_s - since_s < FIRST_LOOKS_S
        if first and any(each.report is None for each in self._heard.values()):
            return True
        return self._act(now_s, view)

    def _forget(self) -> None:
        self._since = None
        self._heard.clear()
        self._asked_at.clear()
        self._proposed.clear()
        self.seen = self.plan = None

    def _ask(self, now_s: float) -> None:
        self._number += 1
        self._asked_at = {n: at for n, at in self._asked_at.items() if now_s - at < FRESH_S}
        self._asked_at[self._number] = now_s
        for node in self._heard:
            if node == self._node_id:
                self._heard[node] = Heard(now_s, self._attendant.report(self._number))
            else:
                self._notes.tell(node, ASK, question(self._number))

    def _reported(self, peer: NodeId, body: bytes) -> None:
        try:
            report = decode_report(body)
        except msgspec.DecodeError as error:
            self._said.warn(f"peer {peer}", "malformed_report", f"cannot be read: {error}")
            return
        asked_s = self._asked_at.get(report.number)
        known = self._heard.get(peer)
        if asked_s is not None and known is not None and asked_s >= known.at_s:
            # It was true at some moment since it was asked for: that counts, not when it came.
            self._heard[peer] = Heard(asked_s, report)
            if not self._news and known.report and _standing(report) != _standing(known.report):
                self._news = True
                self._look_within(NEWS_S)

    def _fresh(self, now_s: float) -> dict[NodeId, Report]:
        return {
            node: each.report
            for node, each in self._heard.items()
            if each.report is not None and now_s - each.at_s < FRESH_S
        }

    def _act(self, now_s: float, view: MetaView) -> bool:
        reports = self._fresh(now_s)
        seen = self.seen = observe(view, reports)
        corrected = self._corrected = self._correct(now_s, view, seen)
        limits = self.settings.limits
        if self._balance_once:
            limits = replace(limits, balance=True)
        found = self.plan = self._planned(seen, limits)
        if found.settled:
            self._balance_once = False
        self._invite_again(view, seen, reports)
        self._dismiss(seen, reports)
        for step in found.steps:
            self._take(step, now_s, view, seen, reports)
        return corrected or not found.finished

    def _planned(self, seen: Observation, limits: Limits) -> Plan:
        """Looks are many and most of them see what the last one saw; a plan follows from that
        alone."""
        given = (seen.nodes, seen.groups, limits)
        if self._last is None or self._last[0] != given:
            self._last = (given, plan(*given, self._ring_of(seen.nodes)))
        return self._last[1]

    def _ring_of(self, nodes: list[NodeView]) -> Ring:
        key = tuple((node.node, node.weight) for node in nodes if node.standing is Standing.ACTIVE)
        if self._ring is None or self._ring[0] != key:
            self._ring = (key, ring_of_nodes(nodes))
        return self._ring[1]

    def _correct(self, now_s: float, view: MetaView, seen: Observation) -> bool:
        settings = self.settings
        patience_s = settings.dead_after_s if view.ring is None else settings.dead_on_ring_after_s
        wanted = corrections(view, seen, self._heard, now_s=now_s, dead_after_s=patience_s)
        recent = {c: at for c, at in self._proposed.items() if now_s - at < PROPOSE_AGAIN_S}
        self._proposed = recent
        for command in [c for c in wanted if c not in recent][:CORRECTIONS_MAX]:
            self._proposed[command] = now_s
            self._meta.propose(command)
        return bool(wanted)

    # --- steps --------------------------------------------------------------------------------

    def _take(
        self,
        step: Step,
        now_s: float,
        view: MetaView,
        seen: Observation,
        reports: dict[NodeId, Report],
    ) -> None:
        if step.why is Why.LEADERS:
            assert self._since is not None
            last_s = max(self._leaders_at + LEADERS_EVERY_S, self._since + CALM_S)
            if now_s < last_s:
                return
            self._leaders_at = now_s
        if step.kind is Kind.ADD:
            replica = _replica(reports, step.node, step.group)
            if replica is None:
                self._invite(step.node, view, step.group)
                return
            if replica.role is not ReplicaRole.BLANK:
                return  # it has not forgotten an earlier life yet
        self._order(step, seen)

    def _order(self, step: Step, seen: Observation) -> None:
        if self.on_step is not None:
            self.on_step(step)
        config_index = seen.leaders[step.group].config_index
        self._tell(step.leader, Order(step.group, step.kind.value, step.node, config_index))

    def _tell(self, leader: NodeId, order: Order) -> None:
        if leader == self._node_id:
            self._attendant.ordered(order)
        else:
            self._notes.tell(leader, ORDER, encode(order))

    def _dismiss(self, seen: Observation, reports: dict[NodeId, Report]) -> None:
        """Replicas that do not know that they were removed: they were away, and never ask."""
        groups = {group.group: group for group in seen.groups}
        for node, report in reports.items():
            for replica in report.replicas:
                group = groups.get(replica.group)
                if (
                    replica.role in (ReplicaRole.FOLLOWER, ReplicaRole.LEARNER)
                    and group is not None
                    and group.leader is not None
                    and group.settled
                    and node not in (*group.voters, *group.learners)
                ):
                    config_index = seen.leaders[replica.group].config_index
                    self._tell(group.leader, Order(replica.group, DISMISS, node, config_index))

    def _invite(self, node: NodeId, view: MetaView, group: int) -> None:
        invite = Invite(view.shards[group])
        if node == self._node_id:
            self._attendant.invited(invite)
        else:
            self._notes.tell(node, INVITE, encode(invite))

    def _invite_again(
        self, view: MetaView, seen: Observation, reports: dict[NodeId, Report]
    ) -> None:
        """A learner that has no replica: it gave it up, or lost it in a crash."""
        for group in seen.groups:
            for node in group.learners:
                if node in reports and _replica(reports, node, group.group) is None:
                    self._invite(node, view, group.group)

    # --- for people ---------------------------------------------------------------------------

    def _asked_summary(self, peer: NodeId, body: bytes) -> bytes:
        summary = self.summary()
        return b"" if summary is None else encode(summary)

    def summary(self) -> Summary | None:
        """None: another node plans, or this one has not looked yet."""
        if self.seen is None or self.plan is None:
            return None
        settled = self.plan.settled and not self._corrected
        return summary_of(self._node_id, self.seen, self.plan, settled=settled)

    def _wished(self, peer: NodeId, body: bytes) -> bytes:
        try:
            wish = decode_wish(body)
        except msgspec.DecodeError as error:
            return f"the wish cannot be read: {error}".encode()
        return self.wish(wish).encode()

    def wish(self, wish: Wish) -> str:
        """Empty: it is begun. Else why not."""
        if self.seen is None or self.plan is None:
            return "this node does not plan now; ask again"
        if wish.kind == "rebalance":
            self._balance_once = True
        elif wish.kind == "transfer":
            group = next((each for each in self.seen.groups if each.group == wish.group), None)
            if group is None or group.leader is None or not group.settled:
                return (
                    f"shard {wish.group} has no leader, or a change of it is under way; ask again"
                )
            if wish.node not in group.voters:
                return f"{wish.node} is no voter of shard {wish.group}"
            step = Step(Kind.TRANSFER, wish.group, NodeId(wish.node), group.leader, Why.MOVE)
            self._order(step, self.seen)
        else:
            return f"nobody here knows the wish {wish.kind!r}"
        self.hurry()
        return ""


def _standing(report: Report) -> list[tuple[object, ...]]:
    """What of it steps follow from, or nearly all."""
    return [
        (
            each.group,
            each.role,
            each.voters,
            each.learners,
            each.config_index,
            each.settled,
            each.caught_up,
        )
        for each in report.replicas
    ]


def _replica(reports: dict[NodeId, Report], node: NodeId, group: int) -> ReplicaReport | None:
    report = reports.get(node)
    if report is None:
        return None
    return next((each for each in report.replicas if each.group == group), None)
