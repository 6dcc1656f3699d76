"""A new node becomes a member: it asks one that is, until the map names it.

    newcomer    dials an address of [cluster] join, asks with its record          again and again
    member      proposes the record to the meta group, in the background;
                answers "admitted" with the map once the map has it, "later" until then, or why not

Being told comes first and the same question may be asked for ever, so nothing is lost with an
answer. Whoever is known with another disk, or was declared dead, is refused: it comes back with an
empty directory, which is another node. Secret and cluster id were proved by the link before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, Final, Protocol

import msgspec

from kv.cluster.link_discovery import DiscoveryError
from kv.cluster.link_handshake import Peer
from kv.cluster.mail import NoAnswerError
from kv.cluster.tasks import TaskOwner
from kv.looks import Looks
from raftgroups.meta.commands import MetaCommand, PutNode
from raftgroups.meta.records import NodeRecord, NodeState
from raftgroups.meta.view import MetaView, decode_view, encode_view
from raftgroups.transport import NodeId
from storage.errors import InvalidOptionError, InvalidRequestError, JanusError

_log = logging.getLogger(__name__)

JOIN: Final = "join"
ADMITTED: Final = "admitted"
LATER: Final = "later"
REFUSED: Final = "refused"
FIRST_WAIT_S: Final = 0.1
LONGEST_WAIT_S: Final = 2.0
CONNECT_S: Final = 3.0
POLL_S: Final = 0.02
ANSWER_WITHIN_S: Final = 2.0
SAY_EVERY_S: Final = 10.0
REFUSALS_MAX: Final = 256

Address = tuple[str, int]


class JoinRefusedError(InvalidOptionError):
    """The cluster does not take this directory. Waiting does not help."""

    code: ClassVar[str] = "join_refused"


class _Answer(msgspec.Struct, frozen=True, array_like=True):
    kind: str
    text: str = ""
    view: bytes = b""


_encode: Final = msgspec.msgpack.Encoder().encode
_decode_record: Final = msgspec.msgpack.Decoder(NodeRecord).decode
_decode_answer: Final = msgspec.msgpack.Decoder(_Answer).decode


# --- a member ---------------------------------------------------------------------------------


class Admission:
    """Answers newcomers. `propose` is the meta group's, from any node."""

    def __init__(
        self,
        *,
        view: Callable[[], MetaView],
        propose: Callable[[MetaCommand], Awaitable[object]],
        tasks: TaskOwner,
    ) -> None:
        self._view = view
        self._propose = propose
        self._tasks = tasks
        self._under_way: set[NodeId] = set()
        self._refusals: dict[NodeId, str] = {}

    def asked(self, peer: NodeId, body: bytes) -> bytes:
        return _encode(self._answer(peer, body))

    def _answer(self, peer: NodeId, body: bytes) -> _Answer:
        try:
            record = _decode_record(body)
        except msgspec.DecodeError as error:
            return _Answer(REFUSED, f"the request cannot be read here: {error}")
        if record.node != peer:
            return _Answer(REFUSED, f"node {peer} asks for {record.node}")
        view = self._view()
        known = view.nodes.get(peer)
        if known is not None:
            reason = why_not_again(known, record.incarnation)
            return _Answer(REFUSED, reason) if reason else _Answer(ADMITTED, "", encode_view(view))
        refusal = self._refusals.pop(peer, None)
        if refusal is not None:
            return _Answer(REFUSED, refusal)
        if view.version and peer not in self._under_way and len(self._under_way) < REFUSALS_MAX:
            self._under_way.add(peer)
            self._tasks.spawn(self._admit(record), f"admission of {peer}")
        return _Answer(LATER)

    async def _admit(self, record: NodeRecord) -> None:
        joining = msgspec.structs.replace(record, state=NodeState.JOINING)
        node = NodeId(record.node)
        try:
            await self._propose(PutNode(joining))
            _log.info("node %s (%s) joins the cluster", record.name, record.node)
        except InvalidRequestError as error:
            if len(self._refusals) < REFUSALS_MAX:
                self._refusals[node] = str(error)
        except JanusError as error:
            _log.info("node %s is not admitted yet, it will ask again: %s", record.node, error)
        finally:
            self._under_way.discard(node)


