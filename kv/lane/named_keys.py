"""Calls of keyspaces that a query names, of either regime.

One is looked up by its name for each call: it may have been dropped since, and made again, then
perhaps of the other regime. What a head said was parsed for the regime that it had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from kv.api.context import Api
from kv.api.failures import error_reply
from kv.errors import UnavailableError
from kv.lane import leaderless_keys
from kv.lane.heads import NamedCalls
from kv.lane.keys import DELETE, GET, POST, PUT, KeyCall, KeyCalls, Replied, parse_options
from kv.lane.leaderless_keys import LeaderlessKeyCalls
from storage.errors import JanusError

STRONG_METHODS: Final = (GET, PUT, DELETE, POST)
LEADERLESS_METHODS: Final = (GET, PUT, DELETE)


class KeyspaceKeyCalls:
    def __init__(self, api: Api, name: str, leaderless: bool, forget: Callable[[], None]) -> None:
        """`forget`: these calls are not those of its name any more."""
        self._api = api
        self._name = name
        self._leaderless = leaderless
        self._forget = forget
        self._found: tuple[Api, Mapping[str, KeyCall]] | None = None
        methods = LEADERLESS_METHODS if leaderless else STRONG_METHODS
        self.by_method: Final[dict[str, KeyCall]] = {
            method: partial(self._call, method) for method in methods
        }

    def _call(
        self, method: str, key: bytes, body: bytes, options: object, replied: Replied
    ) -> None:
        try:
            api = self._api.of_keyspace(self._name)
            if (api.leaderless is not None) is not self._leaderless:
                raise UnavailableError(
                    "nothing was done: the keyspace of this name is another one now, of the other "
                    "regime; ask again"
                )
        except JanusError as error:
            self._forget()
            replied(error_reply(error))
            return
        if self._found is None or self._found[0] is not api:
            self._found = api, _calls_of(api)
        self._found[1][method](key, body, options, replied)


def _calls_of(api: Api) -> Mapping[str, KeyCall]:
    if api.leaderless is not None:
        return LeaderlessKeyCalls(api.leaderless).by_method
    return KeyCalls(api.strong, api.shard).by_method


def calls_of_keyspace(api: Api, name: str, forget: Callable[[], None]) -> NamedCalls | None:
    """None: it is none that this lane serves."""
    try:
        leaderless = api.of_keyspace(name).leaderless is not None
    except JanusError:
        return None
    calls = KeyspaceKeyCalls(api, name, leaderless, forget).by_method
    return NamedCalls(calls, leaderless_keys.parse_options if leaderless else parse_options)
