"""Copies of what this node minted, on their way to the other owners: one message a peer and turn.

    PutOperation.minted --add--> outbox of the peer --flush (the turn was told)--> Copies --> peer
    PutOperation.copied <--------- for each key, stored or why not <-----------------'

Only the copies that nearly all are: of owners, without a hint. What the failure of one leads to is
the operation's business (writing.py). Bounded by the requests under way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from kv.leaderless.frames import (
    Copies,
    MalformedFrameError,
    Reply,
    Status,
    decode_body,
    taken_decoder,
)
from kv.leaderless.messenger import Messenger, Outcome
from raftgroups.transport import NodeId
from storage.clock import Clock

COPIES_MAX: Final = 512
"""In one message; and no more than a frame's worth of bytes, so that frames stay small."""
SIZE_MAX_BYTES: Final = 256 * 1024
UNREADABLE: Final = "its answer cannot be read here; it may be a newer version"


class Spread(Protocol):
    key: bytes
    encoded: bytes

    def copied(self, node: NodeId, reason: str | None) -> None:
        """None: the node has it, synced."""
        ...


class Spreader:
    def __init__(self, messenger: Messenger, clock: Clock, timeout_s: Callable[[], float]) -> None:
        self._messenger = messenger
        self._clock = clock
        self._timeout_s = timeout_s
        self._outbox: dict[tuple[NodeId, int], list[Spread]] = {}

    def add(self, node: NodeId, keyspace: int, spread: Spread) -> None:
        """Leaves with the next `flush`."""
        place = node, keyspace
        waiting = self._outbox.get(place)
        if waiting is None:
            self._outbox[place] = [spread]
        else:
            waiting.append(spread)

    def flush(self) -> None:
        if not self._outbox:
            return
        outbox, self._outbox = self._outbox, {}
        self._messenger.hold()
        for (node, keyspace), spreads in outbox.items():
            part: list[Spread] = []
            size_bytes = 0
            for spread in spreads:
                part.append(spread)
                size_bytes += len(spread.encoded)
                if len(part) >= COPIES_MAX or size_bytes >= SIZE_MAX_BYTES:
                    self._send(node, keyspace, part)
                    part, size_bytes = [], 0
            if part:
                self._send(node, keyspace, part)
        self._messenger.release()

    def _send(self, node: NodeId, keyspace: int, spreads: list[Spread]) -> None:
        message = Copies(
            0, keyspace, [spread.key for spread in spreads], [spread.encoded for spread in spreads]
        )
        deadline_s = self._clock.monotonic() + self._timeout_s()
        self._messenger.ask(node, message, deadline_s, partial(_told, node, spreads))


def _told(node: NodeId, spreads: list[Spread], outcome: Outcome) -> None:
    if isinstance(outcome, Reply) and outcome.status is Status.STORED:
        for spread in spreads:
            spread.copied(node, None)
        return
    for spread, reason in zip(spreads, _reasons(outcome, len(spreads)), strict=True):
        spread.copied(node, reason)


def _reasons(outcome: Outcome, count: int) -> list[str | None]:
    if not isinstance(outcome, Reply):
        return [outcome.reason] * count
    if outcome.status is Status.FAILED:
        return [outcome.body.decode(errors="replace")] * count
    try:
        reasons = decode_body(taken_decoder, outcome.body)
    except MalformedFrameError:
        reasons = []
    if outcome.status is not Status.TAKEN or len(reasons) != count:
        return [UNREADABLE] * count
    return reasons
