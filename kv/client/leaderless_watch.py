"""Watches of leaderless keyspaces: lines to changes, and where to go on from. Pure.

    next    the cursor from which it goes on, on this connection or another one; "": from now on

At least once: after a connection was lost, changes may come again. Nothing is left out, since
`next` never passes what was handed out.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET

from kv.api.leaderless.bodies import WatchedKey, WatchedLine
from kv.client.failures import MalformedReplyError, WatchEndedError
from kv.client.forms import Bytes, as_bytes, bytes_of, query
from kv.client.leaderless_operations import siblings_in
from kv.client.leaderless_records import KeyState
from kv.client.operations import API
from storage.errors import CompactedError

_line: Final = msgspec.json.Decoder(WatchedLine)


class KeysChange(NamedTuple):
    """Keys as they are now, without siblings if deleted. Each may be the context of a write."""

    states: tuple[KeyState, ...]
    cursor: str
    """Where a watch that replaces this one would begin."""


def watch_target(
    *,
    key: Bytes | None,
    prefix: Bytes | None,
    start: Bytes | None,
    end: Bytes | None,
    cursor: str,
    only: str | None,
) -> str:
    ranges: list[tuple[str, Any]] = [
        (name, None if given is None else as_bytes(given))
        for name, given in (("key", key), ("prefix", prefix), ("start", start), ("end", end))
    ]
    return f"{API}/watch{query([*ranges, ('from', cursor or None), ('filter', only)])}"


class CursorPosition:
    __slots__ = ("created", "next", "over")

    def __init__(self, cursor: str = "") -> None:
        self.next = cursor
        self.created = False
        """Some server has begun to watch."""
        self.over = False
        """This connection has nothing more to say; another one may."""

    def connected(self) -> None:
        self.over = False

    def read(self, line: bytes) -> KeysChange | None:
        """Raises CompactedError, WatchEndedError, MalformedReplyError."""
        try:
            told = _line.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MalformedReplyError(
                f"a watch got a line that it does not understand ({error}): {line[:100]!r}"
            ) from error
        if told.type == "cancelled":
            self._cancelled(told)
            return None
        if told.cursor is not UNSET:
            self.next = told.cursor
        self.created = True
        if told.type != "events" or told.events is UNSET:
            return None
        return KeysChange(tuple([_state(each) for each in told.events]), self.next)

    def _cancelled(self, told: WatchedLine) -> None:
        self.over = True
        if told.reason in ("closed", "limit"):
            return
        text = "a server ended the watch" if told.message is UNSET else told.message
        if told.reason == "compacted":
            raise CompactedError(text, 0)
        raise WatchEndedError(text)


def _state(each: WatchedKey) -> KeyState:
    found = siblings_in(
        each.value, each.encoding, each.siblings, each.timestamp, each.ttl_remaining
    )
    return KeyState(bytes_of(each.key, each.key_encoding), found, each.context)
