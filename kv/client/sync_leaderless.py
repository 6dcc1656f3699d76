"""The client of a leaderless keyspace without asyncio: the same calls, blocking (see sync.py)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kv.client import leaderless
from kv.client.endpoints import DEFAULT_ENDPOINT
from kv.client.leaderless import SESSION_KEYS
from kv.client.leaderless_watch import KeysChange
from kv.client.sync import Following, _calls, _Context, _iterates, _Loop, _makes

_Inner = leaderless.LeaderlessClient


class Watch(Following[str, KeysChange]):
    """Keys as they are now, at least once."""


class LeaderlessClient(_Context[_Inner]):
    """See kv.client.LeaderlessClient."""

    def __init__(
        self,
        endpoints: str | Iterable[str] | _Inner = DEFAULT_ENDPOINT,
        loop: _Loop | None = None,
        **options: Any,
    ) -> None:
        """`loop` and an inner client: what `session` gives."""
        self._owner = loop is None
        if isinstance(endpoints, _Inner):
            assert loop is not None
            super().__init__(endpoints, loop)
            return
        inner = _Inner(endpoints, **options)
        super().__init__(inner, _Loop())

    def close(self) -> None:
        """Close connections, end the thread. A session only forgets."""
        if self._owner:
            self._owner = False
            self._loop.run(self._inner.close())
            self._loop.stop()

    def _leave(self) -> None:
        self.close()

    get = _calls(_Inner.get)
    put = _calls(_Inner.put)
    delete = _calls(_Inner.delete)
    update = _calls(_Inner.update)
    incr = _calls(_Inner.incr)
    set_ttl = _calls(_Inner.set_ttl)
    get_many = _calls(_Inner.get_many)
    put_many = _calls(_Inner.put_many)
    count = _calls(_Inner.count)
    status = _calls(_Inner.status)
    cluster = _calls(_Inner.cluster)
    ring = _calls(_Inner.ring)
    repair = _calls(_Inner.repair)
    list = _iterates(_Inner.list)
    watch = _makes(_Inner.watch, Watch)

    def session(self, *, keys_max: int = SESSION_KEYS) -> LeaderlessClient:
        """A client over the same connections that sees what it has seen."""
        inner = self._loop.do(lambda: self._inner.session(keys_max=keys_max))
        return LeaderlessClient(inner, self._loop)
