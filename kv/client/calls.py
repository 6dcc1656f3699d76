"""Making calls: endpoint, token, try, verdict; again. The rules are in retries.py and endpoints.py.

    1. a write takes its token, once for all tries
    2. choose an endpoint, send, with the time that is left as Request-Timeout
    3. an answer: note it (breaker, session), read it, settle the token
    4. otherwise ask `Tries` what comes next: pause and go to 2, or raise

A call that is cancelled settles its token, too: nobody will ask for its answer.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, TypeVar

from kv.api.headers import IDEMPOTENCY, LEVEL, SESSION, TIMEOUT
from kv.client.endpoints import Endpoints
from kv.client.failures import ClientClosedError, Refusal, refusal_of
from kv.client.forms import in_keyspace
from kv.client.operations import Operation
from kv.client.replies import Reply
from kv.client.retries import Again, RetryPolicy, Sent, Tries
from kv.client.tokens import Token, Tokens, new_client_id
from kv.client.transport import BusyError, LostError, NotSentError, Transport
from kv.model import DEADLINE_MAX_S, NO_SESSION, InvalidSessionError, Level, SessionToken
from storage.clock import Clock, Rng
from storage.errors import JanusError

T = TypeVar("T")
TOLD_SHARE: Final = 0.95
"""Of a try's time, what the server is told: so its own error arrives before we give up."""
LONG_SLACK_S: Final = 2.0


@dataclass(slots=True)
class SessionState:
    """What a client has seen, to be sent along."""

    token: SessionToken = NO_SESSION

    def saw(self, reply: Reply) -> None:
        text = reply.headers.get(SESSION)
        if text is None:
            return
        try:
            seen = SessionToken.parse(text)
        except InvalidSessionError:
            return  # of no server of ours; it is not worth an answer that is good otherwise
        token = self.token
        for shard, revision in seen.revisions.items():
            token = token.saw(shard, revision)
        self.token = token


@dataclass(frozen=True, slots=True)
class How:
    """What a call asks for beside its operation."""

    session: SessionState
    level: Level = Level.LINEARIZABLE
    deadline_s: float | None = None
    endpoint: str | None = None
    """This one and no other."""
    try_s: float | None = None


class Caller:
    """Shared by a client and its sessions."""

    def __init__(
        self,
        transport: Transport,
        endpoints: Endpoints,
        *,
        clock: Clock,
        rng: Rng,
        policy: RetryPolicy,
        use_tokens: bool = True,
        client_id: str | None = None,
        keyspace: str | None = None,
    ) -> None:
        self.transport = transport
        self.endpoints = endpoints
        self.clock = clock
        self.rng = rng
        self.policy = policy
        self._use_tokens = use_tokens
        self.tokens = Tokens(client_id or new_client_id(clock.wall(), rng))
        self.keyspace: Final = keyspace
        self.closed = False

    async def call(self, operation: Operation[T], how: How) -> T:
        """The answer. Raises what a server refused, UnavailableError, OutcomeUnknownError."""
        self.check_open()
        token = self._token_for(operation)
        policy = self.policy
        deadline_s = policy.deadline_s if how.deadline_s is None else how.deadline_s
        long_s = operation.long_s and operation.long_s + LONG_SLACK_S
        tries = Tries(
            writes=operation.writes,
            repeatable=token is not None or operation.repeatable,
            now=self.clock.monotonic(),
            deadline_s=deadline_s + long_s,
            try_s=(policy.try_s if how.try_s is None else how.try_s) + long_s,
            refused_s=policy.refused_s,
        )
        try:
            while True:
                outcome = await self._try(operation, how, token, tries)
                if isinstance(outcome, Reply):
                    return operation.read(outcome)
                if isinstance(outcome, JanusError):
                    raise outcome
                if outcome.new_client and token is not None:
                    token = self._renewed(token)
                if outcome.after_s > 0:
                    await asyncio.sleep(outcome.after_s)
        finally:
            if token is not None:
                self.tokens.settle(token)

    def check_open(self) -> None:
        if self.closed:
            raise ClientClosedError("this client was closed; make a new one")

    def _token_for(self, operation: Operation[T]) -> Token | None:
        if not (self._use_tokens and operation.sequences):
            return None
        return self.tokens.take(operation.sequences)

    def _renewed(self, token: Token) -> Token:
        """Servers have forgotten this client: go on as a new one."""
        if token.client == self.tokens.client:
            self.tokens = Tokens(new_client_id(self.clock.wall(), self.rng))
        return self.tokens.take(token.sequences)

    async def _try(
        self, operation: Operation[T], how: How, token: Token | None, tries: Tries
    ) -> Reply | Again | JanusError:
        if self.closed:
            return tries.abandoned(ClientClosedError("the client was closed during this call"))
        now = self.clock.monotonic()
        time_s = tries.time_for_try(now)
        if not time_s:
            return tries.out_of_time()
        url = how.endpoint or self.endpoints.choose(now, tries.tried)
        try:
            reply = await self.transport.send(
                url + in_keyspace(operation.target, self.keyspace),
                operation.method,
                self._headers(operation, how, token, time_s),
                operation.body,
                time_s,
                stays=operation.long_s > 0,
            )
        except (NotSentError, LostError) as error:
            now = self.clock.monotonic()
            if not isinstance(error, BusyError):
                self.endpoints.failed(url, now)
            sent = Sent.NEVER if isinstance(error, NotSentError) else Sent.PERHAPS
            others = self._others(how, tries, url)
            return tries.failed(url, sent, str(error), now, self.rng, others)
        refusal = None if reply.status < 400 else refusal_of(reply)
        if refusal is None or refusal.code in operation.answers:
            if refusal is None and token is not None and operation.unfinished is not None:
                refusal = operation.unfinished(reply)
                if refusal is not None:
                    verdict = self._refused(url, refusal, reply, how, tries)
                    if isinstance(verdict, Again):
                        return verdict
            self.endpoints.worked(url)
            how.session.saw(reply)
            return reply
        return self._refused(url, refusal, reply, how, tries)

    def _refused(
        self, url: str, refusal: Refusal, reply: Reply, how: How, tries: Tries
    ) -> Again | JanusError:
        if refusal.status in (429, 502, 503, 504):
            self.endpoints.leave(url)
        else:
            self.endpoints.worked(url)
            how.session.saw(reply)
        now = self.clock.monotonic()
        return tries.refused(url, refusal, now, self.rng, self._others(how, tries, url))

    def _others(self, how: How, tries: Tries, url: str) -> int:
        """Endpoints that this call has not tried."""
        if how.endpoint is not None:
            return 0
        return len(set(self.endpoints.urls) - tries.tried - {url})

    def _headers(
        self, operation: Operation[T], how: How, token: Token | None, time_s: float
    ) -> dict[str, str]:
        headers = dict(operation.headers)
        if operation.body:
            headers["Content-Type"] = "application/json"
        if token is not None:
            headers[IDEMPOTENCY] = self.tokens.header(token)
        if operation.sees_data:
            headers[TIMEOUT] = f"{min(time_s * TOLD_SHARE, DEADLINE_MAX_S):.3f}"
            if not operation.writes and how.level is not Level.LINEARIZABLE:
                headers[LEVEL] = how.level.value
            if how.session.token.revisions:
                headers[SESSION] = str(how.session.token)
        return headers
