"""Writes that another node has to lead, and reads that this node has no replica for: sent there in
batches, answered here.

    send, ask -> outbox of the peer --(one pass of the loop)--> frame --> peer: execute --> replies
                                                                          |
    done <-- waiting[number] <------------------------------------ frame <'

- What was never handed to the link is Refused: surely not done. What was handed over and then not
  answered (connection lost, deadline) is Unknown. So is, at once, what may safely be tried again
  when another node leads: a frozen leader keeps its connections (`led_by_another`).
- A peer's requests are executed as if they had been made here, once checked: the bytes must be a
  command that this program knows, else they never reach the log.
- Bounded: so many waiting operations a peer, so many requests of a peer under way here; more are
  refused as busy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Final

import msgspec

from kv.cluster.said_once import SaidOnce
from kv.strong.frames import (
    MalformedFrameError,
    Question,
    Replies,
    Reply,
    Request,
    Requests,
    Status,
    decode_frame,
    encode_questions,
    encode_replies,
    encode_requests,
    refusal_body,
    refused_of,
)
from raftgroups.group import tell_each
from raftgroups.outcomes import (
    Applied,
    AppliedEach,
    DoneEach,
    EachResult,
    ProposeResult,
    Refused,
    Unknown,
)
from raftgroups.results import decode_result, encode_result
from raftgroups.transport import Link, NodeId
from storage.clock import Clock, Scheduler, Timer

_log = logging.getLogger(__name__)

CHANNEL: Final = "forward"
WAITING_MAX: Final = 8192
"""Operations under way to one peer, and of one peer here."""
SWEEP_S: Final = 0.25

FAILED_QUESTION: Final = -1
"""As the index of what a question that failed is Applied with."""
_APPLIED: Final = Status.APPLIED
_DONE: Final = Applied(0, None)
_UNREADABLE: Final = "the leader's answer cannot be read here; it may be a newer version"
_group: Final[Callable[[Request], int]] = attrgetter("group")

Done = Callable[[ProposeResult], None]
Execute = Callable[[int, Sequence[bytes], Sequence[int], DoneEach], None]
"""(group, commands, numbers, done): lead them; each number is told of exactly once."""
Evaluate = Callable[[Question, Done], None]
"""Read it here; done gets Applied of the answer's bytes or of a Failure, or Refused."""


class _Waiting(msgspec.Struct, eq=False):
    number: int
    peer: NodeId
    group: int
    deadline_s: float
    body: bytes
    asker: Any
    done: DoneEach
    repeatable: bool
    level: str
    """Of a read; a write has none."""
    seen: int


