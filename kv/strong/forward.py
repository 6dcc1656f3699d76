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
from typing import Final

import msgspec

from kv.cluster.said_once import SaidOnce
from kv.strong.frames import (
    MalformedFrameError,
    Question,
    Reply,
    Request,
    Status,
    decode_frame,
    encode_questions,
    encode_replies,
    encode_requests,
    refusal_body,
    refused_of,
)
from raftgroups.outcomes import Applied, ProposeResult, Refused, Unknown
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

Done = Callable[[ProposeResult], None]
Execute = Callable[[int, bytes, Done], None]
"""(group, command, done): lead it; done is called exactly once."""
Evaluate = Callable[[Question, Done], None]
"""Read it here; done gets Applied of the answer's bytes or of a Failure, or Refused."""


class _Waiting(msgspec.Struct, eq=False):
    peer: NodeId
    group: int
    deadline_s: float
    done: Done
    repeatable: bool
    is_read: bool = False


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
        self._requests: dict[NodeId, list[Request]] = {}
        self._questions: dict[NodeId, list[Question]] = {}
        self._replies: dict[NodeId, list[Reply]] = {}
        self._serving: dict[NodeId, int] = {}
        self._flush_scheduled = False
        self._sweeper: Timer | None = None
        self._stopped = False
        self.on_answer: Callable[[ProposeResult], None] | None = None
        self.on_batch: Callable[[float], None] | None = None
        """For metrics: how an operation sent on ended, and how many went in a frame."""
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
        """`deadline_s` is a moment of the clock. `repeatable`: it has a token, so trying it again
        is safe whatever came of this. `done` is never called from inside this call."""
        number = self._wait(_Waiting(peer, group, deadline_s, done, repeatable))
        if number:
            request = Request(number, group, self._budget_ms(deadline_s), command)
            self._requests.setdefault(peer, []).append(request)

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
        number = self._wait(_Waiting(peer, group, deadline_s, done, True, is_read=True))
        if number:
            budget_ms = self._budget_ms(deadline_s)
            question = Question(number, group, budget_ms, level, seen, query)
            self._questions.setdefault(peer, []).append(question)

    def _wait(self, waiting: _Waiting) -> int:
        """The number under which it waits; 0 if it was refused."""
        peer = waiting.peer
        count = self._counts.get(peer, 0)
        if count >= WAITING_MAX or self._stopped:
            reason = "this node stops" if self._stopped else f"{count} operations wait for {peer}"
            refused = Refused(reason, busy=not self._stopped)
            self._scheduler.call_soon(waiting.done, refused)
            return 0
        number = self._next_number
        self._next_number += 1
        self._waiting[number] = waiting
        self._counts[peer] = count + 1
        if not self._flush_scheduled:
            self._flush_soon()
        if self._sweeper is None:
            self._sweeper = self._scheduler.call_later(SWEEP_S, self._sweep)
        return number

    def _budget_ms(self, deadline_s: float) -> int:
        return max(1, int((deadline_s - self._clock.monotonic()) * 1000))

    def led_by_another(self, group: int, leader: NodeId | None) -> None:
        """Whatever may be tried again there is given up where it waits."""
        moved = [
            number
            for number, each in self._waiting.items()
            if each.repeatable and not each.is_read and each.group == group and each.peer != leader
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
            asked, self._requests = self._requests, {}
            for peer, requests in asked.items():
                self._send(peer, requests, encode_requests(requests))
        if self._questions:
            questions, self._questions = self._questions, {}
            for peer, each in questions.items():
                self._send(peer, each, encode_questions(each))

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

    def _answer(self, number: int, result: ProposeResult) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is None:
            return  # answered already: its connection was lost, or its time was over
        self._counts[waiting.peer] -= 1
        if self.on_answer is not None:
            self.on_answer(result)
        waiting.done(result)

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
        unsent = {request.number for request in self._requests.pop(peer, ())}
        unsent |= {question.number for question in self._questions.pop(peer, ())}
        self._replies.pop(peer, None)
        lost = [number for number, each in self._waiting.items() if each.peer == peer]
        for number in lost:
            if number in unsent:
                self._answer(number, Refused("the connection to the leader was lost before it"))
            else:
                self._answer(number, Unknown("the connection to the leader was lost"))

    # --- frames ---------------------------------------------------------------------------

    def _on_frame(self, peer: NodeId, frame: bytes) -> None:
        if self._stopped:
            return
        try:
            items = decode_frame(frame)
            for item in items:
                if isinstance(item, Reply):
                    self._take_reply(item)
                else:
                    self._serve(peer, item)
        except MalformedFrameError as error:
            self._said.warn(f"peer {peer}", "malformed_forward", str(error))

    def _take_reply(self, reply: Reply) -> None:
        waiting = self._waiting.get(reply.number)
        if waiting is not None and waiting.is_read and reply.status is Status.APPLIED:
            self._answer(reply.number, Applied(0, reply.body))
        else:
            self._answer(reply.number, _result_of(reply))

    def _serve(self, peer: NodeId, request: Request | Question) -> None:
        under_way = self._serving.get(peer, 0)
        done = partial(self._served, peer, request.number)
        if under_way >= WAITING_MAX:
            refused = Refused(f"{under_way} operations of this node are under way", busy=True)
            self._reply(peer, Reply(request.number, Status.REFUSED, refusal_body(refused)))
            return
        self._serving[peer] = under_way + 1
        if isinstance(request, Question):
            if self._evaluate is None:
                self._scheduler.call_soon(done, Refused("this node evaluates no queries"))
            else:
                self._evaluate(request, done)
            return
        self._execute(request.group, request.command, done)

    def _served(self, peer: NodeId, number: int, result: ProposeResult) -> None:
        self._serving[peer] -= 1
        if isinstance(result, Applied):
            found = result.result
            if isinstance(found, bytes):  # of a question
                answer = Reply(number, Status.APPLIED, found)
            else:
                failed = result.index == FAILED_QUESTION
                status = Status.FAILED if failed else Status.APPLIED
                answer = Reply(number, status, encode_result(found))
        elif isinstance(result, Refused):
            answer = Reply(number, Status.REFUSED, refusal_body(result))
        else:
            answer = Reply(number, Status.UNKNOWN, result.reason.encode())
        self._reply(peer, answer)

    def _reply(self, peer: NodeId, answer: Reply) -> None:
        waiting = self._replies.get(peer)
        if waiting is None:
            self._replies[peer] = [answer]
            self._flush_soon()
        else:
            waiting.append(answer)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def stop(self) -> None:
        """Everything under way is Unknown."""
        self._stopped = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        unsent = {request.number for asked in self._requests.values() for request in asked}
        unsent |= {question.number for asked in self._questions.values() for question in asked}
        self._requests.clear()
        self._questions.clear()
        for number in list(self._waiting):
            if number in unsent:
                self._answer(number, Refused("this node stops"))
            else:
                self._answer(number, Unknown("this node stops"))


def _result_of(reply: Reply) -> ProposeResult:
    if reply.status in (Status.APPLIED, Status.FAILED):
        try:
            return Applied(0, decode_result(reply.body))
        except ValueError:
            return Unknown("the leader's answer cannot be read here; it may be a newer version")
    if reply.status is Status.REFUSED:
        return refused_of(reply.body)
    return Unknown(reply.body.decode(errors="replace"))
