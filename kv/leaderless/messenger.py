"""Questions to other nodes on the "replica" channel, and theirs to this one.

    ask --> outbox of the peer --(one pass of the loop)--> frame --> peer: serve --> reply
                                                                        |
    done(Reply | NotSent | Lost) <------------------------ frame <------'

- What was never handed to the link, and what the peer refused unread, is NotSent: surely not done.
  What was handed over and then not answered (connection lost, deadline) is Lost: nobody knows.
- A peer with another ring is refused: it means other nodes by "the owners". Both are told of it, so
  that they hear the news, and the question is sent again until its deadline, then under the ring
  that is known by then. Replies are taken whatever the ring, since they belong to a question of
  this one.
- Bounded: so many questions under way to a peer, so many of a peer's under way here.

`done` is called exactly once, from the loop, never from inside `ask`; the same for `reply`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from kv.cluster.said_once import SaidOnce
from kv.leaderless.frames import (
    RINGED,
    Copies,
    MalformedFrameError,
    Message,
    Reply,
    Request,
    Status,
    Store,
    decode_frame,
    encode_frames,
)
from kv.leaderless.reap import QuietLedger
from raftgroups.transport import Link, NodeId
from storage.clock import Clock, Scheduler, Timer

_log = logging.getLogger(__name__)

CHANNEL: Final = "replica"
WAITING_MAX: Final = 8192
"""Questions under way to one peer, and of one peer here."""
SWEEP_S: Final = 0.1
RESEND_S: Final = 0.05
"""How long a question waits that was refused because of another ring."""


@dataclass(frozen=True, slots=True)
class NotSent:
    """The peer has not worked on it and never will."""

    reason: str


@dataclass(frozen=True, slots=True)
class Lost:
    """It may have been done."""

    reason: str


Outcome = Reply | NotSent | Lost
Done = Callable[[Outcome], None]
SendReply = Callable[[Status, bytes], None]
Serve = Callable[[NodeId, Request, SendReply], None]
"""Work on a peer's question; the reply is sent exactly once."""


class _Waiting:
    __slots__ = ("deadline_s", "done", "peer", "refused", "request")

    def __init__(self, peer: NodeId, request: Request, deadline_s: float, done: Done) -> None:
        self.peer = peer
        self.request = request
        self.deadline_s = deadline_s
        self.done = done
        self.refused = ""
        """Why the peer refused it unread, while it waits to be sent again."""


