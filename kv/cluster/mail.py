"""Messages between nodes on the "gossip" channel, or another: notes, questions with answers.

    tell(peer, kind, body)                    a note; it may be lost
    await ask(peer, kind, body, within_s)     a question; raises NoAnswerError in time
    on(kind, handler)                         handler(peer, body) -> the answer, or None for a note

For what people and dashboards want to know and for what is repeated anyway; nothing here is right
or safe by itself. Handlers are quick and do not wait. Bounded: so many questions under way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import ClassVar, Final, Protocol

import msgspec

from kv.cluster.said_once import SaidOnce
from raftgroups.transport import Link, NodeId
from storage.errors import JanusError

_log = logging.getLogger(__name__)

CHANNEL: Final = "gossip"
UNDER_WAY_MAX: Final = 1024

Handler = Callable[[NodeId, bytes], bytes | None]


class Notes(Protocol):
    """As much of Mail as those need who never wait for an answer; the simulator's has no more."""

    def on(self, kind: str, handler: Handler) -> None: ...

    def tell(self, peer: NodeId, kind: str, body: bytes) -> bool: ...


class NoAnswerError(JanusError):
    """The node asked could not be reached or did not answer in time."""

    code: ClassVar[str] = "no_answer"
    retryable: ClassVar[bool] = True


class _Letter(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """number: 0 for a note, positive for a question, negative for the answer to it."""

    kind: str
    number: int
    body: bytes


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Letter).decode


class Mail:
    def __init__(self, link: Link, loop: asyncio.AbstractEventLoop, channel: str = CHANNEL) -> None:
        self._link = link
        self._channel = channel
        self._loop = loop
        self._handlers: dict[str, Handler] = {}
        self._waiting: dict[int, tuple[NodeId, asyncio.Future[bytes]]] = {}
        self._next_number = 1
        self._said = SaidOnce(_log)
        link.subscribe(channel, self._on_frame)
        link.on_peer_change(self._on_peer_change)

    def on(self, kind: str, handler: Handler) -> None:
        assert kind not in self._handlers, f"{kind} has a handler"
        self._handlers[kind] = handler

    def tell(self, peer: NodeId, kind: str, body: bytes) -> bool:
        """False: it was surely not sent."""
        return self._link.send(peer, self._channel, _encode(_Letter(kind, 0, body)))

    async def ask(self, peer: NodeId, kind: str, body: bytes, within_s: float) -> bytes:
        if len(self._waiting) >= UNDER_WAY_MAX:
            raise NoAnswerError(f"{len(self._waiting)} questions wait for answers already")
        number = self._next_number
        self._next_number += 1
        if not self._link.send(peer, self._channel, _encode(_Letter(kind, number, body))):
            raise NoAnswerError(f"node {peer} is not connected")
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._waiting[number] = (peer, future)
        try:
            return await asyncio.wait_for(future, within_s)
        except TimeoutError:
            raise NoAnswerError(f"node {peer} did not answer within {within_s:g} s") from None
        finally:
            del self._waiting[number]

    def _on_frame(self, peer: NodeId, frame: bytes) -> None:
        try:
            letter = _decode(frame)
        except msgspec.DecodeError as error:
            self._said.warn(f"peer {peer}", "malformed_letter", f"cannot be read: {error}")
            return
        if letter.number < 0:
            waiting = self._waiting.get(-letter.number)
            if waiting is not None and waiting[0] == peer and not waiting[1].done():
                waiting[1].set_result(letter.body)
            return
        handler = self._handlers.get(letter.kind)
        if handler is None:
            self._said.warn(f"peer {peer}", "unknown_letter", "sent a letter of an unknown kind")
            return
        answer = handler(peer, letter.body)
        if letter.number and answer is not None:
            self._link.send(
                peer, self._channel, _encode(_Letter(letter.kind, -letter.number, answer))
            )

    def _on_peer_change(self, peer: NodeId, connected: bool) -> None:
        if connected:
            return
        for asked, future in self._waiting.values():
            if asked == peer and not future.done():
                future.set_exception(NoAnswerError(f"the connection to node {peer} was lost"))