def why_not_again(known: NodeRecord, incarnation: int) -> str:
    """Why a node of which the map has this record may not come with that disk; empty: it may."""
    if known.state is NodeState.DEAD:
        return (
            f"node {known.name} ({known.node}) was declared dead, and its replicas were made anew "
            "elsewhere; empty its data directory and start it with [cluster] join: it comes back "
            "as a new node"
        )
    if known.incarnation != incarnation:
        return (
            f"node {known.name} ({known.node}) is known with another data directory than this one; "
            "remove it from the cluster (januskv node remove --dead), empty the directory, and "
            "join again"
        )
    return ""


def why_not_member(view: MetaView, node: NodeId, incarnation: int) -> str:
    """Why a node that was a member may not go on by this map; empty: it is one."""
    known = view.nodes.get(node)
    if not view.version:
        return ""
    if known is None:
        return (
            f"node {node} was removed from the cluster; its data directory can be deleted. To come "
            "back, start it with an empty one and [cluster] join"
        )
    return why_not_again(known, known.incarnation)


# --- the newcomer -----------------------------------------------------------------------------


class JoinLink(Protocol):
    async def discover(self, address: Address, timeout_s: float | None = None) -> Peer: ...

    def set_peer(self, peer: NodeId, address: Address) -> None: ...

    def connected(self, peer: NodeId) -> bool: ...


class Asker(Protocol):
    async def ask(self, peer: NodeId, kind: str, body: bytes, within_s: float) -> bytes: ...


class Newcomer:
    """Asks the addresses in turn. Raises DiscoveryError for what waiting cannot mend (a foreign
    cluster, a wrong secret), JoinRefusedError if the cluster says no."""

    def __init__(
        self,
        link: JoinLink,
        mail: Asker,
        addresses: Sequence[Address],
        *,
        route: Callable[[Address], Address] = lambda address: address,
    ) -> None:
        self._link = link
        self._mail = mail
        self._addresses = addresses
        self._route = route

    async def join(self, record: NodeRecord) -> MetaView:
        """For as long as it takes: the cluster may be started later."""
        wait_s, waited_s, said_s = FIRST_WAIT_S, 0.0, 0.0
        while True:
            why = "it knows no address but its own"
            for address in self._addresses:
                try:
                    view = await self._try(address, record)
                except (NoAnswerError, DiscoveryError) as error:
                    if isinstance(error, DiscoveryError) and not self._may_pass(error):
                        raise
                    why = str(error)
                    continue
                if view is not None:
                    return view
                why = f"{address[0]}:{address[1]} is about to admit this node"
            if waited_s >= said_s:
                _log.info("waiting to join the cluster: %s", why)
                said_s = waited_s + SAY_EVERY_S
            await asyncio.sleep(wait_s)
            waited_s += wait_s
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _may_pass(self, error: DiscoveryError) -> bool:
        if error.reason == "self":
            if len(self._addresses) == 1:
                raise InvalidOptionError(
                    "[cluster] join names only this node itself; name nodes of the cluster that "
                    "it shall join"
                )
            return True
        return error.may_pass and error.reason != "closing"

    async def _try(self, address: Address, record: NodeRecord) -> MetaView | None:
        dialed = self._route(address)
        peer = (await self._link.discover(dialed)).node_id
        self._link.set_peer(peer, dialed)
        async for _ in Looks(CONNECT_S, POLL_S):
            if self._link.connected(peer):
                break
        body = await self._mail.ask(peer, JOIN, _encode(record), ANSWER_WITHIN_S)
        try:
            answer = _decode_answer(body)
            if answer.kind == ADMITTED:
                return decode_view(answer.view)
        except (msgspec.DecodeError, ValueError) as error:
            raise NoAnswerError(f"the answer of {address[0]}:{address[1]} is no answer") from error
        if answer.kind == REFUSED:
            raise JoinRefusedError(f"this node cannot join the cluster: {answer.text}")
        return None