class Messenger:
    def __init__(
        self,
        link: Link,
        *,
        scheduler: Scheduler,
        clock: Clock,
        ring: Callable[[], bytes],
        serve: Serve,
        other_ring: Callable[[NodeId], None] = lambda _: None,
        ledger: QuietLedger | None = None,
    ) -> None:
        """`ring` gives the epoch of the ring that this node goes by now; `other_ring` is told of
        peers that go by another one; `ledger` of each set that is on its way to a peer."""
        self._link = link
        self._scheduler = scheduler
        self._clock = clock
        self._ring = ring
        self._serve = serve
        self._other_ring = other_ring
        self._ledger = ledger or QuietLedger()
        self._late: dict[NodeId, dict[int, Store | Copies]] = {}
        """Sets that may still arrive there, although nobody waits for the answer any more: until it
        comes, or until a newer connection stands, whose making discards the old one's bytes."""
        self._said = SaidOnce(_log)
        self._next_number = 1
        self._waiting: dict[int, _Waiting] = {}
        self._counts: dict[NodeId, int] = {}
        self._outbox: dict[NodeId, list[Message]] = {}
        self._serving: dict[NodeId, int] = {}
        self._flush_scheduled = False
        self._held = False
        """Somebody asks many questions in a row and will `release` them."""
        self._sweeper: Timer | None = None
        self._stopped = False
        self.sent_messages = 0
        self.sent_frames = 0
        self.served = 0
        self.foreign_rings = 0
        """Questions refused because the peer had another ring."""
        link.subscribe(CHANNEL, self._on_frame)
        link.on_peer_change(self._on_peer_change)

    # --- asking ---------------------------------------------------------------------------

    def ask(self, peer: NodeId, request: Request, deadline_s: float, done: Done) -> None:
        """Its number is given here. `deadline_s` is a moment of the clock."""
        count = self._counts.get(peer, 0)
        if count >= WAITING_MAX or self._stopped:
            reason = "this node stops" if self._stopped else f"{count} messages wait for it already"
            self._scheduler.call_soon(done, NotSent(reason))
            return
        request.number = self._next_number
        self._next_number += 1
        self._waiting[request.number] = _Waiting(peer, request, deadline_s, done)
        self._counts[peer] = count + 1
        if isinstance(request, Store):
            self._ledger.sending(request.keyspace, request.key)
        elif isinstance(request, Copies):
            self._ledger.sending_all(request.number, request.keyspace, request.keys)
        self._queue(peer, request)
        if self._sweeper is None:
            self._sweeper = self._scheduler.call_later(SWEEP_S, self._sweep)

    def _queue(self, peer: NodeId, message: Message) -> None:
        self._outbox.setdefault(peer, []).append(message)
        if not (self._flush_scheduled or self._held):
            self._flush_scheduled = True
            self._scheduler.call_soon(self._flush)

    def hold(self) -> None:
        """Until `release`, in the same call of the loop."""
        self._held = True

    def release(self) -> None:
        """What was asked since leaves at once instead of with the next pass. What the link does
        not take is answered inside this call."""
        self._held = False
        if self._outbox and not self._flush_scheduled:
            self._send_all()

    def _flush(self) -> None:
        self._flush_scheduled = False
        self._send_all()

    def _send_all(self) -> None:
        outbox, self._outbox = self._outbox, {}
        for peer, messages in outbox.items():
            for frame, part in encode_frames(self._ring(), messages):
                if self._link.send(peer, CHANNEL, frame):
                    self.sent_frames += 1
                    self.sent_messages += len(part)
                    continue
                for message in part:
                    if not isinstance(message, Reply):
                        self._answer(message.number, NotSent("its connection is down or full"))

    def _answer(self, number: int, outcome: Outcome) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is None:
            return  # answered already: its connection was lost, or its time was over
        self._counts[waiting.peer] -= 1
        request = waiting.request
        if isinstance(request, Store | Copies):
            if isinstance(outcome, Lost):
                self._late.setdefault(waiting.peer, {})[number] = request
            else:
                self._arrived(request)
        waiting.done(outcome)

    def _arrived(self, request: Store | Copies) -> None:
        """It is there, or never will be."""
        if isinstance(request, Store):
            self._ledger.sent(request.keyspace, request.key)
        else:
            self._ledger.sent_all(request.number)

    def _sweep(self) -> None:
        self._sweeper = None
        now_s = self._clock.monotonic()
        late = [number for number, each in self._waiting.items() if each.deadline_s <= now_s]
        for number in late:
            refused = self._waiting[number].refused
            late_answer = NotSent(refused) if refused else Lost("it did not answer in time")
            self._answer(number, late_answer)
        if self._waiting and self._sweeper is None:
            self._sweeper = self._scheduler.call_later(SWEEP_S, self._sweep)

    def _on_peer_change(self, peer: NodeId, connected: bool) -> None:
        if connected:
            for request in self._late.pop(peer, {}).values():
                self._arrived(request)
            return
        unsent = {message.number for message in self._outbox.pop(peer, ()) if _asks(message)}
        lost = [number for number, each in self._waiting.items() if each.peer == peer]
        for number in lost:
            if number in unsent or self._waiting[number].refused:
                self._answer(number, NotSent("its connection was lost before"))
            else:
                self._answer(number, Lost("its connection was lost"))

    # --- frames ---------------------------------------------------------------------------

    def _on_frame(self, peer: NodeId, frame: bytes) -> None:
        if self._stopped:
            return
        try:
            ring, messages = decode_frame(frame)
        except MalformedFrameError as error:
            self._said.warn(f"peer {peer}", "malformed_replica_frame", str(error))
            return
        same_ring = ring == self._ring()
        self.hold()
        try:
            for message in messages:
                if isinstance(message, Reply):
                    self._replied(peer, message)
                elif same_ring:
                    self._take(peer, message)
                else:
                    self.foreign_rings += 1
                    self._queue(peer, Reply(message.number, Status.OTHER_RING, b""))
        finally:
            self.release()
        if not same_ring:
            self._other_ring(peer)

    def _replied(self, peer: NodeId, reply: Reply) -> None:
        waiting = self._waiting.get(reply.number)
        if waiting is None or waiting.peer != peer:
            late = self._late.get(peer, {}).pop(reply.number, None)
            if late is not None:
                self._arrived(late)
            return
        if reply.status is Status.OTHER_RING and isinstance(waiting.request, RINGED):
            self._other_ring(peer)
            self._answer(reply.number, NotSent("it has another ring"))
        elif reply.status is Status.OTHER_RING:
            waiting.refused = "it has another ring; the change has not reached one of us yet"
            self._scheduler.call_later(RESEND_S, self._send_again, reply.number)
            self._other_ring(peer)
        elif reply.status is Status.REFUSED:
            self._answer(reply.number, NotSent(reply.body.decode(errors="replace")))
        else:
            self._answer(reply.number, reply)

    def _send_again(self, number: int) -> None:
        waiting = self._waiting.get(number)
        if waiting is not None and waiting.refused and not self._stopped:
            waiting.refused = ""
            self._queue(waiting.peer, waiting.request)

    def _take(self, peer: NodeId, request: Request) -> None:
        under_way = self._serving.get(peer, 0)
        if under_way >= WAITING_MAX:
            reason = f"it works on {under_way} questions of this node already"
            self._queue(peer, Reply(request.number, Status.REFUSED, reason.encode()))
            return
        self._serving[peer] = under_way + 1
        self.served += 1
        self._serve(peer, request, partial(self._served, peer, request.number))

    def _served(self, peer: NodeId, number: int, status: Status, body: bytes) -> None:
        self._serving[peer] -= 1
        if not self._stopped:
            self._queue(peer, Reply(number, status, body))

    # --- the rest -------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def stop(self) -> None:
        """Everything under way is answered: Lost, or NotSent if it still waited here."""
        self._stopped = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        queued = [message for messages in self._outbox.values() for message in messages]
        unsent = {message.number for message in queued if _asks(message)}
        self._outbox.clear()
        for number in list(self._waiting):
            if number in unsent or self._waiting[number].refused:
                self._answer(number, NotSent("this node stops"))
            else:
                self._answer(number, Lost("this node stops"))


def _asks(message: Message) -> bool:
    return not isinstance(message, Reply)
