"""The JSON bodies of the REST face as types, those about keys and what all share. Each is parsed,
written and documented by its type.

The OpenAPI document is made from these (openapi.py), so a field that is not here does not exist:
an unknown one is refused by name rather than passed over. Nothing here is of a type that could hold
anything, so the depth of what is accepted is the depth of these types.

Names: `version` is the mod revision of a key (0: it is absent), `timestamp` the wall time of that
write in milliseconds since 1970 as the leader had it (0: not known), `lease` a number of 63 bits as
text, times to live are seconds. Pure.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from raftgroups.lease import LEASE_MAX, MAXIMUM_TTL_S
from raftgroups.operations import INTEGER_MAX, INTEGER_MIN
from storage.codec import KEY_MAX_BYTES

OPERATIONS_MAX: Final = 1_000
TXN_MAX: Final = 128
RANGE_MAX: Final = 1_000
WAIT_MAX_S: Final = 300

Encoding = Literal["text", "base64"]
Marked = Literal["base64"] | UnsetType
Revision = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Version = Annotated[int, Meta(ge=0, le=2**63 - 1, description="0: the key is absent")]
Seconds = Annotated[float, Meta(gt=0, le=MAXIMUM_TTL_S)]
SecondsOrNone = Annotated[float, Meta(ge=0, le=MAXIMUM_TTL_S)]
LeaseText = Annotated[str, Meta(pattern=r"^0*[1-9][0-9]{0,18}$", max_length=19)]
LeaseNumber = Annotated[int, Meta(ge=1, le=LEASE_MAX)]
Lease = LeaseText | LeaseNumber
Outcome = Literal["none", "unknown"]
Key = Annotated[str, Meta(min_length=1, max_length=1024, description=f"1 to {KEY_MAX_BYTES} bytes")]


class In(Struct, forbid_unknown_fields=True):
    """A request."""


class Out(Struct):
    """A reply."""


# --- errors ----------------------------------------------------------------------------------


class ErrorBody(Out):
    """`outcome` is `none` if surely nothing was done."""

    error: str
    message: str
    outcome: Outcome
    retryable: bool
    version: Version | UnsetType = UNSET
    compact_revision: Revision | UnsetType = UNSET
    near: list[str] | UnsetType = UNSET
    context: str | UnsetType = UNSET
    """Leaderless: of a key that was deleted."""
    got: int | UnsetType = UNSET
    """Leaderless: how many replicas have the write."""
    required: int | UnsetType = UNSET


# --- one key ---------------------------------------------------------------------------------


class PutBody(In):
    value: str
    encoding: Encoding | None = None
    ttl: Seconds | None = None
    lease: Lease | None = None
    if_not_exists: bool = False


class PutReply(Out):
    key: str
    version: Version
    timestamp: int
    status: Literal["created", "updated"]
    key_encoding: Marked = UNSET


class KeyReply(Out):
    key: str
    value: str
    version: Version
    timestamp: int
    ttl_remaining: float | None
    encoding: Marked = UNSET
    key_encoding: Marked = UNSET
    lease: str | UnsetType = UNSET


class DeleteReply(Out):
    """`version` is the revision of the deletion; 0 if there was nothing to delete."""

    key: str
    deleted: bool
    version: Version
    key_encoding: Marked = UNSET


class CasBody(In):
    """At least one expectation, and either a new value or `delete`."""

    new_value: str | None = None
    expected_version: Version | None = None
    expected_value: str | None = None
    encoding: Encoding | None = None
    ttl: Seconds | None = None
    lease: Lease | None = None
    delete: bool = False


class CasReply(Out):
    """`current_version` is the key's version now; `new_version` is null if nothing was written."""

    success: bool
    new_version: Version | None
    current_version: Version


class TtlBody(In):
    """0 or null takes the time to live away."""

    ttl_seconds: SecondsOrNone | None


class TtlReply(Out):
    key: str
    version: Version
    ttl_remaining: float | None
    key_encoding: Marked = UNSET


class IncrementBody(In):
    delta: Annotated[int, Meta(ge=INTEGER_MIN, le=INTEGER_MAX)] = 1


class IncrementReply(Out):
    key: str
    value: int
    version: Version
    key_encoding: Marked = UNSET


# --- many keys -------------------------------------------------------------------------------


class Listed(Out, omit_defaults=True):
    key: str
    version: Version
    value: str | UnsetType = UNSET
    encoding: Marked = UNSET
    key_encoding: Marked = UNSET
    timestamp: int | UnsetType = UNSET


