"""What this node does for another one: read, store, coordinate a write that was forwarded here, and
its part of repairing, reaping and changes of members (maintenance.py).

Nothing that a peer sends raises: bytes that are no set, keys that no table could store, keyspaces
that are not known here are answered with the reason. A replayed hint is put off (LATER) while this
node has enough to do, so a node that comes back after hours sets the pace of what it is given.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from kv.leaderless.coordinator import Coordinator
from kv.leaderless.frames import (
    Compare,
    Copies,
    Fetch,
    Holds,
    ListKeys,
    MalformedFrameError,
    Mend,
    Prove,
    Put,
    Read,
    Reads,
    Request,
    Settled,
    Status,
    Store,
    WrittenBody,
    decode_context,
    encode_body,
    encode_context,
    encode_written,
)
from kv.leaderless.get_core import Failed
from kv.leaderless.maintenance import Maintenance
from kv.leaderless.messenger import SendReply
from kv.leaderless.parts import NOT_YET, Parts
from kv.leaderless.put_core import Answer, Stored, Written
from kv.leaderless.quorum import Quorum
from kv.leaderless.rules import Increment, Write
from kv.leaderless.wire_errors import body_of
from raftgroups.transport import NodeId
from storage.codec import check_key
from storage.errors import InvalidRequestError, JanusError
from storage.siblings import NODE_ID_MAX_BYTES, MalformedSetError, decode_set

REPLAY_PENDING_MAX: Final = 512
"""Changes that may wait for the disk when a replayed hint is still taken."""
LATER_MS: Final = 50
UNKNOWN_KEYSPACE: Final = b"it does not know this keyspace"


class Server:
    def __init__(self, parts: Parts, coordinator: Coordinator, maintenance: Maintenance) -> None:
        self._parts = parts
        self._maintenance = maintenance
        self._coordinator = coordinator

    def serve(self, peer: NodeId, request: Request, reply: SendReply) -> None:
        """A messenger's Serve."""
        try:
            if isinstance(request, Copies):
                self._copies(request, reply)
            elif isinstance(request, Reads):
                self._reads(request, reply)
            elif isinstance(request, Read):
                check_key(request.key)
                self._read(request, reply)
            elif isinstance(request, Store):
                check_key(request.key)
                self._store(request, reply)
            elif isinstance(request, Put):
                check_key(request.key)
                self._put(request, reply)
            else:
                self._maintain(peer, request, reply)
        except InvalidRequestError as error:
            self._invalid(request, reply, error)
        except (MalformedSetError, MalformedFrameError) as error:
            reply(Status.FAILED, str(error).encode())

    def _maintain(
        self,
        peer: NodeId,
        request: Compare | ListKeys | Fetch | Holds | Prove | Settled | Mend,
        reply: SendReply,
    ) -> None:
        if isinstance(request, Compare | ListKeys):
            self._maintenance.answering.serve(peer, request, reply)
        elif isinstance(request, Fetch):
            for key in request.keys:
                check_key(key)
            self._maintenance.answering.fetch(request, reply)
        elif isinstance(request, Holds):
            self._maintenance.answering.holds(request, reply)
        elif isinstance(request, Prove):
            self._maintenance.reaper.serve(request, reply)
        elif isinstance(request, Settled):
            self._maintenance.settled(peer, request, reply)
        else:
            self._maintenance.mend(reply)

    def _invalid(self, request: Request, reply: SendReply, error: JanusError) -> None:
        if isinstance(request, Put):
            reply(Status.ERROR, encode_body(body_of(error)))
        else:
            reply(Status.FAILED, str(error).encode())

    def _read(self, request: Read, reply: SendReply) -> None:
        if not self._parts.may_read(request.keyspace, request.key):
            reply(Status.FAILED, NOT_YET.encode())
            return
        answer = self._parts.replica.read_encoded(request.keyspace, request.key)
        if answer is None:
            reply(Status.NOTHING, b"")
        elif isinstance(answer, Failed):
            reply(Status.FAILED, answer.reason.encode())
        else:
            reply(Status.FOUND, answer)

    def _store(self, request: Store, reply: SendReply) -> None:
        replica = self._parts.replica
        if request.replayed and replica.pending > REPLAY_PENDING_MAX:
            reply(Status.LATER, b"%d" % LATER_MS)
            return
        if request.keyspace not in self._parts.keyspaces:
            reply(Status.FAILED, UNKNOWN_KEYSPACE)
            return
        siblings = decode_set(request.siblings)
        if not siblings.clock:
            raise MalformedSetError("a set without a clock says nothing")
        if len(request.hint_for.encode()) > NODE_ID_MAX_BYTES:
            raise MalformedSetError("the target of a hint is no node id")
        replica.store(
            request.keyspace,
            request.key,
            siblings,
            request.siblings,
            partial(_stored, reply),
            hint_for=NodeId(request.hint_for) if request.hint_for else None,
        )

    def _reads(self, request: Reads, reply: SendReply) -> None:
        parts, keyspace = self._parts, request.keyspace
        found: list[bytes | tuple[str] | None] = []
        for key in request.keys:
            check_key(key)
            if parts.may_read(keyspace, key):
                answer = parts.replica.read_encoded(keyspace, key)
                found.append((answer.reason,) if isinstance(answer, Failed) else answer)
            else:
                found.append((NOT_YET,))
        reply(Status.READ, encode_body(found))

    def _copies(self, request: Copies, reply: SendReply) -> None:
        if request.keyspace not in self._parts.keyspaces:
            reply(Status.FAILED, UNKNOWN_KEYSPACE)
        elif len(request.keys) != len(request.sets):
            raise MalformedFrameError("a message has more keys than sets, or fewer")
        else:
            self._parts.replica.store_all(
                request.keyspace, request.keys, request.sets, partial(_taken, reply)
            )

    def _put(self, request: Put, reply: SendReply) -> None:
        change: Write | Increment
        if request.delta is not None:
            change = Increment(request.delta, request.expiry_ms)
        else:
            context = decode_context(request.context)
            change = Write(request.value, context, request.expiry_ms)
        self._coordinator.put_forwarded(
            request.keyspace,
            request.key,
            change,
            lambda n: Quorum(n, request.nodes, request.owners, request.strict),
            request.budget_ms / 1000,
            partial(_written, reply),
        )


def _stored(reply: SendReply, answer: Answer) -> None:
    if isinstance(answer, Stored):
        reply(Status.STORED, b"")
    else:
        reply(Status.FAILED, answer.reason.encode())


def _taken(reply: SendReply, reasons: list[str | None] | str) -> None:
    if isinstance(reasons, str):
        reply(Status.FAILED, reasons.encode())
    elif any(reasons):
        reply(Status.TAKEN, encode_body(reasons))
    else:
        reply(Status.STORED, b"")


def _written(reply: SendReply, answer: Written | JanusError) -> None:
    if isinstance(answer, JanusError):
        reply(Status.ERROR, encode_body(body_of(answer)))
        return
    body = WrittenBody(
        encode_context(answer.context),
        list(answer.replicas),
        list(answer.stand_ins),
        [(str(node), why) for node, why in answer.missed],
    )
    reply(Status.WRITTEN, encode_written(body))
