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

Nearly every write goes to owners that are all in reach and all store it. For as long as that holds
its copies travel with those of the other writes of the turn (spreading.py) and it only counts who
has it. The first thing that goes otherwise makes a put_core.py of it, told all that happened so
far, which decides from there on.

Outcomes: before anything was sent UnavailableError (503); sent and not answered, or too few copies,
is unknown (504): WriteQuorumError names got and required. What the rules refuse changes nothing.
The answer's context is what the writer had seen and his own version, no more: whoever writes
again with it replaces those, never a sibling that he was not shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from kv.leaderless.put_core import (
    Answer,
    Failed,
    PutCore,
    Send,
    Stored,
    Written,
    first_absent,
)
from kv.leaderless.quorum import Level, Quorum, UnavailableError, level_met, refuse_hopeless
from kv.leaderless.rules import Increment, Write
from kv.leaderless.view import Place
from kv.leaderless.wire_errors import error_of
from kv.regime import Done
from raftgroups.transport import NodeId
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
    """Invariants: answered at most once; ended (`over` called) exactly once, which may be later.
    Without `_core`, all other owners are in `_copied` or `_awaited`."""

    __slots__ = (
        "_answered",
        "_awaited",
        "_change",
        "_copied",
        "_core",
        "_deadline_s",
        "_done",
        "_ended",
        "_keyspace",
        "_minted",
        "_minters",
        "_over",
        "_parts",
        "_place",
        "_quorum",
        "_refused",
        "_stands_for",
        "_step",
        "encoded",
        "key",
    )

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
        self.key = key
        self.encoded = b""
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
        self._refused: JanusError | None = None
        """Why the last minter did not take it."""
        self._step: int | None = None
        """Of its deadline, until it is answered."""
        self._copied: list[NodeId] = []
        self._awaited = 0

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
        self._step = parts.deadlines.add(self._deadline_s, self)
        here = forwarded or parts.node in owners
        if not forwarded:
            self._minters = [node for node in (*owners, *others) if node != parts.node or not here]
        if here:
            self._mint()
        else:
            parts.scheduler.call_soon(self._ask_next_minter)

    def _ask_next_minter(self) -> None:
        if self._answered:
            self._end()
            return
        if not self._minters:
            self._refuse(
                self._refused
                or UnavailableError(
                    "nothing was done: no node that may take this write is in reach; ask again"
                )
            )
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
            self.key,
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
            tuple((NodeId(node), why) for node, why in body.missed),
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
            self._keyspace, self.key, self._change, self._spread, hint_for=self._stands_for
        )

    def _spread(self, minted: Minted | JanusError) -> None:
        if isinstance(minted, CANNOT_TAKE_IT):
            self._ask_another(minted)
            return
        if isinstance(minted, JanusError):
            self._refuse(minted)
            return
        parts = self._parts
        self._minted, self.encoded = minted, minted.encoded
        unreachable = [node for node in self._place.holders if not parts.reachable(node)]
        if unreachable or not self._is_plain():
            self._core = self._make_core(unreachable)
            self._send(self._core.start())
            self._look()
            return
        self._copied.append(parts.node)
        for node in self._place.owners:
            if node != parts.node:
                self._awaited += 1
                parts.spreader.add(node, self._keyspace.number, self)
        self._look_at_copies()

    def _is_plain(self) -> bool:
        """Owners only, and no delete: that is taken where there is no room (replica.py)."""
        change = self._change
        return (
            self._stands_for is None
            and not self._place.arrivals
            and (isinstance(change, Increment) or change.value is not None)
        )

    def _make_core(self, unreachable: Sequence[NodeId]) -> PutCore:
        parts, place = self._parts, self._place
        return PutCore(
            self._quorum,
            place.owners,
            [node for node in place.fallbacks if parts.reachable(node)],
            minter=parts.node,
            arrivals=place.arrivals,
            minter_stands_for=self._stands_for,
            unreachable=unreachable,
        )

    def copied(self, node: NodeId, reason: str | None) -> None:
        """The answer of an owner to whom the spreader sent a copy."""
        self._awaited -= 1
        if self._core is None and reason is None:
            self._copied.append(node)
            self._look_at_copies()
            return
        if self._core is None:
            self._core = self._core_so_far()
        self._told(Send(node), Stored() if reason is None else Failed(reason))

    def _core_so_far(self) -> PutCore:
        """As if it had driven this write from the beginning."""
        core = self._make_core(())
        core.start()
        for node in self._copied[1:]:
            core.add_result(Send(node), Stored())
        return core

    def _look_at_copies(self) -> None:
        # Everyone who has it is an owner, so PW is reached with W.
        if not self._answered and len(self._copied) >= self._quorum.nodes:
            nodes = tuple(self._copied)
            self._written(nodes, (), level_met(self._quorum.n, len(nodes)))
        if not self._awaited:
            self._end()

    def _send(self, sends: list[Send]) -> None:
        assert self._minted is not None
        for send in sends:
            if send.hint_for is not None:
                self._parts.counts["hinted"] += 1
            self._parts.store(
                send.node,
                self._keyspace.number,
                self.key,
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
        try:
            result = core.response()
        except JanusError as error:
            self._answer(error)
            return
        self._written(result.replicas, result.stand_ins, result.level, result.missed)

    def _written(
        self,
        replicas: tuple[NodeId, ...],
        stand_ins: tuple[NodeId, ...],
        level: Level | None,
        missed: tuple[tuple[NodeId, str], ...] = (),
    ) -> None:
        minted, change = self._minted, self._change
        assert minted is not None
        seen = change.context if isinstance(change, Write) and change.context else Context()
        context = Context(
            with_dot(seen.clock or EMPTY_CLOCK, minted.dot), max(seen.timestamp, minted.timestamp)
        )
        self._answer(Written(context, replicas, stand_ins, level, missed))

    # --- the end --------------------------------------------------------------------------

    def expired(self) -> None:
        """For Deadlines."""
        self._step = None
        if self._answered:
            return
        if self._core is not None:
            self._respond(self._core)
        elif self._minted is not None:
            self._respond(self._core_so_far())
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
        if self._step is not None:
            self._parts.deadlines.remove(self._step, self)
            self._step = None
        self._done(answer)

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._over()