class ListReply(Out):
    """A page; with `cursor` the next one, of the same revision."""

    keys: list[Listed]
    cursor: str | None
    has_more: bool
    revision: Revision


class CountReply(Out):
    count: int
    revision: Revision


class ScanReply(Out):
    keys: list[Listed]
    next_cursor: str | None
    done: bool


class BatchPutOperation(In):
    key: Key
    op: Literal["put", "delete"] = "put"
    value: str | None = None
    encoding: Encoding | None = None
    key_encoding: Encoding | None = None
    ttl: Seconds | None = None
    lease: Lease | None = None
    expected_version: Version | None = None


class BatchPutBody(In):
    """`atomic`: all in one revision, or none of them. Otherwise each is a write of its own."""

    operations: Annotated[list[BatchPutOperation], Meta(min_length=1, max_length=OPERATIONS_MAX)]
    atomic: bool = False


class BatchPutResult(Out):
    """`version` as PUT and DELETE give it; for a lost comparison the key's present version."""

    key: str
    success: bool
    version: Version
    key_encoding: Marked = UNSET
    error: ErrorBody | UnsetType = UNSET


class BatchPutReply(Out):
    success_count: int
    failed_keys: list[str]
    results: list[BatchPutResult]


class BatchGetBody(In):
    keys: Annotated[list[Key], Meta(min_length=1, max_length=OPERATIONS_MAX)]
    key_encoding: Encoding | None = None
    encoding: Encoding | None = None


class BatchGetResult(Out):
    key: str
    found: bool
    value: str | None = None
    version: Version = 0
    timestamp: int = 0
    encoding: Marked = UNSET
    key_encoding: Marked = UNSET


class BatchGetReply(Out):
    results: list[BatchGetResult]
    revision: Revision


# --- transactions ----------------------------------------------------------------------------


class CompareBody(In):
    """`version` and `mod` are the same: a key's version, 0 if it is absent. `operand` is text for
    the target value (see encoding), and a number for the others; a lease may also be text."""

    key: Key
    target: Literal["version", "mod", "create", "value", "lease"]
    op: Literal["=", "!=", "<", ">"]
    operand: Revision | str
    encoding: Encoding | None = None
    key_encoding: Encoding | None = None


class TxnPut(In, tag_field="op", tag="put"):
    key: Key
    value: str
    encoding: Encoding | None = None
    key_encoding: Encoding | None = None
    ttl: Seconds | None = None
    lease: Lease | None = None


class TxnDelete(In, tag_field="op", tag="delete"):
    """One key, or all with a prefix."""

    key: str | None = None
    prefix: str | None = None
    key_encoding: Encoding | None = None


class TxnGet(In, tag_field="op", tag="get"):
    key: Key
    key_encoding: Encoding | None = None
    encoding: Encoding | None = None
    revision: Revision = 0


class TxnRange(In, tag_field="op", tag="range"):
    """All keys with a prefix, or start <= key < end (an end left out: to the last)."""

    prefix: str | None = None
    start: str | None = None
    end: str | None = None
    key_encoding: Encoding | None = None
    encoding: Encoding | None = None
    limit: Annotated[int, Meta(ge=1, le=RANGE_MAX)] = RANGE_MAX
    reverse: bool = False
    values: bool = True
    revision: Revision = 0


TxnStep = TxnPut | TxnDelete | TxnGet | TxnRange


class TxnBody(In):
    """If all of `compare` hold, `then` is done, otherwise `else`: in order, as one revision."""

    compare: Annotated[list[CompareBody], Meta(max_length=TXN_MAX)] = field(default_factory=list)
    then: Annotated[list[TxnStep], Meta(max_length=TXN_MAX)] = field(default_factory=list)
    otherwise: Annotated[list[TxnStep], Meta(max_length=TXN_MAX)] = field(
        default_factory=list, name="else"
    )


class TxnPutReply(Out, tag_field="op", tag="put"):
    key: str
    version: Version
    key_encoding: Marked = UNSET


class TxnDeleteReply(Out, tag_field="op", tag="delete"):
    deleted: int


class TxnGetReply(Out, tag_field="op", tag="get"):
    key: str
    found: bool
    value: str | None = None
    version: Version = 0
    timestamp: int = 0
    encoding: Marked = UNSET
    key_encoding: Marked = UNSET


class TxnRangeReply(Out, tag_field="op", tag="range"):
    """`count` is of the whole range."""

    keys: list[Listed]
    has_more: bool
    count: int


class TxnReply(Out):
    succeeded: bool
    revision: Revision
    results: list[TxnPutReply | TxnDeleteReply | TxnGetReply | TxnRangeReply]
