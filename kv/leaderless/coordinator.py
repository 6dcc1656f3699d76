"""The front of the leaderless regime on one node: get and put of a key, from any node.

A request is checked, given its quorum, its place on the ring and its deadline, and becomes an
operation of its own (writing.py, reading.py). Any node takes any key.

    done(answer)    exactly once, from the loop, never from inside the call; a JanusError as a value

Errors: LevelError and other invalid requests (400); UnavailableError (503, nothing was done);
OverloadedError (429); WriteQuorumError and OutcomeUnknownError (504, it may appear);
ReadQuorumError and SessionNotReachedError (a read has no effect).
"""

from __future__ import annotations

from collections.abc import Callable

from kv.errors import KeyspaceNotFoundError, OverloadedError, StoppingError
from kv.leaderless.get_core import GetResult
from kv.leaderless.keyspace import PLAIN, Keyspace, Wish, read_quorum, write_quorum
from kv.leaderless.parts import Parts
from kv.leaderless.put_core import Written
from kv.leaderless.quorum import Quorum, UnavailableError
from kv.leaderless.reading import GetOperation
from kv.leaderless.reading_together import ReadingTogether, SimpleRead
from kv.leaderless.rules import Increment, Write, check_value_for_rule
from kv.leaderless.view import Place
from kv.leaderless.writing import PutOperation
from kv.regime import Done
from storage.codec import check_key, check_value
from storage.errors import InvalidRequestError, JanusError
from storage.siblings import EMPTY_CLOCK, Clock

DELTA_MAX = 1 << 63


class InvalidIncrementError(InvalidRequestError):
    code = "invalid_increment"


class Coordinator:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._together = ReadingTogether(parts, self._read_anew, self._over)
        self._sizes = parts.settings.sizes.narrowed()
        self._stopped = False
        self.under_way = 0
        """Requests that have not ended, late answers and hints included."""

    # --- requests -------------------------------------------------------------------------

    def put(
        self,
        keyspace: int,
        key: bytes,
        change: Write | Increment,
        done: Done[Written],
        wish: Wish = PLAIN,
    ) -> None:
        """A write, a delete (value None) or an increment."""
        try:
            space = self._admit(keyspace, key)
            _check_change(space, change)
            if self._sizes is not None:
                self._sizes.check_pair(key, getattr(change, "value", None) or b"")
            place = self._place(key, space)
            quorum = write_quorum(space, wish, len(place.owners))
        except JanusError as error:
            self._parts.scheduler.call_soon(done, error)
            return
        self._parts.counts["puts"] += 1
        self.under_way += 1
        PutOperation(
            self._parts, space, key, change, quorum, place, self._deadline(wish), done, self._over
        ).start(forwarded=False)

    def put_forwarded(
        self,
        keyspace: int,
        key: bytes,
        change: Write | Increment,
        quorum_of: Callable[[int], Quorum],
        budget_s: float,
        done: Done[Written],
    ) -> None:
        """Another node's client asked; this node mints and sees to the quorum."""
        try:
            space = self._admit(keyspace, key)
            _check_change(space, change)
            place = self._place(key, space)
            quorum = quorum_of(len(place.owners))
            if not (0 < quorum.nodes <= quorum.n and quorum.owners <= quorum.nodes):
                raise InvalidRequestError(f"W={quorum.nodes} does not fit N={quorum.n}")
        except JanusError as error:
            self._parts.scheduler.call_soon(done, error)
            return
        self._parts.counts["puts_forwarded_here"] += 1
        self.under_way += 1
        deadline_s = self._parts.clock.monotonic() + budget_s
        PutOperation(
            self._parts, space, key, change, quorum, place, deadline_s, done, self._over
        ).start(forwarded=True)

    def get(
        self,
        keyspace: int,
        key: bytes,
        done: Done[GetResult],
        wish: Wish = PLAIN,
        *,
        must_cover: Clock = EMPTY_CLOCK,
    ) -> None:
        """The merged set; rules.resolve makes of it what a reader is told. `must_cover`: what the
        reader's session has seen of the key."""
        try:
            space = self._admit(keyspace, key)
            place = self._place(key, space)
            quorum = read_quorum(space, wish, len(place.owners))
        except JanusError as error:
            self._parts.scheduler.call_soon(done, error)
            return
        self._parts.counts["gets"] += 1
        self.under_way += 1
        deadline_s = self._deadline(wish)
        simple = not (must_cover or quorum.owners)
        if simple:
            of_all = self._parts.rng.random() < self._parts.settings.read_all_share
            self._together.add(SimpleRead(space, key, quorum, place, deadline_s, done, of_all))
            return
        GetOperation(
            self._parts,
            space,
            key,
            quorum,
            place,
            deadline_s,
            done,
            self._over,
            must_cover=must_cover,
        ).start()

    def _read_anew(self, read: SimpleRead, done: Done[GetResult], of_all: bool) -> None:
        GetOperation(
            self._parts,
            read.keyspace,
            read.key,
            read.quorum,
            read.place,
            read.deadline_s,
            done,
            self._over,
            of_all=of_all,
        ).start()

    def keyspace(self, number: int) -> Keyspace:
        """Raises KeyspaceNotFoundError."""
        space = self._parts.keyspaces.get(number)
        if space is None:
            raise KeyspaceNotFoundError(f"there is no leaderless keyspace {number} on this node")
        return space

    def stop(self) -> None:
        """Nothing new is taken; what is under way goes on."""
        self._stopped = True

    # --- shared ---------------------------------------------------------------------------

    def _admit(self, keyspace: int, key: bytes) -> Keyspace:
        if self._stopped:
            raise StoppingError("this node is stopping; ask another one")
        if self.under_way >= self._parts.settings.under_way_max:
            raise OverloadedError(
                f"nothing was done: {self.under_way} requests are under way on this node; ask "
                "again in a second, or another node"
            )
        check_key(key)
        return self.keyspace(keyspace)

    def _place(self, key: bytes, space: Keyspace) -> Place:
        place = self._parts.view().place(key, space.n)
        if not place.owners:
            raise UnavailableError(
                "nothing was done: this node has joined no other one yet and does not know the "
                "ring; ask again in a second, or another node"
            )
        return place

    def _deadline(self, wish: Wish) -> float:
        return self._parts.clock.monotonic() + (
            self._parts.settings.deadline_s if wish.deadline_s is None else wish.deadline_s
        )

    def _over(self) -> None:
        self.under_way -= 1


def _check_change(space: Keyspace, change: Write | Increment) -> None:
    if isinstance(change, Increment):
        if not -DELTA_MAX <= change.delta < DELTA_MAX:
            raise InvalidIncrementError("an increment must be a whole number of at most 64 bits")
        return
    if change.value is not None:
        check_value(change.value)
    check_value_for_rule(space.rule, change.value)
