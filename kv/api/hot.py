"""The hot routes as pure functions: GET, PUT, DELETE of one key and CAS, both lanes alike.

    request  path, body, conditions --*_command--> a command --> the regime --> its result
    reply    result --*_reply--> Reply (status, body, version, revision)

A lane adds nothing to a reply but the framing of HTTP and `reply.reply_headers`; the fast lane and
aiohttp call these same functions, so their bodies are equal to the byte. Nothing of aiohttp here.

Which command a write becomes: a plain put is a Put that asks for the previous record (was it
created?). With a condition, or with an idempotency token, it is a transaction: its answer holds no
values, so it is small enough to be remembered for a retry (raftgroups/dedupe.py).
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeVar

import msgspec

from kv.api.bodies import (
    CasBody,
    CasReply,
    DeleteReply,
    Encoding,
    KeyReply,
    Lease,
    PutBody,
    PutReply,
)
from kv.api.failures import (
    InvalidBodyError,
    InvalidHeaderError,
    KeyExistsError,
    VersionMismatchError,
    error_reply,
)
from kv.api.headers import ABSENT, NO_CONDITIONS, Conditions
from kv.api.reply import BYTES, JSON, Reply
from kv.api.text import given, shown
from kv.reading import ShardReader
from raftgroups.commands import (
    Command,
    Compare,
    CompareTarget,
    Comparison,
    Delete,
    Put,
    Range,
    Txn,
)
from raftgroups.lease import LEASE_MAX
from raftgroups.refusals import KeyNotFoundError
from raftgroups.results import DeleteResult, PutResult, RangeAnswer, Result, TxnResult
from storage.codec import check_key, check_value

T = TypeVar("T")


class Forms(NamedTuple):
    """What is to be base64 even where text would do."""

    values: bool = False
    keys: bool = False


AS_IS: Final = Forms()

encode: Final = msgspec.json.Encoder().encode
_put_body: Final = msgspec.json.Decoder(PutBody)
_cas_body: Final = msgspec.json.Decoder(CasBody)


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """A body as its type. Raises InvalidBodyError."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidBodyError(f"the body is not what this call takes: {error}") from error
    except RecursionError as error:
        raise InvalidBodyError(
            "the body nests too deep; what a call takes has few levels (see /openapi.json)"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidBodyError(f"the body is not JSON: {error}") from error


def ttl_ms_of(seconds: float | None) -> int:
    return 0 if not seconds else max(1, round(seconds * 1000))


def lease_of(lease: Lease | None) -> int:
    number = int(lease or 0)
    if number > LEASE_MAX:
        raise InvalidBodyError(f"a lease id is 1 to {LEASE_MAX}, not {number}")
    return number


# --- GET, HEAD -------------------------------------------------------------------------------


def get_reply(
    reader: ShardReader, key: bytes, revision: int = 0, known: int = -1, forms: Forms = AS_IS
) -> Reply:
    """`known`: the version that the caller has already. Evaluated by the regime."""
    record = reader.get(key, revision)
    if record is None:
        return _absent(reader, key, revision)
    if record.mod_revision == known:
        return _unchanged(reader, known)
    text, key_mark = shown(key, forms.keys)
    value, mark = shown(record.value, forms.values)
    left_ms = None if revision else reader.ttl_remaining_ms(key)
    body = KeyReply(
        text,
        value,
        record.mod_revision,
        record.modified_ms,
        None if left_ms is None else left_ms / 1000,
        mark,
        key_mark,
    )
    if record.lease:
        body.lease = str(record.lease)
    return Reply(200, encode(body), JSON, record.mod_revision, reader.shard, reader.revision)


def get_raw_reply(reader: ShardReader, key: bytes, revision: int = 0, known: int = -1) -> Reply:
    """The value's bytes alone."""
    record = reader.get(key, revision)
    if record is None:
        return _absent(reader, key, revision)
    if record.mod_revision == known:
        return _unchanged(reader, known)
    version = record.mod_revision
    return Reply(200, record.value, BYTES, version, reader.shard, reader.revision)


def _absent(reader: ShardReader, key: bytes, revision: int) -> Reply:
    at = f" at revision {revision}" if revision else ""
    reply = error_reply(KeyNotFoundError(f"key {key!r} does not exist{at}"))
    return reply._replace(shard=reader.shard, revision=reader.revision)


def _unchanged(reader: ShardReader, version: int) -> Reply:
    return Reply(304, version=version, shard=reader.shard, revision=reader.revision)


# --- PUT -------------------------------------------------------------------------------------


def put_command(
    key: bytes, body: bytes, conditions: Conditions = NO_CONDITIONS, has_token: bool = False
) -> tuple[Command, Conditions]:
    """The command, and the conditions with those of the body."""
    wanted = decode(_put_body, body)
    put = Put(
        key,
        given(wanted.value, wanted.encoding, "value"),
        lease_of(wanted.lease),
        ttl_ms=ttl_ms_of(wanted.ttl),
    )
    if wanted.if_not_exists:
        if conditions.match > 0:
            raise InvalidHeaderError(
                "If-Match and if_not_exists contradict each other; give one of them"
            )
        conditions = Conditions(0, from_header=conditions.match == 0)
    return conditional_put(put, conditions, has_token), conditions


def conditional_put(put: Put, conditions: Conditions, has_token: bool) -> Command:
    check_key(put.key)
    check_value(put.value)
    if conditions.match < 0 and not has_token:
        return Put(put.key, put.value, put.lease, want_previous=True, ttl_ms=put.ttl_ms)
    if conditions.match < 0:  # either branch puts; which one it was says whether it was created
        return Txn((_version_is(put.key, 0),), (put,), (put,))
    seen = Range(put.key, keys_only=True)
    return Txn((_version_is(put.key, conditions.match),), (put,), (seen,))


def _version_is(key: bytes, version: int) -> Compare:
    return Compare(key, b"", CompareTarget.MOD, Comparison.EQUAL, version)


def put_reply(
    key: bytes, result: Result, conditions: Conditions, forms: Forms = AS_IS, shard: int = 0
) -> Reply:
    if isinstance(result, TxnResult):
        if isinstance(result.responses[0], RangeAnswer):
            return _mismatch(key, result, conditions, shard)
        created = result.succeeded and conditions.match <= 0
    else:
        assert isinstance(result, PutResult)
        created = result.previous is None
    text, mark = shown(key, forms.keys)
    body = PutReply(
        text,
        result.revision,
        result.modified_ms,
        "created" if created else "updated",
        mark,
    )
    version = result.revision
    return Reply(200, encode(body), JSON, version, shard, version)


def _mismatch(key: bytes, result: TxnResult, conditions: Conditions, shard: int) -> Reply:
    version = _seen_version(result)
    error: KeyExistsError | VersionMismatchError
    if conditions.from_header:
        error = VersionMismatchError(
            f"key {key!r} has version {version} and {conditions.match} was required (0: it does "
            "not exist); read it again and decide anew",
            version,
        )
    else:
        error = KeyExistsError(f"key {key!r} exists already, with version {version}", version)
    reply = error_reply(error)
    return reply._replace(version=version, shard=shard, revision=result.revision)


def _seen_version(result: TxnResult) -> int:
    """Of the key that the lost branch has read; 0 if it is absent."""
    answer = result.responses[0]
    assert isinstance(answer, RangeAnswer)
    return answer.items[0].mod_revision if answer.items else 0


# --- DELETE ----------------------------------------------------------------------------------


def delete_command(key: bytes, conditions: Conditions = NO_CONDITIONS) -> Command:
    check_key(key)
    if conditions == ABSENT:
        raise InvalidHeaderError("If-None-Match: * makes no sense on a deletion; use If-Match")
    if conditions.match < 0:
        return Delete(key)
    seen = Range(key, keys_only=True)
    return Txn((_version_is(key, conditions.match),), (Delete(key),), (seen,))


def delete_reply(
    key: bytes, result: Result, conditions: Conditions, forms: Forms = AS_IS, shard: int = 0
) -> Reply:
    if isinstance(result, TxnResult):
        if not result.succeeded:
            return _mismatch(key, result, conditions, shard)
        deletion = result.responses[0]
    else:
        deletion = result  # type: ignore[assignment]
    assert isinstance(deletion, DeleteResult)
    deleted = bool(deletion.deleted)
    text, mark = shown(key, forms.keys)
    body = DeleteReply(text, deleted, result.revision if deleted else 0, mark)
    return Reply(200, encode(body), shard=shard, revision=result.revision)


# --- CAS -------------------------------------------------------------------------------------


def cas_command(key: bytes, body: bytes) -> Command:
    check_key(key)
    wanted = decode(_cas_body, body)
    if wanted.expected_version is None and wanted.expected_value is None:
        raise InvalidBodyError(
            "a cas needs expected_version (0: the key does not exist) or expected_value"
        )
    if (wanted.new_value is None) != wanted.delete:
        raise InvalidBodyError("a cas needs either new_value or delete: true")
    if wanted.delete and (wanted.ttl is not None or wanted.lease is not None):
        raise InvalidBodyError("a cas that deletes takes no ttl and no lease")
    compares = []
    if wanted.expected_version is not None:
        compares.append(_version_is(key, wanted.expected_version))
    if wanted.expected_value is not None:
        expected = given(wanted.expected_value, wanted.encoding, "expected_value")
        compares.append(Compare(key, b"", CompareTarget.VALUE, Comparison.EQUAL, expected))
    seen = Range(key, keys_only=True)
    return Txn(tuple(compares), (_cas_write(key, wanted, wanted.encoding),), (seen,))


def _cas_write(key: bytes, wanted: CasBody, encoding: Encoding | None) -> Put | Delete:
    if wanted.new_value is None:
        return Delete(key)
    value = given(wanted.new_value, encoding, "new_value")
    check_value(value)
    return Put(key, value, lease_of(wanted.lease), ttl_ms=ttl_ms_of(wanted.ttl))


def cas_reply(result: Result, shard: int = 0) -> Reply:
    assert isinstance(result, TxnResult)
    if not result.succeeded:
        body = CasReply(False, None, _seen_version(result))
    else:
        version = result.revision if isinstance(result.responses[0], PutResult) else 0
        body = CasReply(True, version, version)
    return Reply(
        200,
        encode(body),
        version=body.current_version,
        shard=shard,
        revision=result.revision,
    )
