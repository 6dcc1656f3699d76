"""Leases: paths and bodies to commands, readings to replies. Pure."""

from __future__ import annotations

from math import ceil
from typing import Final

import msgspec
from msgspec import UNSET

from kv.api.bodies import Marked
from kv.api.cursor import Cursor, pack
from kv.api.failures import InvalidPathError, error_reply
from kv.api.hot import decode, encode, lease_of
from kv.api.live_bodies import (
    LeaseBody,
    LeaseEntry,
    LeaseReply,
    LeasesReply,
    LeaseState,
    RevokeReply,
)
from kv.api.reply import Reply
from kv.api.text import BASE64, shown
from kv.reading import ShardReader
from raftgroups.commands import LeaseGrant
from raftgroups.lease import LEASE_MAX, MINIMUM_TTL_S, lease_missing, ttl_to_grant
from raftgroups.results import KeepAliveResult, LeaseResult, Result

LEASES: Final = "l"
LEASES_MAX: Final = 1_000
_lease_body: Final = msgspec.json.Decoder(LeaseBody)
_lease_state: Final = msgspec.json.Decoder(LeaseState)


def lease_in_path(raw: bytes) -> int:
    """Raises InvalidPathError."""
    if raw.isdigit() and len(raw) <= 19 and 0 < int(raw) <= LEASE_MAX:
        return int(raw)
    raise InvalidPathError(
        f"{raw[:40].decode('latin-1')!r} is no lease id; it is a number of 1 to {LEASE_MAX}"
    )


def grant_command(body: bytes, minimum_s: int = MINIMUM_TTL_S) -> LeaseGrant:
    """With lease 0 if the caller gave no id: the handler chooses one."""
    wanted = decode(_lease_body, body)
    return grant_of(wanted.ttl, lease_of(wanted.id), minimum_s)


def grant_of(ttl_s: float, lease: int, minimum_s: int = MINIMUM_TTL_S) -> LeaseGrant:
    return LeaseGrant(lease, ttl_to_grant(ceil(ttl_s), minimum_s))


def grant_reply(result: Result, shard: int = 0) -> Reply:
    assert isinstance(result, LeaseResult)
    body = LeaseReply(str(result.lease), result.ttl_s)
    return Reply(200, encode(body), shard=shard, revision=result.revision)


def revoke_reply(result: Result, shard: int = 0) -> Reply:
    assert isinstance(result, LeaseResult)
    body = RevokeReply(str(result.lease), True)
    return Reply(200, encode(body), shard=shard, revision=result.revision)


def keepalive_reply(lease: int, result: Result, shard: int = 0) -> Reply:
    assert isinstance(result, KeepAliveResult)
    (ttl_s,) = result.ttls_s
    if not ttl_s:
        raise lease_missing(lease)
    body = LeaseReply(str(lease), ttl_s)
    return Reply(200, encode(body), shard=shard, revision=result.revision)


def lease_state(reader: ShardReader, lease: int, with_keys: bool, force: bool = False) -> Reply:
    """Evaluated by the regime."""
    found = reader.lease(lease)
    if found is None:
        reply = error_reply(lease_missing(lease))
        return reply._replace(shard=reader.shard, revision=reader.revision)
    body = LeaseState(str(lease), found.granted_s, found.remaining_ms / 1000)
    if with_keys:
        body.keys, body.key_encoding = _shown_alike(reader.lease_keys(lease), force)
    return Reply(200, encode(body), shard=reader.shard, revision=reader.revision)


def with_keys(reply: Reply, keys: list[bytes], force: bool) -> Reply:
    """What `lease_state` gave without them, and its keys in all shards."""
    body = decode(_lease_state, reply.body)
    body.keys, body.key_encoding = _shown_alike(keys, force)
    return reply._replace(body=encode(body))


def _shown_alike(keys: list[bytes], force: bool) -> tuple[list[str], Marked]:
    """One form for all of them."""
    pairs = [shown(key, force) for key in keys]
    if any(mark is not UNSET for _, mark in pairs):
        return [shown(key, True)[0] for key in keys], BASE64
    return [text for text, _ in pairs], UNSET


def list_leases(reader: ShardReader, after: int, limit: int) -> Reply:
    """Those with a larger id than `after`. Evaluated by the regime."""
    ids = [lease for lease in reader.leases() if lease > after]
    entries = []
    for lease in ids[:limit]:
        found = reader.lease(lease)
        assert found is not None
        entries.append(LeaseEntry(str(lease), found.granted_s, found.remaining_ms / 1000))
    more = len(ids) > limit
    last = b"%d" % ids[limit - 1] if more else b""
    cursor = pack(Cursor(LEASES, 0, last, None, b"", None)) if more else None
    body = LeasesReply(entries, cursor, more)
    return Reply(200, encode(body), shard=reader.shard, revision=reader.revision)
