"""Listings of a leaderless keyspace: every node in reach is asked for its next keys.

    page --> all nodes (channel "look": kind "scan") --> ScanCore: merged up to where all answered
         '-> every range of the ring has an owner among them, or it is refused (503)

Eventually consistent: a page is what the nodes that answered hold at that moment, merged; a write
that was acknowledged elsewhere may be missing until it has reached one of them, and pages of one
listing are of different moments. A key that is there all the time comes once. What a node answers
is bounded in keys and bytes, so a page holds up no loop; it may have fewer keys than asked for.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from kv.cluster.mail import Mail, NoAnswerError
from kv.leaderless.assembly import Leaderless
from kv.leaderless.keyspace import Keyspace
from kv.leaderless.quorum import Level, UnavailableError
from kv.leaderless.scan_core import ScanCore, ScannedPage, level_of
from raftgroups.transport import NodeId
from storage.errors import StorageError
from storage.siblings import MalformedSetError, decode_set, encode_set

KIND: Final = "scan"
KEYS_MAX: Final = 1000
PAGE_BYTES: Final = 1024 * 1024
ANSWER_WITHIN_S: Final = 2.0


class _Ask(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    keyspace: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
    start: bytes
    end: bytes | None
    limit: Annotated[int, msgspec.Meta(ge=1, le=KEYS_MAX)]


class _Told(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    items: list[tuple[bytes, bytes]]
    last: bytes | None
    more: bool


_encode: Final = msgspec.msgpack.Encoder().encode
_decode_ask: Final = msgspec.msgpack.Decoder(_Ask).decode
_decode_told: Final = msgspec.msgpack.Decoder(_Told).decode


@dataclass(frozen=True, slots=True)
class Listed:
    page: ScannedPage
    replicas: tuple[NodeId, ...]
    level: Level


class Lister:
    def __init__(self, regime: Leaderless, mail: Mail) -> None:
        self._regime = regime
        self._mail = mail
        mail.on(KIND, self._serve)

    async def page(self, space: Keyspace, start: bytes, end: bytes | None, limit: int) -> Listed:
        """Raises UnavailableError."""
        ask = _Ask(space.number, start, end, limit)
        view = self._regime.view
        members = [node for node in sorted(view.ring.members) if self._regime.reachable(node)]
        answers = await asyncio.gather(*(self._ask(node, ask) for node in members))
        core = ScanCore(limit)
        answered = []
        for node, answer in zip(members, answers, strict=True):
            if answer is None:
                continue
            items = [(key, decode_set(encoded)) for key, encoded in answer.items]
            core.add(items, answer.last, answer.more)
            answered.append(node)
        level = level_of(view.ring, space.n, frozenset(answered))
        if level is None:
            raise UnavailableError(
                f"{len(answered)} of {len(view.ring.members)} nodes answered, and they do not hold "
                "every key between them; nothing was listed; ask again when more are in reach"
            )
        return Listed(core.page(), tuple(answered), level)

    async def _ask(self, node: NodeId, ask: _Ask) -> _Told | None:
        try:
            if node == self._regime.node:
                return self._look(ask)
            told = _decode_told(await self._mail.ask(node, KIND, _encode(ask), ANSWER_WITHIN_S))
            for _, encoded in told.items:
                decode_set(encoded)
        except (NoAnswerError, StorageError, MalformedSetError, msgspec.DecodeError):
            return None
        return told

    def _look(self, ask: _Ask) -> _Told | None:
        if self._regime.members.lacking:
            return None  # it has not got all that it is to have, so what it has proves nothing
        page = self._regime.replica.scan(
            ask.keyspace, ask.start, ask.end, limit=ask.limit, max_bytes=PAGE_BYTES
        )
        items = [(key, encode_set(record.siblings)) for key, record in page.items]
        looked_at = [*page.damaged, *(key for key, _ in items[-1:])]
        return _Told(items, max(looked_at, default=None), page.more)

    def _serve(self, peer: NodeId, body: bytes) -> bytes | None:
        try:
            told = self._look(_decode_ask(body))
            return None if told is None else _encode(told)
        except (StorageError, msgspec.DecodeError):
            return None  # whoever asked has a deadline, and goes by who answered
