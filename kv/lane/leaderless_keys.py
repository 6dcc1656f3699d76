"""GET, PUT and DELETE of one key of a leaderless keyspace, for the fast lane.

They are the calls of kv/api/leaderless/face.py, which aiohttp's lane makes, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kv.api.leaderless.face import Face, KeyCalls
from kv.api.leaderless.options import Asked, asked
from kv.lane.keys import DELETE, GET, PUT, KeyCall, Replied


def parse_options(method: str, headers: Mapping[str, str]) -> Asked:
    """Raises what the aiohttp lane would answer."""
    return asked(headers, writes=method != GET)


class LeaderlessKeyCalls:
    def __init__(self, face: Face) -> None:
        self._calls: Final = KeyCalls(face)
        self.by_method: Final[dict[str, KeyCall]] = {
            GET: self.get,
            PUT: self._calls.put,
            DELETE: self._calls.delete,
        }

    def get(self, key: bytes, body: bytes, options: Asked, replied: Replied) -> None:
        self._calls.get(key, options, replied)
