"""One write as its coordinator drives it, in named steps around put_core.py.

    start --> enough nodes in reach? -- no --> 503, nothing was sent
                | yes
              choose a minter: this node if it is an owner, else the first owner in reach, else the
                |              first node of the walk in reach, which may be this one
                |-- another --> forwarded (once): it mints and sees to the quorum, and its answer is
                |               told
                |-- cannot, and has surely done nothing (never sent, refused unread, its disk is
                |   full, it stops, it is overloaded or cut off) --> the next one is tried
              mint here --> spread the whole set --> W reached: answer --> late answers, hints

Outcomes: before anything was sent UnavailableError (503); sent and not answered, or too few copies,
is unknown (504): WriteQuorumError names got and required. What the rules refuse changes nothing.
The answer's context is what the writer had seen and his own version, no more: whoever writes
again with it replaces those, never a sibling that he was not shown.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from kv.errors import (
    KeyspaceNotFoundError,
    OutcomeUnknownError,
    OverloadedError,
    StoppingError,
)
from kv.leaderless.changes import Minted
from kv.leaderless.dvv import Context, with_dot
from kv.leaderless.frames import (
    MalformedFrameError,
    Put,
    Reply,
    Status,
    decode_context,
    decode_error,
    decode_written,
    encode_context,
)
from kv.leaderless.keyspace import Keyspace
from kv.leaderless.messenger import Lost, NotSent
from kv.leaderless.messenger import Outcome as Told
from kv.leaderless.parts import UNREADABLE, Parts
from kv.leaderless.put_core import Answer, PutCore, Send, Written, first_absent
from kv.leaderless.quorum import Quorum, UnavailableError, level_met, refuse_hopeless
from kv.leaderless.rules import Increment, Write
from kv.leaderless.view import Place
from kv.leaderless.wire_errors import error_of
from kv.regime import Done
from raftgroups.transport import NodeId
from storage.clock import Timer
from storage.errors import JanusError, NoSpaceError, Outcome
from storage.siblings import EMPTY_CLOCK

FORWARD_SHARE: Final = 0.9
"""Of the time left, for the node that a write is forwarded to: it should answer before this one
gives up."""


CANNOT_TAKE_IT: Final = (
    KeyspaceNotFoundError,
    NoSpaceError,
    OverloadedError,
    StoppingError,
    UnavailableError,
)
"""A node's reasons not to take a write that another node may take."""


