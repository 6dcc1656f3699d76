"""An operation of a keyspace on its way to a shard: found by the map, sent, tried again. One object
an operation that cannot simply be handed to the only shard of its keyspace.

    start --> which shard, by the newest map
                 |-- a replica is here --> the shard (shard.py), which knows its leader
                 '-- none              --> a node that has one (forward.py): the leader as a refusal
                                           named it, else each replica in turn
    "not here", "wrong shard"  --> a newer map, then start again
    refused, unknown           --> as in shard.py

Invariants: `done` is called exactly once; a write that may have been done is never called refused,
and is tried again only with an idempotency token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from kv.errors import OutcomeUnknownError, OverloadedError, UnavailableError
from kv.model import Level, ReadOptions, WriteOptions
from kv.regime import Done
from kv.router import CrossShardError, Scope, scope_of
from kv.strong.queries import MalformedQueryError, Query, decode_answer, encode_query
from raftgroups.commands import BatchWrite, Command, Txn
from raftgroups.meta.records import ShardRecord
from raftgroups.outcomes import Applied, ProposeResult, Refused
from raftgroups.refusals import LockedError
from raftgroups.results import Failure, error_of
from raftgroups.transport import NodeId
from storage.errors import JanusError, Outcome, WrongShardError

if TYPE_CHECKING:
    from kv.strong.keyspace import Keyspace
    from kv.strong.shard import StrongShard

RETRY_S: Final = 0.02


class Routed:
    __slots__ = (
        "_hint",
        "_keyspace",
        "_tries",
        "answered",
        "deadline_s",
        "done",
        "repeatable",
        "unsure",
        "why",
    )
    changes: ClassVar[bool] = False

    repeatable: bool
    """A lost try may be made again."""

    def __init__(self, keyspace: Keyspace, done: Done[Any], deadline_s: float) -> None:
        self._keyspace = keyspace
        self.done = done
        self.deadline_s = deadline_s
        self.answered = False
        self.unsure = False
        """An earlier try may have done it."""
        self.why = ""
        self._hint: NodeId | None = None
        self._tries = 0

    # --- of its kind ---

    def scope(self) -> Scope:
        raise NotImplementedError

    def hand_over(self, shard: StrongShard) -> None:
        """A replica is here."""
        raise NotImplementedError

    def send(self, peer: NodeId, group: int) -> None:
        raise NotImplementedError

    def result_of(self, applied: object) -> Any:
        """Raises JanusError."""
        raise NotImplementedError

    def crosses(self) -> bool:
        """Its keys are those of several shards: whether somebody else takes it over now."""
        return False

    # --- on its way ---

    def start(self) -> None:
        try:
            record = self._keyspace.record_for(self)
        except CrossShardError as error:
            if not self.crosses():
                self._keyspace.soon(self.answer, error)
            return
        except JanusError as error:
            self._keyspace.soon(self.answer, error)
        else:
            self.found(record)

    def found(self, record: ShardRecord) -> None:
        """The shard of its keys, by the newest map."""
        local = self._keyspace.holder(record.shard, self.scope())
        if local is not None:
            self.hand_over(local)
            return
        peer = self._peer(record)
        if peer is None:
            self.try_again(f"shard {record.shard} has no replica that is known")
        else:
            self.send(peer, record.shard)

    def _peer(self, record: ShardRecord) -> NodeId | None:
        hint, self._hint = self._hint, None
        if hint is not None:
            return hint
        peers = self._keyspace.peers_of(record)
        return peers[self._tries % len(peers)] if peers else None

    def replied(self, result: ProposeResult) -> None:
        """From the node that it was sent to."""
        if isinstance(result, Applied):
            self._applied(result.result)
        elif isinstance(result, Refused) and result.busy:
            self.give_up(OverloadedError(f"nothing was done: {result.reason}"))
        elif isinstance(result, Refused):
            self._hint = result.leader
            self.try_again(result.reason, look=result.leader is None)
        elif self.repeatable:
            self.unsure = self.changes
            self.try_again(result.reason)
        else:
            self.answer(
                OutcomeUnknownError(
                    f"it is not known whether this was done: {result.reason}; read to find out, "
                    "or give an idempotency token and ask again"
                )
            )

    def _applied(self, applied: object) -> None:
        try:
            answer = self.result_of(applied)
        except WrongShardError as error:
            self.try_again(str(error), look=True)
        except LockedError as error:
            self._keyspace.crossings.clear(error.holders, self.scope()[0])
            self.try_again(str(error))
        except JanusError as error:
            self.answer(error)
        else:
            self.answer(answer)

    def try_again(self, why: str, *, look: bool = False) -> None:
        """`look`: only with a newer map, if there is one."""
        self.why = why
        self._tries += 1
        if self._keyspace.now_s() >= self.deadline_s:
            self.give_up(UnavailableError(f"nothing was done: {why}; ask again, or another node"))
        else:
            self._keyspace.later(RETRY_S, self, look=look)

    def give_up(self, error: JanusError) -> None:
        """This try was surely not done; was an earlier one?"""
        if self.unsure:
            error = OutcomeUnknownError(
                "it is not known whether this was done: an earlier try was lost on its way, and "
                f"the last one was refused ({error}); ask again with the same idempotency token"
            )
        self.answer(error)

    def answer(self, answer: Any) -> None:
        if not self.answered:
            self.answered = True
            self._keyspace.answered(self, answer)


class RoutedWrite(Routed):
    __slots__ = ("_command", "_options", "_payload")
    changes = True

    def __init__(
        self,
        keyspace: Keyspace,
        done: Done[Any],
        deadline_s: float,
        command: Command,
        payload: bytes,
        options: WriteOptions,
    ) -> None:
        super().__init__(keyspace, done, deadline_s)
        self._command = command
        self._payload = payload
        self._options = options
        self.repeatable = options.token is not None

    def scope(self) -> Scope:
        return scope_of(self._command)

    def hand_over(self, shard: StrongShard) -> None:
        self.take_here(shard, self.answer)

    def take_here(self, shard: StrongShard, done: Done[Any], *, stays: bool = False) -> None:
        """`stays`: what the shard does not hold comes back to `done`, and not to the keyspace; of a
        repeatable write an earlier try in the shard may have been lost on its way."""
        asked_s = self._options.deadline_s and max(0.001, self.deadline_s - self._keyspace.now_s())
        shard.take(
            self._payload,
            done,
            self.deadline_s,
            self.repeatable,
            asked_s,
            self._options.across,
            stays=stays,
        )

    def crosses(self) -> bool:
        if not (self._options.across and isinstance(self._command, Txn | BatchWrite)):
            return False
        crossings, token = self._keyspace.crossings, self._options.token
        crossings.begin(self._command, self._crossed, token, self.deadline_s)
        return True

    def _crossed(self, answer: Any) -> None:
        if isinstance(answer, JanusError) and answer.outcome is Outcome.NONE:
            self.give_up(answer)
        else:
            self.answer(answer)

    def send(self, peer: NodeId, group: int) -> None:
        self._keyspace.forwarder.send(
            peer, group, self._payload, self.deadline_s, self.replied, repeatable=self.repeatable
        )

    def result_of(self, applied: object) -> Any:
        if isinstance(applied, Failure):
            raise error_of(applied)
        return applied


class RoutedRead(Routed):
    __slots__ = ("_options", "_query")

    def __init__(
        self,
        keyspace: Keyspace,
        done: Done[Any],
        deadline_s: float,
        query: Query[Any],
        options: ReadOptions,
    ) -> None:
        super().__init__(keyspace, done, deadline_s)
        self._query = query
        self._options = options
        self.repeatable = True

    def scope(self) -> Scope:
        return self._query.scope()

    def hand_over(self, shard: StrongShard) -> None:
        left_s = max(0.001, self.deadline_s - self._keyspace.now_s())
        options = ReadOptions(self._options.level, self._options.session, left_s)
        shard.read(self._query, self.answer, options)

    def send(self, peer: NodeId, group: int) -> None:
        options = self._options
        seen = options.session.revisions.get(group, 0) if options.level is Level.SESSION else 0
        self._keyspace.forwarder.ask(
            peer,
            group,
            encode_query(self._query),
            options.level.value,
            seen,
            self.deadline_s,
            self.replied,
        )

    def result_of(self, applied: object) -> Any:
        if isinstance(applied, Failure):
            raise error_of(applied)
        if not isinstance(applied, bytes):
            raise MalformedQueryError("the answer to a forwarded read is none")
        return decode_answer(self._query, applied)
