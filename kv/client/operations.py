"""Every call of REST as a value: what to send, and how to read the answer. Pure.

An Operation knows nothing of endpoints, tries or connections (retries.py, calls.py); what a server
refuses is an error unless its code is among `answers`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import msgspec

from kv.client.failures import MalformedReplyError, Refusal
from kv.client.replies import Reply

T = TypeVar("T")
Struct = TypeVar("Struct", bound=msgspec.Struct)

API: Final = "/api/v1"


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    method: str
    target: str
    """Path and query as they go out."""
    read: Callable[[Reply], T]
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    sequences: int = 0
    """How many idempotency sequences it takes; 0: it writes nothing."""
    writes: bool = False
    repeatable: bool = False
    """It may be sent again whatever became of the first try, even without a token."""
    answers: frozenset[str] = frozenset()
    """Codes of refusals that are answers here."""
    sees_data: bool = True
    """Consistency level and session token mean something."""
    unfinished: Callable[[Reply], Refusal | None] | None = None
    """What of an answer to a write with a token is worth another try of the whole; None: nothing.
    If there is no time for it, the answer is the answer."""
    long_s: float = 0.0
    """It waits so long at the server by itself."""


def writing(
    method: str,
    target: str,
    read: Callable[[Reply], T],
    fields: dict[str, Any] | None = None,
    *,
    headers: tuple[tuple[str, str], ...] = (),
    sequences: int = 1,
) -> Operation[T]:
    body = b"" if fields is None else msgspec.json.encode(fields)
    return Operation(method, target, read, body, headers, sequences=sequences, writes=True)


def decoder(kind: type[Struct]) -> Callable[[Reply], Struct]:
    """Reads a reply's body. Raises MalformedReplyError."""
    decode = msgspec.json.Decoder(kind).decode

    def read(reply: Reply) -> Struct:
        try:
            return decode(reply.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MalformedReplyError(
                f"the server answered {reply.status} with a body that this client does not "
                f"understand ({error}); is the server of another version?"
            ) from error

    return read


def without_none(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
