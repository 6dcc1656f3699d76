"""What every part of the client stands on: its life, its memory, and how a call is made."""

from __future__ import annotations

import random
import ssl
from collections.abc import Awaitable, Iterable, Mapping
from types import TracebackType
from typing import Self, TypeVar

from kv.client.background import Background
from kv.client.calls import Caller, How, SessionState
from kv.client.endpoints import DEFAULT_ENDPOINT, Endpoints, parse_endpoint, parse_endpoints
from kv.client.operations import Operation
from kv.client.retries import DEADLINE_S, TRY_S, RetryPolicy
from kv.client.transport import Transport
from kv.model import Level, SessionToken, parse_level
from storage.clock import Clock, Rng
from storage.system_clock import SystemClock

T = TypeVar("T")


class Core:
    """Made in any loop, used in one. `close` it, or use it as a context manager."""

    def __init__(
        self,
        endpoints: str | Iterable[str] = DEFAULT_ENDPOINT,
        *,
        level: Level | str = Level.LINEARIZABLE,
        session: str = "",
        timeout_s: float = DEADLINE_S,
        try_s: float = TRY_S,
        refused_s: float | None = None,
        use_tokens: bool = True,
        client_id: str | None = None,
        tls: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
        keyspace: str | None = None,
        clock: Clock | None = None,
        rng: Rng | None = None,
    ) -> None:
        """`timeout_s`: of a call, `try_s`: after which an endpoint is given up for another one,
        `refused_s`: after which a call is given up of which nothing could be sent anywhere.
        `session`: a token to begin with (`session_token` of another client). `keyspace`: of all
        calls, None: `default`; its regime must be that of this class. Raises
        InvalidEndpointError, InvalidLevelError, InvalidSessionError."""
        urls = parse_endpoints(endpoints)
        dice = rng or random.SystemRandom()
        self._caller = Caller(
            Transport(tls=tls, headers=headers),
            Endpoints(urls, dice.randrange(0, len(urls))),
            clock=clock or SystemClock(),
            rng=dice,
            policy=RetryPolicy(timeout_s, min(try_s, timeout_s), refused_s),
            use_tokens=use_tokens,
            client_id=client_id,
            keyspace=keyspace,
        )
        self._level = parse_level(level)
        self._session = SessionState(SessionToken.parse(session))
        self._background: list[Background] = []
        self._owner = True

    # --- life ---

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End watches, keep no lease alive any more, close connections. A session only forgets."""
        if not self._owner or self._caller.closed:
            return
        for background in self._background:
            await background.close()
        self._caller.closed = True
        await self._caller.transport.close()

    @property
    def session_token(self) -> str:
        """What this client has seen: for another process to go on from."""
        return str(self._session.token)

    @property
    def endpoints(self) -> tuple[str, ...]:
        return self._caller.endpoints.urls

    # --- inside ---

    def _call(
        self,
        operation: Operation[T],
        level: Level | str | None,
        timeout_s: float | None,
        endpoint: str | None = None,
    ) -> Awaitable[T]:
        wanted = self._level if level is None else parse_level(level)
        only = None if endpoint is None else parse_endpoint(endpoint)
        return self._caller.call(operation, How(self._session, wanted, timeout_s, only))

    def _owner_of_tasks(self) -> Background:
        self._caller.check_open()
        if not self._background:
            self._background.append(Background())
        return self._background[0]