class Forwarder:
    """For the node's loop only. Results that come back are decoded once, here."""

    def __init__(
        self,
        link: Link,
        *,
        scheduler: Scheduler,
        clock: Clock,
        execute: Execute,
        evaluate: Evaluate | None = None,
    ) -> None:
        self._evaluate = evaluate
        self._link = link
        self._scheduler = scheduler
        self._clock = clock
        self._execute = execute
        self._said = SaidOnce(_log)
        self._next_number = 1
        self._waiting: dict[int, _Waiting] = {}
        self._counts: dict[NodeId, int] = {}
        self._requests: dict[NodeId, list[_Waiting]] = {}
        self._questions: dict[NodeId, list[_Waiting]] = {}
        self._replies: dict[NodeId, list[Reply]] = {}
        self._serving: dict[NodeId, int] = {}
        self._served_for: dict[NodeId, DoneEach] = {}
        """One object a peer, by which what an entry has of a peer is told together."""
        self._flush_scheduled = False
        self._sweeper: Timer | None = None
        self._stopped = False
        self.on_answer: Callable[[ProposeResult, int], None] | None = None
        self.on_batch: Callable[[float], None] | None = None
        """For metrics: how operations sent on ended, and how many so; and how many went in a
        frame."""
        link.subscribe(CHANNEL, self._on_frame)
        link.on_peer_change(self._on_peer_change)

    # --- asking ---------------------------------------------------------------------------

    def send(
        self,
        peer: NodeId,
        group: int,
        command: bytes,
        deadline_s: float,
        done: Done,
        *,
        repeatable: bool = False,
    ) -> None:
        """One command. `done` is never called from inside this call."""
        self.send_each(
            peer, group, (command,), (done,), deadline_s, tell_each, repeatable=repeatable
        )

    def ask(
        self,
        peer: NodeId,
        group: int,
        query: bytes,
        level: str,
        seen: int,
        deadline_s: float,
        done: Done,
    ) -> None:
        """Have a query evaluated there. `done` gets Applied of the bytes of its answer or of a
        Failure, Refused, or Unknown: a read may be tried again whatever came of it."""
        self.send_each(
            peer,
            group,
            (query,),
            (done,),
            deadline_s,
            tell_each,
            repeatable=True,
            level=level,
            seen=seen,
        )

    def send_each(
        self,
        peer: NodeId,
        group: int,
        bodies: Sequence[bytes],
        askers: Sequence[Any],
        deadline_s: float,
        done: DoneEach,
        *,
        repeatable: bool = False,
        level: str = "",
        seen: int = 0,
    ) -> None:
        """`deadline_s` is a moment of the clock. `repeatable`: they have tokens, so trying them
        again is safe whatever came of this. With a level they are queries."""
        count = self._counts.get(peer, 0)
        room = 0 if self._stopped else WAITING_MAX - count
        if len(bodies) > room:
            refused = Refused(f"{WAITING_MAX} operations wait for {peer}", busy=True)
            if self._stopped:
                refused = Refused("this node stops")
            self._scheduler.call_soon(done, askers[room:], refused)
            if not room:
                return
            bodies, askers = bodies[:room], askers[:room]
        self._counts[peer] = count + len(bodies)
        outbox = (self._questions if level else self._requests).setdefault(peer, [])
        number = self._next_number
        for body, asker in zip(bodies, askers, strict=True):
            waiting = _Waiting(
                number, peer, group, deadline_s, body, asker, done, repeatable, level, seen
            )
            self._waiting[number] = waiting
            outbox.append(waiting)
            number += 1
        self._next_number = number
        if not self._flush_scheduled:
            self._flush_soon()
        if self._sweeper is None:
            self._sweeper = self._scheduler.call_later(SWEEP_S, self._sweep)

    def led_by_another(self, group: int, leader: NodeId | None) -> None:
        """Whatever may be tried again there is given up where it waits."""
        moved = [
            number
            for number, each in self._waiting.items()
            if each.repeatable and not each.level and each.group == group and each.peer != leader
        ]
        for number in moved:
            self._scheduler.call_soon(
                self._answer, number, Unknown("another node leads the group now")
            )

    def _flush_soon(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._scheduler.call_soon(self._flush)

    def flush(self) -> None:
        """What waits for the next pass of the loop leaves with what else this one sends."""
        if self._flush_scheduled:
            self._flush()

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._replies:
            replies, self._replies = self._replies, {}
            for peer, answers in replies.items():
                for frame in encode_replies(answers):
                    self._link.send(peer, CHANNEL, frame)
        if self._requests:
            now_s = self._clock.monotonic()
            asked, self._requests = self._requests, {}
            for peer, leaving in asked.items():
                requests = [
                    Request(w.number, w.group, max(1, int((w.deadline_s - now_s) * 1000)), w.body)
                    for w in leaving
                ]
                self._send(peer, requests, encode_requests(requests))
        if self._questions:
            now_s = self._clock.monotonic()
            asked, self._questions = self._questions, {}
            for peer, leaving in asked.items():
                questions = []
                for w in leaving:
                    budget_ms = max(1, int((w.deadline_s - now_s) * 1000))
                    questions.append(
                        Question(w.number, w.group, budget_ms, w.level, w.seen, w.body)
                    )
                self._send(peer, questions, encode_questions(questions))

    def _send(
        self,
        peer: NodeId,
        items: Sequence[Request] | Sequence[Question],
        frames: list[tuple[bytes, int]],
    ) -> None:
        sent = 0
        for frame, part in frames:
            if not self._link.send(peer, CHANNEL, frame):
                break
            sent += part
            if self.on_batch is not None:
                self.on_batch(part)
        for item in items[sent:]:
            self._answer(item.number, Refused("the connection there is down or full"))

    def _answer(self, number: int, result: Refused | Unknown) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is None:
            return  # answered already: its connection was lost, or its time was over
        self._counts[waiting.peer] -= 1
        if self.on_answer is not None:
            self.on_answer(result, 1)
        self._tell(waiting.done, (waiting.asker,), result)

    def _tell(self, done: DoneEach, askers: Sequence[Any], result: EachResult) -> None:
        try:
            done(askers, result)
        except Exception:  # noqa: BLE001
            # A defect of whoever asked must not take the answers of all others with it.
            _log.exception("a done callback raised; its defect, the node goes on")

    def _sweep(self) -> None:
        self._sweeper = None
        now_s = self._clock.monotonic()
        late = [number for number, each in self._waiting.items() if each.deadline_s <= now_s]
        for number in late:
            self._answer(number, Unknown("the leader did not answer in time"))
        if self._waiting:
            self._sweeper = self._scheduler.call_later(SWEEP_S, self._sweep)

    def _on_peer_change(self, peer: NodeId, connected: bool) -> None:
        if connected:
            return
        unsent = {each.number for each in self._requests.pop(peer, ())}
        unsent |= {each.number for each in self._questions.pop(peer, ())}
        self._replies.pop(peer, None)
        lost = [number for number, each in self._waiting.items() if each.peer == peer]
        for number in lost:
            if number in unsent:
                self._answer(number, Refused("the connection to the leader was lost before it"))
            else:
                self._answer(number, Unknown("the connection to the leader was lost"))

    # --- frames ---------------------------------------------------------------------------

    def _on_frame(self, peer: NodeId, data: bytes) -> None:
        if self._stopped:
            return
        try:
            frame = decode_frame(data)
        except MalformedFrameError as error:
            self._said.warn(f"peer {peer}", "malformed_forward", str(error))
            return
        if isinstance(frame, Replies):
            self._take(frame.items)
            return
        room = self._admit(peer, frame.items)
        if isinstance(frame, Requests):
            self._lead(peer, frame.items[:room])
        else:
            for question in frame.items[:room]:
                self._look_up(peer, question)

    def _take(self, replies: Sequence[Reply]) -> None:
        """What a peer answers to what was sent to it."""
        applied: dict[DoneEach, tuple[list[Any], list[object]]] = {}
        count = 0
        for reply in replies:
            waiting = self._waiting.pop(reply.number, None)
            if waiting is None:
                continue  # answered already: its connection was lost, or its time was over
            self._counts[waiting.peer] -= 1
            status = reply.status
            failed: Refused | Unknown
            try:
                if status is _APPLIED or status is Status.FAILED:
                    is_bytes = status is _APPLIED and waiting.level
                    found = reply.body if is_bytes else decode_result(reply.body)
                    run = applied.get(waiting.done)
                    if run is None:
                        run = applied[waiting.done] = [], []
                    run[0].append(waiting.asker)
                    run[1].append(found)
                    count += 1
                    continue
                failed = _failed(reply)
            except (ValueError, MalformedFrameError):
                failed = Unknown(_UNREADABLE)
            if self.on_answer is not None:
                self.on_answer(failed, 1)
            self._tell(waiting.done, (waiting.asker,), failed)
        for done, (askers, results) in applied.items():
            self._tell(done, askers, AppliedEach(0, results))
        if count and self.on_answer is not None:
            self.on_answer(_DONE, count)

    def _admit(self, peer: NodeId, items: Sequence[Request] | Sequence[Question]) -> int:
        """How many of them, the first ones, are under way from now on. The others are refused."""
        under_way = self._serving.get(peer, 0)
        room = WAITING_MAX - under_way
        if len(items) > room:
            reason = f"{WAITING_MAX} operations of this node are under way"
            numbers = [each.number for each in items[room:]]
            self._reply(peer, _replies(numbers, Refused(reason, busy=True)))
        else:
            room = len(items)
        self._serving[peer] = under_way + room
        return room

    def _lead(self, peer: NodeId, requests: Sequence[Request]) -> None:
        done = self._served_for.get(peer)
        if done is None:
            done = self._served_for[peer] = partial(self._served, peer)
        groups = dict.fromkeys(map(_group, requests))
        for group in groups:
            run = requests if len(groups) == 1 else [r for r in requests if r.group == group]
            commands, numbers = [r.command for r in run], [r.number for r in run]
            self._execute(group, commands, numbers, done)

    def _served(self, peer: NodeId, numbers: Sequence[int], result: EachResult) -> None:
        self._serving[peer] -= len(numbers)
        self._reply(peer, _replies(numbers, result))

    def _look_up(self, peer: NodeId, question: Question) -> None:
        done = partial(self._looked_up, peer, question.number)
        if self._evaluate is None:
            self._scheduler.call_soon(done, Refused("this node evaluates no queries"))
        else:
            self._evaluate(question, done)

    def _looked_up(self, peer: NodeId, number: int, result: ProposeResult) -> None:
        found = result.result if isinstance(result, Applied) else None
        if isinstance(found, bytes):
            self._serving[peer] -= 1
            self._reply(peer, [Reply(number, Status.APPLIED, found)])
        elif isinstance(result, Applied):
            self._serving[peer] -= 1
            failed = result.index == FAILED_QUESTION
            status = Status.FAILED if failed else Status.APPLIED
            self._reply(peer, [Reply(number, status, encode_result(found))])
        else:
            self._served(peer, (number,), result)

    def _reply(self, peer: NodeId, answers: list[Reply]) -> None:
        waiting = self._replies.get(peer)
        if waiting is None:
            self._replies[peer] = answers
            self._flush_soon()
        else:
            waiting += answers

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def stop(self) -> None:
        """Everything under way is Unknown."""
        self._stopped = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        unsent = {each.number for asked in self._requests.values() for each in asked}
        unsent |= {each.number for asked in self._questions.values() for each in asked}
        self._requests.clear()
        self._questions.clear()
        for number in list(self._waiting):
            if number in unsent:
                self._answer(number, Refused("this node stops"))
            else:
                self._answer(number, Unknown("this node stops"))


def _replies(numbers: Sequence[int], result: EachResult) -> list[Reply]:
    """Of operations that ended together."""
    if isinstance(result, AppliedEach):
        return [
            Reply(number, _APPLIED, encode_result(each))
            for number, each in zip(numbers, result.results, strict=True)
        ]
    if isinstance(result, Refused):
        status, body = Status.REFUSED, refusal_body(result)
    else:
        status, body = Status.UNKNOWN, result.reason.encode()
    return [Reply(number, status, body) for number in numbers]


def _failed(reply: Reply) -> Refused | Unknown:
    """Raises MalformedFrameError."""
    if reply.status is Status.REFUSED:
        return refused_of(reply.body)
    return Unknown(reply.body.decode(errors="replace"))
