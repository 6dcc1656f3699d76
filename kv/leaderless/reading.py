"""One read as its coordinator drives it, in named steps around get_core.py.

    start --> enough nodes in reach? -- no --> 503
                | yes
              ask R: this node if it is an owner, then owners in reach, then stand-ins
                |-- an answer fails, or hedge_s passes without enough --> the next nodes are asked
              R reached: answer --> the answers that are still to come --> repair

Now and then (`read_all_share`) every owner is asked at once, so that repair also sees the replicas
that R leaves out. Repair sends the merged set, in the background, to owners whose answer lacked
something and to asked ones that failed; where anything was found lacking, to those not asked too.
A read has no effect that anybody could miss, so it has no unknown outcome.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from kv.leaderless.frames import Read, Reply, Status
from kv.leaderless.get_core import Answer, Failed, Found, GetCore, GetResult, Nothing, Repair
from kv.leaderless.keyspace import Keyspace
from kv.leaderless.messenger import Outcome
from kv.leaderless.parts import NOT_YET, UNREADABLE, Parts
from kv.leaderless.put_core import Answer as StoreAnswer
from kv.leaderless.put_core import Stored
from kv.leaderless.quorum import Quorum, UnavailableError, refuse_hopeless
from kv.leaderless.view import Place
from kv.regime import Done
from raftgroups.transport import NodeId
from storage.clock import Timer
from storage.errors import JanusError
from storage.siblings import EMPTY_CLOCK, Clock, MalformedSetError, decode_set, encode_set


class GetOperation:
    """Invariants: answered exactly once, by the deadline; ended (`over` called) exactly once."""

    def __init__(
        self,
        parts: Parts,
        keyspace: Keyspace,
        key: bytes,
        quorum: Quorum,
        place: Place,
        deadline_s: float,
        done: Done[GetResult],
        over: Callable[[], None],
        *,
        must_cover: Clock = EMPTY_CLOCK,
        of_all: bool = False,
    ) -> None:
        """`of_all`: ask every owner at once."""
        self._parts = parts
        self._keyspace = keyspace
        self._key = key
        self._quorum = quorum
        self._place = place
        self._deadline_s = deadline_s
        self._done = done
        self._over = over
        self._must_cover = must_cover
        self._of_all = of_all
        self._core = GetCore(
            quorum, place.owners, (), must_cover=must_cover, others=place.fallbacks
        )
        self._asked: set[NodeId] = set()
        self._next: list[NodeId] = []
        """Who may still be asked, best first."""
        self._answered = self._ended = self._bracketed = False
        self._timer: Timer | None = None
        self._hedges = True
        """The timer is that of the hedge; the deadline's follows it."""
        self._encoded: bytes = b""
        self._found: Found | None = None
        """What the first answer is with these bytes. Most others are the same, and need not be
        decoded and merged again: 40 % of a read's work."""

    # --- asking ---------------------------------------------------------------------------

    def start(self) -> None:
        """Answers later, never inside."""
        parts, place = self._parts, self._place
        owners = [node for node in place.owners if parts.reachable(node)]
        others = [node for node in place.fallbacks if parts.reachable(node)]
        try:
            refuse_hopeless(self._quorum, owners=len(owners), others=len(others))
        except UnavailableError as error:
            parts.scheduler.call_soon(self._answer, error)
            parts.scheduler.call_soon(self._end)
            return
        if parts.node in owners:
            owners.remove(parts.node)
            owners.insert(0, parts.node)
        # What a session has seen may be with stand-ins, also where only owners count.
        only_owners = self._quorum.strict and not self._must_cover
        self._next = owners if only_owners else [*owners, *others]
        count = self._quorum.nodes
        if self._of_all or parts.rng.random() < parts.settings.read_all_share:
            count = max(count, len(owners))
        # Until the end it may hold an old set and send it on, as a repair.
        parts.ledger.sending(self._keyspace.number, self._key)
        self._bracketed = True
        self._arm()
        parts.scheduler.call_soon(self._begin, count)

    def _arm(self) -> None:
        left_s = max(0.0, self._deadline_s - self._parts.clock.monotonic())
        hedge_s = self._parts.settings.hedge_s
        self._hedges = self._hedges and hedge_s < left_s
        self._timer = self._parts.scheduler.call_later(
            hedge_s if self._hedges else left_s, self._time_is_over
        )

    def _time_is_over(self) -> None:
        self._timer = None
        if not self._hedges:
            self._respond(last=True)
            return
        self._hedges = False
        self._arm()
        self._ask_all_owners()

    def _begin(self, count: int) -> None:
        self._ask_next(count)
        self._look()

    def _ask_next(self, count: int) -> None:
        """Those it asks are waited for together, so that no answer is the last too early."""
        nodes, self._next = self._next[:count], self._next[count:]
        for node in nodes:
            self._asked.add(node)
            self._core.ask_also(node)
        for node in nodes:
            if node == self._parts.node:
                self._core.add_result(node, self._read_here())
            else:
                self._parts.messenger.ask(
                    node,
                    Read(0, self._keyspace.number, self._key),
                    self._parts.clock.monotonic() + self._parts.settings.replica_timeout_s,
                    partial(self._told, node),
                )

    def _read_here(self) -> Answer:
        if not self._parts.may_read(self._keyspace.number, self._key):
            return Failed(NOT_YET)
        encoded = self._parts.replica.read_encoded(self._keyspace.number, self._key)
        if encoded is None:
            return Nothing()
        return encoded if isinstance(encoded, Failed) else self._of_bytes(encoded)

    def _of_bytes(self, encoded: bytes) -> Answer:
        if self._found is not None and encoded == self._encoded:
            return self._found
        try:
            found = Found(decode_set(encoded))
        except MalformedSetError as error:
            return Failed(str(error))
        if self._found is None:
            self._encoded, self._found = encoded, found
        return found

    def _ask_all_owners(self) -> None:
        """Somebody is slow: whoever else may help is asked, stand-ins one at a time."""
        if self._answered:
            return
        owners = sum(node in self._place.owners for node in self._next)
        self._ask_next(max(owners, 1))
        self._look()

    def _told(self, node: NodeId, outcome: Outcome) -> None:
        answer = self._answer_of(outcome)
        self._core.add_result(node, answer)
        if isinstance(answer, Failed) and not self._answered:
            self._ask_next(1)
        self._look()

    def _answer_of(self, outcome: Outcome) -> Answer:
        if not isinstance(outcome, Reply):
            return Failed(outcome.reason)
        if outcome.status is Status.FOUND:
            return self._of_bytes(outcome.body)
        if outcome.status is Status.NOTHING:
            return Nothing()
        if outcome.status is Status.FAILED:
            return Failed(outcome.body.decode(errors="replace"))
        return Failed(UNREADABLE)

    # --- answering ------------------------------------------------------------------------

    def _look(self) -> None:
        if not self._answered and self._core.enough():
            self._respond()
        if not self._core.waiting():
            if not self._answered and self._next:
                # All have answered, and it is not enough: what a session saw may be elsewhere.
                self._ask_next(len(self._next))
                self._look()
            else:
                self._respond(last=True)
                self._end()

    def _respond(self, *, last: bool = False) -> None:
        if self._answered:
            return
        try:
            answer: GetResult | JanusError = self._core.response()
        except JanusError as error:
            if self._next and not last:
                return  # there are others to ask
            answer = error
        self._answer(answer)

    def _answer(self, answer: GetResult | JanusError) -> None:
        if self._answered:
            return
        self._answered = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._done(answer)

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        repair = self._core.final_action()
        if repair is not None:
            self._repair(repair)
        if self._bracketed:
            self._parts.ledger.sent(self._keyspace.number, self._key)
        self._over()

    # --- repairing ------------------------------------------------------------------------

    def _repair(self, repair: Repair) -> None:
        parts = self._parts
        failed = [node for node in repair.unknown if node in self._asked]
        targets = [*repair.stale, *(repair.unknown if repair.stale else failed)]
        encoded = b""
        for node in targets:
            if not parts.reachable(node):
                continue
            if parts.counts["repairs_under_way"] >= parts.settings.repairs_max:
                parts.counts["repairs_left_out"] += 1
                continue
            parts.counts["repairs_under_way"] += 1
            encoded = encoded or encode_set(repair.siblings)
            parts.store(
                node,
                self._keyspace.number,
                self._key,
                repair.siblings,
                encoded,
                self._repaired,
            )

    def _repaired(self, answer: StoreAnswer) -> None:
        self._parts.counts["repairs_under_way"] -= 1
        self._parts.counts["repaired" if isinstance(answer, Stored) else "repairs_failed"] += 1
