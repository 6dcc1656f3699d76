"""The divider's shell: while this node leads the meta group, splits and merges get on.

    look (fifty times a second while something is under way, else every few seconds)
      ask every node of the map for its report
      what was heard lately --> figures.py --> limits.py: begin what is due
      each operation of the map --> steps.py --> one proposal, to a group's leader or the meta group

Answers, reports and changes of the map are acted on at once, so that a step waits for nobody's
timer. Nothing here is remembered that is not seen again: whoever leads the meta group next goes on
from the map and from what the groups show. What is lost on its way is proposed again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

import msgspec

from kv.cluster.mail import Notes
from kv.cluster.said_once import SaidOnce
from kv.division.attendant import ASK, REPORT, Attendant
from kv.division.figures import Figures, Shown, Told, figures, same_members, shown
from kv.division.limits import Due, Limits, Pace
from kv.division.messages import Ask, Report, decode_report, encode
from kv.division.steps import ToGroup, ToMeta, Work, stray, work_for
from kv.division.words import GATHER, JOIN, KINDS, MERGE, PROPOSE, SPLIT, UNDO
from raftgroups.commands import encode as encode_command
from raftgroups.meta.commands import BeginOperation, EndOperation, MetaCommand
from raftgroups.meta.records import OperationRecord
from raftgroups.meta.view import MetaView
from raftgroups.outcomes import Applied, ProposeResult, Refused
from raftgroups.transport import NodeId
from storage.clock import Clock, Scheduler, Timer

_log = logging.getLogger(__name__)

FRESH_S: Final = 3.0
"""What answers an older question means nothing any more."""
TRY_S: Final = 2.0
AGAIN_S: Final = 0.02
"""After a refusal."""
REFUSALS_KEPT: Final = 64
STRAY_S: Final = 5.0
"""A merge that nobody knows of stands for so long before it is undone: the map may be late."""

Propose = Callable[[NodeId, int, bytes, float, Callable[[ProposeResult], None]], None]
"""(node, group, payload, seconds, done): have that node propose it if it leads the group."""


class Meta(Protocol):
    """What the divider needs of the meta group."""

    @property
    def leads(self) -> bool: ...

    @property
    def view(self) -> MetaView: ...

    def propose(self, command: MetaCommand, done: Callable[[bool], None]) -> None:
        """`done` is called once: whether it surely was applied."""
        ...


@dataclass(frozen=True, slots=True)
class DividerSettings:
    automatic: bool = True
    """Off: only what was asked for."""
    pace: Pace = field(default_factory=Pace)
    busy_s: float = 0.02
    idle_s: float = 5.0


class Divider:
    """For the node's loop only."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        meta: Meta,
        notes: Notes,
        attendant: Attendant,
        propose: Propose,
        leader_of: Callable[[int], NodeId | None],
        scheduler: Scheduler,
        clock: Clock,
        settings: DividerSettings,
    ) -> None:
        """`leader_of` a group, as this node knows it."""
        self._node_id = node_id
        self._meta = meta
        self._notes = notes
        self._attendant = attendant
        self._propose = propose
        self._leader_of = leader_of
        self._scheduler = scheduler
        self._clock = clock
        self.settings = settings
        self.limits = Limits(settings.pace)
        self._said = SaidOnce(_log)
        self._number = 0
        self._asked_at: dict[int, float] = {}
        self._told: dict[NodeId, Told] = {}
        self._detailed: dict[NodeId, Told] = {}
        self._works: dict[int, Work] = {}
        self._waiting: set[int] = set()
        """Operations whose last proposal was not answered yet."""
        self._turn = 0
        self._beginning = False
        self._strays: tuple[tuple[int, int] | None, float] = (None, 0.0)
        self.refusals: dict[int, str] = {}
        """Why operations were given up here, until who asked for them is told."""
        self._timer: Timer | None = None
        self._soon = False
        self._stopped = False
        notes.on(REPORT, self._reported)

    def start(self) -> None:
        self._look_again()

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def hurry(self) -> None:
        """Something changed: act now, without asking first."""
        if not self._soon and not self._stopped:
            self._soon = True
            self._scheduler.call_soon(self._hurried)

    def _hurried(self) -> None:
        self._soon = False
        if self._stopped or not self._meta.leads:
            return
        was_idle = not self._works
        self._act(self._clock.monotonic(), self._meta.view)
        if was_idle and self._works and self._timer is not None:
            self._timer.cancel()
            self._timer = self._scheduler.call_later(0.0, self._look_again)

    def _look_again(self) -> None:
        busy = self._look()
        delay_s = self.settings.busy_s if busy else self.settings.idle_s
        self._timer = self._scheduler.call_later(delay_s, self._look_again)

    # --- a look -------------------------------------------------------------------------------

    def _look(self) -> bool:
        """True: something is under way."""
        now_s, view = self._clock.monotonic(), self._meta.view
        if not self._meta.leads or not view.version:
            self._forget()
            return False
        self._ask(now_s, view)
        self._act(now_s, view)
        if self.settings.automatic:
            self._begin_what_is_due(now_s, view)
        self._undo_stray(now_s, view)
        return bool(self._works) or self._beginning

    def _forget(self) -> None:
        self._told.clear()
        self._detailed.clear()
        self._asked_at.clear()
        self._works.clear()
        self._waiting.clear()
        self._beginning = False
        self.limits.forget()

    def _ask(self, now_s: float, view: MetaView) -> None:
        self._number += 1
        self._asked_at = {n: at for n, at in self._asked_at.items() if now_s - at < FRESH_S}
        self._asked_at[self._number] = now_s
        detail = not self._works
        middles = self.limits.middles(view, self.figures(now_s)) if detail else ()
        ask = Ask(self._number, detail, middles)
        body = encode(ask)
        for node in view.nodes:
            if node == self._node_id:
                self._take(NodeId(node), self._attendant.report(ask))
            else:
                self._notes.tell(NodeId(node), ASK, body)

    def _reported(self, peer: NodeId, body: bytes) -> None:
        try:
            report = decode_report(body)
        except msgspec.DecodeError as error:
            self._said.warn(f"peer {peer}", "malformed_report", f"cannot be read: {error}")
            return
        self._take(peer, report)
        if self._works:
            self.hurry()

    def _take(self, node: NodeId, report: Report) -> None:
        asked_s = self._asked_at.get(report.number)
        known = self._told.get(node)
        if asked_s is None or (known is not None and known.at_s > asked_s):
            return
        told = self._told[node] = Told(asked_s, report)
        if any(each.load is not None for each in report.replicas):
            self._detailed[node] = told

    def shown(self, now_s: float) -> Shown:
        return shown({node: t.report for node, t in self._told.items() if now_s - t.at_s < FRESH_S})

    def figures(self, now_s: float) -> Mapping[int, Figures]:
        """As nodes told within the last two idle looks."""
        fresh_s = 2 * self.settings.idle_s + FRESH_S
        return figures(
            {node: t.report for node, t in self._detailed.items() if now_s - t.at_s < fresh_s}
        )

    # --- what is under way --------------------------------------------------------------------

    def _act(self, now_s: float, view: MetaView) -> None:
        due: dict[int, OperationRecord] = {
            number: each for number, each in view.operations.items() if each.kind in KINDS
        }
        for gone in self._works.keys() - due.keys():
            del self._works[gone]
            if gone not in self._waiting:
                self._keep_reason(gone, "somebody asked for its end")
            self._waiting.discard(gone)
        if not due:
            return
        shown = self.shown(now_s)
        for number, operation in sorted(due.items()):
            work = self._works.get(number)
            if work is None:
                made = work_for(operation)
                assert made is not None, "it is of one of the kinds"
                work = self._works[number] = made
            if number not in self._waiting:
                self._step(operation, work, view, shown, now_s)

    def _step(
        self, operation: OperationRecord, work: Work, view: MetaView, shown: Shown, now_s: float
    ) -> None:
        act = work.next(operation, view, shown, now_s)
        number = operation.operation
        if isinstance(act, ToMeta):
            if act.given_up:
                self._given_up(operation, act.given_up, now_s)
            elif isinstance(act.command, EndOperation):
                _log.info(
                    "shard %s: %s is done", " and ".join(map(str, operation.shards)), operation.kind
                )
            self._waiting.add(number)
            self._meta.propose(act.command, partial(self._meta_answered, number))
        elif act is not None:
            target = shown.leaders.get(act.group) or self._leader_of(act.group)
            if target is None:
                replicas = view.shards[act.group].replicas
                self._turn += 1
                target = NodeId(replicas[self._turn % len(replicas)]) if replicas else None
            if target is not None:
                self._waiting.add(number)
                payload = encode_command(act.command, act.token)
                done = partial(self._group_answered, number, act)
                self._propose(target, act.group, payload, TRY_S, done)

    def _given_up(self, operation: OperationRecord, why: str, now_s: float) -> None:
        self.limits.rest(operation.shards, now_s)
        self._keep_reason(operation.operation, why)
        shards = " and ".join(map(str, operation.shards))
        _log.warning("the %s of shard %s was given up: %s", operation.kind, shards, why)

    def _keep_reason(self, operation: int, why: str) -> None:
        """The first one that is seen; of what was done nobody asks for it."""
        self.refusals.setdefault(operation, why)
        while len(self.refusals) > REFUSALS_KEPT:
            del self.refusals[next(iter(self.refusals))]

    def _meta_answered(self, number: int, applied: bool) -> None:
        if applied:
            self._go_on(number)
        else:
            self._scheduler.call_later(AGAIN_S, self._go_on, number)

    def _group_answered(self, number: int, act: ToGroup, result: ProposeResult) -> None:
        work = self._works.get(number)
        if isinstance(result, Applied):
            if work is not None:
                work.answered(act.command, result.result)
            self._go_on(number)
            return
        if isinstance(result, Refused) and result.leader is not None:
            self._told_of_leader(act.group, result.leader)
        _log.debug("operation %d: %s", number, result.reason)
        self._scheduler.call_later(AGAIN_S, self._go_on, number)

    def _told_of_leader(self, group: int, leader: NodeId) -> None:
        """Whatever was reported of that group before was of an earlier leader."""
        if self.shown(self._clock.monotonic()).leaders.get(group) not in (None, leader):
            self._told.clear()

    def _go_on(self, number: int) -> None:
        self._waiting.discard(number)
        if self._works and not self._stopped and self._meta.leads:
            now_s = self._clock.monotonic()
            self._ask(now_s, self._meta.view)
            self.hurry()

    # --- what begins --------------------------------------------------------------------------

    def _begin_what_is_due(self, now_s: float, view: MetaView) -> None:
        if self._beginning or not view.version:
            return
        due = self.limits.due(view, self.figures(now_s), now_s)
        if due is not None and due.kind == MERGE and self._is_one_away(due.shards, view, now_s):
            self.limits.rest(due.shards, now_s)  # replicas would not come together
        elif due is not None:
            shards = " and ".join(map(str, due.shards))
            _log.info("shard %s is due to be %s: %s", shards, _PAST[due.kind], due.why)
            self._begin(begin(view, due, self.shown(now_s)))

    def _is_one_away(self, shards: tuple[int, ...], view: MetaView, now_s: float) -> bool:
        """Of the nodes that have replicas of these, by their reports to the last idle looks."""
        fresh_s = 2 * self.settings.idle_s + FRESH_S
        there = {node for node, told in self._told.items() if now_s - told.at_s < fresh_s}
        return any(NodeId(n) not in there for each in shards for n in view.shards[each].replicas)

    def _undo_stray(self, now_s: float, view: MetaView) -> None:
        found = stray(view, self.shown(now_s))
        if found is None or found != self._strays[0]:
            self._strays = (found, now_s)
        elif now_s - self._strays[1] >= STRAY_S and not self._beginning:
            _log.warning("a merge of shards %d and %d that nobody began is undone", *found)
            self._begin(_undoing(view, found))

    def _begin(self, command: BeginOperation) -> None:
        self._beginning = True

        def done(applied: bool) -> None:
            self._beginning = False
            self.hurry()

        self._meta.propose(command, done)


_PAST: Final = {SPLIT: "split", MERGE: "merged"}


def begin(view: MetaView, due: Due, shown: Shown) -> BeginOperation:
    """The command that makes it an operation of the map. Raises KeyError for shards that are none
    of the map's."""
    epochs = tuple(view.shards[shard].epoch for shard in due.shards)
    if due.kind == SPLIT:
        wanted = OperationRecord(0, SPLIT, PROPOSE, due.shards, key=due.key, note=due.why)
        return BeginOperation(wanted, epochs, new_shards=1, new_segments=2)
    left, right = (shown.standings.get(shard) for shard in due.shards)
    together = left is not None and right is not None and same_members(left, right)
    step = JOIN if together else GATHER
    wanted = OperationRecord(0, MERGE, step, due.shards, note=due.why)
    return BeginOperation(wanted, epochs, new_segments=1)


def _undoing(view: MetaView, pair: tuple[int, int]) -> BeginOperation:
    wanted = OperationRecord(0, MERGE, UNDO, pair, note="it stood in the groups and in no map")
    return BeginOperation(wanted, tuple(view.shards[s].epoch for s in pair), new_segments=1)
