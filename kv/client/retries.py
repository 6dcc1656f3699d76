"""One call and its tries: what to do after each failure. Pure.

    failure of a try                              a read   write with token   write without
    never sent (refused, no connection in time)   again    again              again
    503, 429                                      again    again              again
    504, connection lost, no answer in time       again    again              outcome unknown
    500                                           the error
    token_too_old on the first try                         again, new client  -
    any other 4xx, 507                            the error

All within the call's deadline, with growing pauses and dice; a try at an endpoint not yet tried
comes at once. 429 waits as long as the server said.

The rule of outcomes: once one try may have taken effect, the call may have taken effect, and only a
definite answer to a later try (which with a token is the answer of the first) ends that. A
deadline, a 503 or a refused connection afterwards is none: the error then is OutcomeUnknownError.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from kv.client.failures import Refusal, error_of
from kv.errors import OutcomeUnknownError, UnavailableError
from storage.clock import Rng
from storage.errors import JanusError

DEADLINE_S: Final = 10.0
TRY_S: Final = 5.0
PAUSE_FIRST_S: Final = 0.02
PAUSE_MAX_S: Final = 1.0
TRY_MIN_S: Final = 0.001
REFUSED_EARLY: Final = (429, 503)
TOKEN_TOO_OLD: Final = "token_too_old"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    deadline_s: float = DEADLINE_S
    """Of a call with all its tries."""
    try_s: float = TRY_S
    """Of one try: a node that takes longer is given up for another one."""
    refused_s: float | None = None
    """A call of which nothing could be sent at all ends after this time: nobody is there."""


class Sent(Enum):
    """How a try failed that brought no reply."""

    NEVER = "never"
    """Surely nothing reached a server."""
    PERHAPS = "perhaps"


class Again(NamedTuple):
    after_s: float
    new_client: bool = False
    """Take a new client id and token first."""


class Tries:
    """The state of one call. `failed` and `refused` say what comes next: another try (Again), or
    the error to raise."""

    def __init__(
        self,
        *,
        writes: bool,
        repeatable: bool,
        now: float,
        deadline_s: float,
        try_s: float,
        refused_s: float | None = None,
    ) -> None:
        self._writes = writes
        self._repeatable = repeatable or not writes
        self._until = now + deadline_s
        self._deadline_s = deadline_s
        self._refused_until = None if refused_s is None else now + refused_s
        self._try_s = try_s
        self._pauses = 0
        self._first = True
        self._perhaps_done = False
        self._renewed = False
        self.tried: set[str] = set()
        """Endpoints that failed in this call."""

    def time_for_try(self, now: float) -> float:
        """Seconds for the try that begins now; 0: it is over."""
        left = self._until - now
        return min(left, self._try_s) if left > TRY_MIN_S else 0.0

    def failed(
        self, url: str, sent: Sent, why: str, now: float, rng: Rng, others: int
    ) -> Again | JanusError:
        """No reply. `others`: endpoints that this call has not tried."""
        self._first = False
        self.tried.add(url)
        text = f"{url}: {why}"
        if sent is Sent.PERHAPS and self._writes:
            self._perhaps_done = True
            if not self._repeatable:
                return self._unknown(text)
        if sent is Sent.PERHAPS:
            self._refused_until = None
        elif self._refused_until is not None and now >= self._refused_until:
            return self._unavailable(text, "nobody is there")
        return self._again_or(self._unavailable(text), now, rng, others)

    def refused(
        self, url: str, refusal: Refusal, now: float, rng: Rng, others: int
    ) -> Again | JanusError:
        """A reply that is no answer."""
        first, self._first = self._first, False
        self._refused_until = None
        if refusal.code == TOKEN_TOO_OLD and first and self._repeatable and not self._renewed:
            self._renewed = True  # nothing was sent before, so nothing was done: a forgotten client
            return Again(0.0, new_client=True)
        if refusal.status in REFUSED_EARLY and not refusal.unknown:
            self.tried.add(url)
            if refusal.status == 429:
                return self._after(error_of(refusal), now, refusal.retry_after_s, rng)
            return self._again_or(error_of(refusal), now, rng, others)
        if self._may_repeat(refusal):
            self._perhaps_done = self._perhaps_done or (self._writes and refusal.unknown)
            self.tried.add(url)
            return self._again_or(error_of(refusal), now, rng, others)
        error = error_of(refusal)
        if self._perhaps_done and refusal.status >= 500 and not refusal.unknown:
            return self._unknown(str(error), error)
        return error

    def out_of_time(self) -> JanusError:
        """Before any try could begin."""
        return self._settled(self._unavailable("there was no time left for a try"))

    def abandoned(self, error: JanusError) -> JanusError:
        """No try will be made any more."""
        return self._settled(error)

    def _may_repeat(self, refusal: Refusal) -> bool:
        if refusal.code == TOKEN_TOO_OLD or not self._repeatable:
            return False
        return refusal.status in (502, 503, 504)

    def _again_or(self, error: JanusError, now: float, rng: Rng, others: int) -> Again | JanusError:
        if others > 0:
            return self._if_in_time(error, now, 0.0)
        return self._after(error, now, 0.0, rng)

    def _after(
        self, error: JanusError, now: float, at_least_s: float, rng: Rng
    ) -> Again | JanusError:
        longest = min(PAUSE_MAX_S, PAUSE_FIRST_S * 2 ** min(self._pauses, 10))
        self._pauses += 1
        return self._if_in_time(error, now, max(at_least_s, rng.uniform(longest / 2, longest)))

    def _if_in_time(self, error: JanusError, now: float, pause_s: float) -> Again | JanusError:
        if now + pause_s + TRY_MIN_S >= self._until:
            return self._settled(error)
        return Again(pause_s)

    def _settled(self, error: JanusError) -> JanusError:
        return self._unknown(str(error), error) if self._perhaps_done else error

    def _unavailable(self, why: str, what: str = "") -> UnavailableError:
        return UnavailableError(
            f"{what or f'no answer within {self._deadline_s:g} s'}; last, {why}. Is a server "
            "running there? (`januskv serve` starts one)"
        )

    def _unknown(self, why: str, cause: JanusError | None = None) -> OutcomeUnknownError:
        error = OutcomeUnknownError(
            f"the write was sent and may have taken effect, but no answer came: {why}; read the "
            "key to see what happened"
        )
        error.__cause__ = cause
        return error