class PutOperation:
    """Invariants: answered at most once; ended (`over` called) exactly once, which may be later."""

    def __init__(
        self,
        parts: Parts,
        keyspace: Keyspace,
        key: bytes,
        change: Write | Increment,
        quorum: Quorum,
        place: Place,
        deadline_s: float,
        done: Done[Written],
        over: Callable[[], None],
    ) -> None:
        self._parts = parts
        self._keyspace = keyspace
        self._key = key
        self._change = change
        self._quorum = quorum
        self._place = place
        self._deadline_s = deadline_s
        self._done = done
        self._over = over
        self._answered = self._ended = False
        self._minters: list[NodeId] = []
        self._stands_for: NodeId | None = None
        self._minted: Minted | None = None
        self._core: PutCore | None = None
        self._refused: JanusError = UnavailableError(
            "nothing was done: no node that may take this write is in reach; ask again"
        )
        """Why the last minter did not take it."""
        self._timer: Timer | None = None

    # --- who mints ------------------------------------------------------------------------

    def start(self, *, forwarded: bool) -> None:
        """A write that was forwarded already is minted here. Answers later, never inside."""
        parts, place = self._parts, self._place
        owners = [node for node in place.owners if parts.reachable(node)]
        others = [node for node in place.fallbacks if parts.reachable(node)]
        try:
            refuse_hopeless(self._quorum, owners=len(owners), others=len(others))
        except UnavailableError as error:
            parts.scheduler.call_soon(self._refuse, error)
            return
        left_s = self._deadline_s - parts.clock.monotonic()
        self._timer = parts.scheduler.call_later(max(0.0, left_s), self._too_late)
        if forwarded or parts.node in owners:
            self._minters = [parts.node]
        if not forwarded:
            self._minters += [node for node in (*owners, *others) if node not in self._minters]
        parts.scheduler.call_soon(self._ask_next_minter)

    def _ask_next_minter(self) -> None:
        if self._answered:
            self._end()
            return
        if not self._minters:
            self._refuse(self._refused)
            return
        minter = self._minters.pop(0)
        if minter == self._parts.node:
            self._mint()
        else:
            self._forward(minter)

    def _refuse(self, error: JanusError) -> None:
        self._answer(error)
        self._end()

    # --- forwarding -----------------------------------------------------------------------

    def _forward(self, minter: NodeId) -> None:
        left_s = self._deadline_s - self._parts.clock.monotonic()
        change = self._change
        value, delta, context = None, None, None
        if isinstance(change, Increment):
            delta = change.delta
        else:
            value, context = change.value, change.context
        message = Put(
            0,
            max(1, int(left_s * FORWARD_SHARE * 1000)),
            self._keyspace.number,
            self._key,
            value,
            delta,
            encode_context(context),
            change.expiry_ms,
            self._quorum.nodes,
            self._quorum.owners,
            self._quorum.strict,
        )
        self._parts.counts["forwarded"] += 1
        self._parts.messenger.ask(
            minter, message, self._deadline_s, partial(self._forwarded, minter)
        )

    def _forwarded(self, minter: NodeId, outcome: Told) -> None:
        if isinstance(outcome, NotSent):
            self._ask_another(
                UnavailableError(f"nothing was done: {minter}: {outcome.reason}; ask again")
            )
            return
        if isinstance(outcome, Lost):
            self._answer(self._unknown(f"it was forwarded to {minter}, and {outcome.reason}"))
        else:
            try:
                answer = self._said(outcome)
            except MalformedFrameError:
                answer = self._unknown(f"it was forwarded to {minter}: {UNREADABLE}")
            if isinstance(answer, CANNOT_TAKE_IT):
                self._ask_another(answer)
                return
            self._answer(answer)
        self._end()

    def _ask_another(self, refused: JanusError) -> None:
        assert refused.outcome is Outcome.NONE, f"it may have been done: {refused}"
        self._refused = refused
        self._ask_next_minter()

    def _said(self, reply: Reply) -> Written | JanusError:
        """Raises MalformedFrameError."""
        if reply.status is Status.ERROR:
            return error_of(decode_error(reply.body))
        if reply.status is not Status.WRITTEN:
            raise MalformedFrameError(f"a write was answered with {reply.status.name}")
        body = decode_written(reply.body)
        replicas = tuple(map(NodeId, body.replicas))
        return Written(
            decode_context(body.context) or Context(),
            replicas,
            tuple(map(NodeId, body.stand_ins)),
            level_met(self._quorum.n, sum(node not in self._place.arrivals for node in replicas)),
        )

    # --- minting here ---------------------------------------------------------------------

    def _mint(self) -> None:
        parts, owners = self._parts, self._place.owners
        self._stands_for = None
        if parts.node not in owners:
            absent = [node for node in owners if not parts.reachable(node)]
            self._stands_for = first_absent(owners, absent) or owners[0]
            parts.counts["stood_in"] += 1
        parts.replica.mint(
            self._keyspace, self._key, self._change, self._spread, hint_for=self._stands_for
        )

    def _spread(self, minted: Minted | JanusError) -> None:
        if isinstance(minted, CANNOT_TAKE_IT):
            self._ask_another(minted)
            return
        if isinstance(minted, JanusError):
            self._refuse(minted)
            return
        parts, place = self._parts, self._place
        self._minted = minted
        self._core = PutCore(
            self._quorum,
            place.owners,
            [node for node in place.fallbacks if parts.reachable(node)],
            minter=parts.node,
            arrivals=place.arrivals,
            minter_stands_for=self._stands_for,
            unreachable=[node for node in place.holders if not parts.reachable(node)],
        )
        self._send(self._core.start())
        self._look()

    def _send(self, sends: list[Send]) -> None:
        assert self._minted is not None
        for send in sends:
            if send.hint_for is not None:
                self._parts.counts["hinted"] += 1
            self._parts.store(
                send.node,
                self._keyspace.number,
                self._key,
                self._minted.siblings,
                self._minted.encoded,
                partial(self._told, send),
                hint_for=send.hint_for,
            )

    def _told(self, send: Send, answer: Answer) -> None:
        assert self._core is not None
        self._send(self._core.add_result(send, answer))
        self._look()

    def _look(self) -> None:
        core = self._core
        assert core is not None
        if not self._answered and core.enough():
            self._respond(core)
        if core.done() and not self._ended:
            hints = core.final_action()
            if hints:
                self._send(hints)
            else:
                self._parts.counts["lost_hints"] += len(core.lost_hints())
                self._end()

    def _respond(self, core: PutCore) -> None:
        assert self._minted is not None
        try:
            result = core.response()
        except JanusError as error:
            self._answer(error)
            return
        minted, change = self._minted, self._change
        seen = change.context if isinstance(change, Write) and change.context else Context()
        context = Context(
            with_dot(seen.clock or EMPTY_CLOCK, minted.dot), max(seen.timestamp, minted.timestamp)
        )
        self._answer(Written(context, result.replicas, result.stand_ins, result.level))

    # --- the end --------------------------------------------------------------------------

    def _too_late(self) -> None:
        self._timer = None
        if self._answered:
            return
        if self._core is not None:
            self._respond(self._core)
        else:
            self._answer(self._unknown("the node that names it did not answer in time"))

    def _unknown(self, why: str) -> OutcomeUnknownError:
        return OutcomeUnknownError(
            f"it is not known whether this was done: {why}; read before you write again"
        )

    def _answer(self, answer: Written | JanusError) -> None:
        if self._answered:
            return
        self._answered = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._done(answer)

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._over()
