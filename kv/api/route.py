"""What a route is: one row of the table that serving, refusing and documenting all read. Pure.

    Param   a query or header parameter: how it is parsed and how it is documented, in one place
    Route   method, path, parameters, body, replies, and the handler, which nothing here calls

Templates have at most one `{parameter}`, with something fixed before it and perhaps after it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from kv.api import headers
from kv.api.cursor import CURSOR_MAX_CHARACTERS
from kv.api.failures import InvalidQueryError
from kv.model import DEADLINE_MAX_S, STRONG_LEVELS
from storage.codec import KEY_MAX_BYTES

Kind = Literal["bytes", "integer", "flag", "choice", "seconds", "text"]
Schema = dict[str, Any]

REVISION_MAX: Final = 2**63 - 1
_INTEGER: Final = re.compile(rb"[0-9]{1,19}")
_SECONDS: Final = re.compile(rb"[0-9]{1,6}(\.[0-9]{1,9})?")


@dataclass(frozen=True, slots=True)
class Param:
    name: str
    kind: Kind
    description: str
    default: Any = None
    low: int = 0
    high: int = REVISION_MAX
    choices: tuple[str, ...] = ()
    pattern: str = ""

    def value(self, raw: bytes | None) -> Any:
        """Raises InvalidQueryError."""
        if raw is None:
            return self.default
        if self.kind == "bytes" and len(raw) <= KEY_MAX_BYTES:
            return raw
        if self.kind == "integer" and _INTEGER.fullmatch(raw):
            number = int(raw)
            if self.low <= number <= self.high:
                return number
        elif self.kind == "seconds" and _SECONDS.fullmatch(raw):
            seconds = float(raw)
            if 0 < seconds <= self.high:
                return seconds
        elif self.kind == "flag" and raw in (b"true", b"false"):
            return raw == b"true"
        elif self.kind in ("choice", "text") and raw.isascii():
            text = raw.decode()
            if (not self.choices or text in self.choices) and len(text) <= self.high:
                return text
        shown = raw[:40].decode("latin-1")
        raise InvalidQueryError(f"{self.name}={shown!a} cannot be; give {self.wanted()}")

    def wanted(self) -> str:
        if self.kind == "integer":
            return f"a number from {self.low} to {self.high}"
        if self.kind == "seconds":
            return f"seconds, more than 0 and at most {self.high}"
        if self.kind == "flag":
            return "true or false"
        if self.kind == "bytes":
            return f"at most {KEY_MAX_BYTES} bytes"
        if self.choices:
            return " or ".join(self.choices)
        return f"plain text of at most {self.high} characters"

    def schema(self) -> Schema:
        schemas: dict[str, Schema] = {
            "bytes": {"type": "string", "maxLength": KEY_MAX_BYTES},
            "integer": {"type": "integer", "minimum": self.low, "maximum": self.high},
            "flag": {"type": "boolean"},
            "choice": {"type": "string", "enum": list(self.choices)},
            "seconds": {"type": "number", "exclusiveMinimum": 0, "maximum": self.high},
            "text": {"type": "string"},
        }
        schema = schemas[self.kind]
        if self.kind == "text" and self.high < REVISION_MAX:
            schema["maxLength"] = self.high
        if self.pattern:
            schema["pattern"] = self.pattern
        if self.default is not None:
            schema["default"] = self.default
        return schema


Handler = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    template: str
    name: str
    summary: str
    handler: Handler
    tag: str
    query: tuple[Param, ...] = ()
    headers: tuple[Param, ...] = ()
    body: type | None = None
    raw_body: bool = False
    body_required: bool = True
    replies: Mapping[int, type | None] = field(default_factory=dict)
    """Status to body; None: no body."""
    errors: tuple[int, ...] = ()
    streams: type | None = None
    """Of each line, if the reply can be a stream."""
    raw_reply: bool = False
    sees_data: bool = True
    """The reply says up to where the caller has now seen."""
    shows: tuple[str, ...] = ("Consistency-Level", "Session-Token", "Revision", "ETag")
    """The headers in which it does."""

    @property
    def param(self) -> str | None:
        """The name in the template."""
        _, brace, rest = self.template.partition("{")
        return rest.partition("}")[0] if brace else None

    @property
    def prefix(self) -> str:
        return self.template.partition("{")[0]

    @property
    def suffix(self) -> str:
        return self.template.partition("}")[2]

    def parse_query(self, given: Mapping[str, bytes]) -> dict[str, Any]:
        """Every parameter's value. Raises InvalidQueryError."""
        values = {param.name: param.value(given.get(param.name)) for param in self.query}
        for name in given:
            if name not in values:
                known = ", ".join(values) or "none"
                raise InvalidQueryError(
                    f"{self.method} {self.template} has no query parameter {name[:40]!r}; it has: "
                    f"{known}"
                )
        return values


# --- parameters that many routes have --------------------------------------------------------

KEYSPACE: Final = Param("keyspace", "text", "The keyspace; without it `default`.", high=200)
REVISION: Final = Param("revision", "integer", "Read the past: the state at this revision.", 0)
ENCODING: Final = Param(
    "encoding", "choice", "base64: give all values as base64.", choices=("text", "base64")
)
KEY_ENCODING: Final = Param(
    "key_encoding", "choice", "base64: give all keys as base64.", choices=("text", "base64")
)
PREFIX: Final = Param("prefix", "bytes", "Keys that begin with this.")
START: Final = Param("start", "bytes", "Keys from this one on.")
END: Final = Param("end", "bytes", "Keys before this one.")
VALUES: Final = Param("values", "flag", "Give the values, too.", False)
CURSOR: Final = Param(
    "cursor", "text", "Go on with the next page, as the last one said.", high=CURSOR_MAX_CHARACTERS
)

LEVEL_HEADER: Final = Param(
    headers.LEVEL,
    "choice",
    "How fresh a read must be. The reply says which level was met.",
    choices=tuple(level.value for level in STRONG_LEVELS),
)
SESSION_HEADER: Final = Param(
    headers.SESSION,
    "text",
    "What an earlier reply gave: with level SESSION a read is at least so new.",
    pattern=headers.SESSION_PATTERN,
)
TIMEOUT_HEADER: Final = Param(
    headers.TIMEOUT, "seconds", "How long to try.", high=round(DEADLINE_MAX_S)
)
IDEMPOTENCY_HEADER: Final = Param(
    headers.IDEMPOTENCY,
    "text",
    "client:sequence[:settled]. A retry with the same one answers what the first try answered.",
    pattern=headers.IDEMPOTENCY_PATTERN,
)
IF_MATCH_HEADER: Final = Param(
    headers.IF_MATCH,
    "text",
    "Write only if the key has this version (an ETag).",
    pattern=headers.ETAG_PATTERN,
)
IF_ABSENT_HEADER: Final = Param(
    headers.IF_NONE_MATCH, "choice", "*: write only if the key does not exist.", choices=("*",)
)
IF_CHANGED_HEADER: Final = Param(
    headers.IF_NONE_MATCH,
    "text",
    "304 if the key still has this version (an ETag).",
    pattern=headers.ETAG_PATTERN,
)
READ_HEADERS: Final = (LEVEL_HEADER, SESSION_HEADER, TIMEOUT_HEADER)
WRITE_HEADERS: Final = (IDEMPOTENCY_HEADER, *READ_HEADERS)
