"""The JSON bodies of the leaderless face; kv/api/bodies.py has the shared ones and the rules. Pure.

What replies have in common: `context` is the opaque causal context to send with the next write of
the key, `replicas` the ids of the nodes that answered (of a write: that have it, synced),
`fallbacks` those of them that stand in for owners, `level` the level that they amount to.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from kv.api.bodies import OPERATIONS_MAX, Encoding, ErrorBody, In, Key, Marked, Out, Seconds
from kv.leaderless.context import CONTEXT_MAX_CHARS
from kv.leaderless.quorum import Level

LevelMet = Level
Nodes = tuple[str, ...]
ContextText = Annotated[str, Meta(max_length=CONTEXT_MAX_CHARS)]


class Sibling(Out):
    """`timestamp`: when it was written, milliseconds since 1970 by the clock of its writer's
    node."""

    value: str
    timestamp: int
    ttl_remaining: float | None
    encoding: Marked = UNSET


class KeyReply(Out, kw_only=True):
    """`value`, or `siblings` if there are several concurrent ones: then merge them and put the
    result with `context`."""

    key: str
    value: str | UnsetType = UNSET
    siblings: list[Sibling] | UnsetType = UNSET
    context: str
    timestamp: int | UnsetType = UNSET
    ttl_remaining: float | UnsetType | None = UNSET
    replicas: Nodes
    fallbacks: Nodes
    level: LevelMet | None
    encoding: Marked = UNSET
    key_encoding: Marked = UNSET


class PutBody(In):
    """`context`: of the read whose values this one replaces. Without it a sibling is made."""

    value: str
    context: ContextText | None = None
    encoding: Encoding | None = None
    ttl: Seconds | None = None


class DeleteBody(In):
    context: ContextText | None = None


class WriteReply(Out):
    """`context` covers this write and what its own context covered, no sibling beside. `missed`:
    owners of the key that get it later (a hint is kept for each), and why, as far as that was known
    when this was answered."""

    key: str
    context: str
    replicas: Nodes
    fallbacks: Nodes
    level: LevelMet | None
    key_encoding: Marked = UNSET
    missed: dict[str, str] | UnsetType = UNSET


class IncrementReply(Out):
    """`value`: the sum as far as it is known now; null if it could not be read afterwards."""

    key: str
    value: int | None
    context: str
    replicas: Nodes
    fallbacks: Nodes
    level: LevelMet | None
    key_encoding: Marked = UNSET


class TtlReply(Out):
    key: str
    ttl_remaining: float | None
    context: str
    replicas: Nodes
    fallbacks: Nodes
    level: LevelMet | None
    key_encoding: Marked = UNSET


class ListedKey(Out, kw_only=True, omit_defaults=True):
    """With values asked for: `value` or `siblings`, and `context`."""

    key: str
    value: str | UnsetType = UNSET
    siblings: list[Sibling] | UnsetType = UNSET
    context: str | UnsetType = UNSET
    timestamp: int | UnsetType = UNSET
    encoding: Marked = UNSET
    key_encoding: Marked = UNSET


class ListReply(Out):
    """A page as the nodes that answered had it, eventually consistent; with `cursor` the next."""

    keys: list[ListedKey]
    cursor: str | None
    has_more: bool
    replicas: Nodes
    level: LevelMet


class ScanReply(Out):
    keys: list[ListedKey]
    next_cursor: str | None
    done: bool


class CountReply(Out):
    """As the nodes that answered had it, page by page: exact while nobody writes."""

    count: int
    level: LevelMet


class BatchGetBody(In):
    keys: Annotated[list[Key], Meta(min_length=1, max_length=OPERATIONS_MAX)]
    key_encoding: Encoding | None = None
    encoding: Encoding | None = None


class BatchGetResult(Out):
    """`error`: this key could not be read, and `found` says nothing."""

    key: str
    found: bool
    value: str | UnsetType = UNSET
    siblings: list[Sibling] | UnsetType = UNSET
    context: str | UnsetType = UNSET
    encoding: Marked = UNSET
    key_encoding: Marked = UNSET
    error: ErrorBody | UnsetType = UNSET


class BatchGetReply(Out):
    results: list[BatchGetResult]


class BatchPutOperation(In):
    key: Key
    op: Literal["put", "delete"] = "put"
    value: str | None = None
    context: ContextText | None = None
    encoding: Encoding | None = None
    key_encoding: Encoding | None = None
    ttl: Seconds | None = None


class BatchPutBody(In):
    """Each operation is a write of its own; there is no order among them."""

    operations: Annotated[list[BatchPutOperation], Meta(min_length=1, max_length=OPERATIONS_MAX)]


class BatchPutResult(Out):
    key: str
    success: bool
    context: str | UnsetType = UNSET
    replicas: Nodes | UnsetType = UNSET
    fallbacks: Nodes | UnsetType = UNSET
    level: LevelMet | UnsetType | None = UNSET
    key_encoding: Marked = UNSET
    error: ErrorBody | UnsetType = UNSET


class BatchPutReply(Out):
    success_count: int
    failed_keys: list[str]
    results: list[BatchPutResult]


# --- watches ---------------------------------------------------------------------------------


class WatchedKey(Out):
    """A key as it is now: `value`, or `siblings` if there are several concurrent ones; neither if
    it was deleted. `context` is for the write that replaces them."""

    type: Literal["put", "delete"]
    key: str
    context: str
    value: str | UnsetType = UNSET
    siblings: list[Sibling] | UnsetType = UNSET
    timestamp: int | UnsetType = UNSET
    ttl_remaining: float | UnsetType | None = UNSET
    encoding: Marked = UNSET
    key_encoding: Marked = UNSET


class WatchedPage(Out):
    """`cursor`: everything up to these events was told."""

    cursor: str | None
    events: list[WatchedKey]


class WatchedReply(Out):
    """`next` is where to go on from."""

    events: list[WatchedPage]
    next: str | None


class WatchedLine(Out):
    """A line of a stream. `created` comes first; a write that is acknowledged after it is told, at
    least once. `cursor`: everything up to here was told. `cancelled` is the last line."""

    type: Literal["created", "events", "progress", "cancelled"]
    cursor: str | UnsetType = UNSET
    events: list[WatchedKey] | UnsetType = UNSET
    reason: Literal["compacted", "limit", "invalid", "closed", "split"] | UnsetType = UNSET
    message: str | UnsetType = UNSET
