"""Operations on leases, locks and the nodes themselves; lines of a watch. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET

from kv.api import admin_bodies, live_bodies
from kv.client.failures import MalformedReplyError
from kv.client.forms import Bytes, as_bytes, bytes_of, in_path, query
from kv.client.operations import API, Operation, decoder, without_none, writing
from kv.client.records import (
    Change,
    Event,
    LeaseInfo,
    LockHolder,
    LockInfo,
    LockState,
    Record,
)
from kv.client.replies import Reply

_granted: Final = decoder(live_bodies.LeaseReply)
_lease: Final = decoder(live_bodies.LeaseState)
_leases: Final = decoder(live_bodies.LeasesReply)
_lock: Final = decoder(live_bodies.LockReply)
_lock_state: Final = decoder(live_bodies.LockState)
_compact: Final = decoder(admin_bodies.CompactReply)
_transfer: Final = decoder(admin_bodies.TransferReply)
node_status: Final = decoder(admin_bodies.NodeStatus)
cluster_state: Final = decoder(admin_bodies.ClusterState)
_line: Final = msgspec.json.Decoder(live_bodies.WatchLine)

_NO_LEASE: Final = frozenset({"lease_not_found"})


# --- leases ----------------------------------------------------------------------------------


def grant(ttl_s: float, lease: int | None = None) -> Operation[LeaseInfo]:
    fields = {"ttl": ttl_s, **without_none(id=None if lease is None else str(lease))}
    return writing("POST", f"{API}/leases", _new_lease, fields)


def keep_alive(lease: int) -> Operation[LeaseInfo]:
    target = f"{API}/leases/{lease}/keepalive"
    return Operation("POST", target, _new_lease, writes=True, repeatable=True)


def _new_lease(reply: Reply) -> LeaseInfo:
    body = _granted(reply)
    return LeaseInfo(int(body.id), body.ttl, float(body.ttl))


def revoke(lease: int) -> Operation[bool]:
    """False: there was none."""
    return Operation(
        "DELETE",
        f"{API}/leases/{lease}",
        lambda reply: reply.status != 404,
        sequences=1,
        writes=True,
        answers=_NO_LEASE,
    )


def lease_info(lease: int, keys: bool) -> Operation[LeaseInfo | None]:
    def read(reply: Reply) -> LeaseInfo | None:
        if reply.status == 404:
            return None
        body = _lease(reply)
        names = None
        if body.keys is not UNSET:
            names = tuple([bytes_of(key, body.key_encoding) for key in body.keys])
        return LeaseInfo(int(body.id), body.ttl, body.ttl_remaining, names)

    target = f"{API}/leases/{lease}{query([('keys', keys)])}"
    return Operation("GET", target, read, answers=_NO_LEASE)


def lease_page(cursor: str | None) -> Operation[tuple[list[LeaseInfo], str | None]]:
    def read(reply: Reply) -> tuple[list[LeaseInfo], str | None]:
        body = _leases(reply)
        found = [LeaseInfo(int(each.id), each.ttl, each.ttl_remaining) for each in body.leases]
        return found, body.cursor

    return Operation("GET", f"{API}/leases{query([('cursor', cursor), ('limit', 500)])}", read)


# --- locks -----------------------------------------------------------------------------------


def acquire(name: Bytes, lease: int, wait_s: float, owner: str) -> Operation[LockInfo]:
    """With a lease of its own for each try, so it is never sent twice: whoever waited for the lock
    in a try that was given up takes its key away some time later."""
    raw = as_bytes(name)

    def read(reply: Reply) -> LockInfo:
        body = _lock(reply)
        key = bytes_of(body.key, body.key_encoding)
        return LockInfo(raw, key, body.token, int(body.lease))

    fields = {"lease": str(lease), "wait_seconds": wait_s, "owner": owner}
    return Operation(
        "POST",
        f"{API}/locks/{in_path(raw)}",
        read,
        msgspec.json.encode(fields),
        writes=True,
        long_s=wait_s,
    )


def lock_state(name: Bytes) -> Operation[LockState]:
    raw = as_bytes(name)

    def read(reply: Reply) -> LockState:
        body = _lock_state(reply)
        holder = None
        if body.holder is not None:
            held = body.holder
            key = bytes_of(held.key, held.key_encoding)
            holder = LockHolder(key, held.token, int(held.lease), held.owner)
        return LockState(raw, holder, body.waiting)

    return Operation("GET", f"{API}/locks/{in_path(raw)}", read)


# --- nodes -----------------------------------------------------------------------------------


def status() -> Operation[admin_bodies.NodeStatus]:
    return Operation("GET", f"{API}/status", node_status, sees_data=False)


def cluster() -> Operation[admin_bodies.ClusterState]:
    return Operation("GET", f"{API}/admin/cluster/status", cluster_state, sees_data=False)


def admin(method: str, path: str, body: Mapping[str, Any] | None) -> Operation[dict[str, Any]]:
    return Operation(
        method,
        path,
        lambda reply: dict(msgspec.json.decode(reply.body)),
        b"" if body is None else msgspec.json.encode(body),
        writes=method != "GET",
        sees_data=False,
    )


def transfer_leader(target: str | None) -> Operation[str]:
    return Operation(
        "POST",
        f"{API}/admin/leader/transfer",
        lambda reply: _transfer(reply).leader,
        msgspec.json.encode(without_none(target=target)),
        writes=True,
        sees_data=False,
    )


def compact(revision: int) -> Operation[int]:
    return writing(
        "POST",
        f"{API}/admin/compact",
        lambda reply: _compact(reply).compact_revision,
        {"revision": revision},
    )


# --- watches ---------------------------------------------------------------------------------


def watch_target(
    *,
    key: Bytes | None,
    prefix: Bytes | None,
    start: Bytes | None,
    end: Bytes | None,
    following: int | str,
    previous: bool,
    only: str | None,
) -> str:
    ranges: list[tuple[str, Any]] = [
        (name, None if given is None else as_bytes(given))
        for name, given in (("key", key), ("prefix", prefix), ("start", start), ("end", end))
    ]
    begin: tuple[str, Any] = ("from" if isinstance(following, int) else "cursor", following)
    how = [begin, ("prev", previous), ("filter", only), ("progress", True)]
    return f"{API}/watch{query([*ranges, *how])}"


def watch_line(line: bytes) -> live_bodies.WatchLine:
    """Raises MalformedReplyError."""
    try:
        return _line.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedReplyError(
            f"a watch got a line that it does not understand ({error}): {line[:100]!r}"
        ) from error


def change_of(line: live_bodies.WatchLine) -> Change:
    """Raises MalformedReplyError."""
    if line.revision is UNSET:
        raise MalformedReplyError("a line with events of a watch has no revision")
    events = () if line.events is UNSET else tuple([_event(each) for each in line.events])
    return Change(line.revision, events, "" if line.cursor is UNSET else line.cursor)


def _event(event: live_bodies.WatchEvent) -> Event:
    key = bytes_of(event.key, event.key_encoding)
    value = None if event.value is UNSET else bytes_of(event.value, event.encoding)
    previous = None
    if event.prev is not UNSET:
        before = event.prev
        raw = bytes_of(before.value, before.encoding)
        previous = Record(key, raw, before.version, before.timestamp)
    lease = None if event.lease is UNSET else int(event.lease)
    return Event(event.type, key, event.version, value, event.timestamp, lease, previous)
