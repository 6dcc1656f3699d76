"""The answers of etcd's JSON gateway: result -> body. Pure.

Zero values are left out, 64-bit numbers are strings, bytes are padded base64, and every answer
begins with the response header. Both lanes of the node call these, so that they answer the same
bytes. The answers of the key-value calls are made with `bytes %`: a put costs 0.3 us and a range of
one key 1.2 us; everything else goes through `encode_message`.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from kv.etcd.protojson import Message
from raftgroups.results import (
    CompactResult,
    DeleteResult,
    PutResult,
    RangeAnswer,
    TxnResponse,
    TxnResult,
)
from storage.mvcc_records import Event, Fields, KeyValue


def encode_bytes(raw: bytes) -> bytes:
    return b2a_base64(raw, newline=False)


def encode_kv(kv: Fields) -> bytes:
    key, create, mod, version, lease, value, _ = kv
    if value and not lease and version:
        return (
            b'{"key":"%b","create_revision":"%d","mod_revision":"%d","version":"%d","value":"%b"}'
            % (
                b2a_base64(key, newline=False),
                create,
                mod,
                version,
                b2a_base64(value, newline=False),
            )
        )
    parts = [b'{"key":"%b"' % encode_bytes(key)]
    if create:
        parts.append(b',"create_revision":"%d"' % create)
    parts.append(b',"mod_revision":"%d"' % mod)
    if version:
        parts.append(b',"version":"%d"' % version)
    if value:
        parts.append(b',"value":"%b"' % encode_bytes(value))
    if lease:
        parts.append(b',"lease":"%d"' % lease)
    parts.append(b"}")
    return b"".join(parts)


def encode_event(event: Event, with_prev: bool) -> bytes:
    """As an element of a watch's `events` (kv/watch/messages.py: Encode)."""
    kv = encode_kv(event.kv)
    previous = b',"prev_kv":%b' % encode_kv(event.prev) if with_prev and event.prev else b""
    if event.is_delete:
        return b'{"type":"DELETE","kv":%b%b}' % (kv, previous)
    return b'{"kv":%b%b}' % (kv, previous)


class Headers:
    """Response headers of one member. `opening` is an answer up to the end of its header, without
    the closing brace."""

    __slots__ = ("_bare", "_opening", "_revision", "_start", "_tail", "_term")

    def __init__(self, cluster_id: int, member_id: int) -> None:
        self._bare: Final = b'{"header":{"cluster_id":"%d","member_id":"%d"' % (
            cluster_id,
            member_id,
        )
        self._start: Final = self._bare + b',"revision":"'
        self._term = 0
        self._tail: bytes = b'"}'
        self._revision = -1
        self._opening = b""
        """With `_term` and of `_revision`, if that is not -1."""

    def opening(self, revision: int, term: int) -> bytes:
        if term != self._term:
            self._term = term
            self._revision = -1
            self._tail = b'","raft_term":"%d"}' % term if term else b'"}'
        if revision:
            return b"%b%d%b" % (self._start, revision, self._tail)
        return self._bare + (b',"raft_term":"%d"}' % term if term else b"}")

    def encode_puts(self, results: Iterable[PutResult], term: int) -> list[bytes]:
        """In one go."""
        if term != self._term:
            self.opening(0, term)  # from now on `_tail` is of this term
        start, tail = self._start, self._tail
        bodies: list[bytes] = []
        for result in results:
            if result.previous is None and result.revision:
                bodies.append(b"%b%d%b}" % (start, result.revision, tail))
                continue
            opening = self.opening(result.revision, term)
            if result.previous is None:
                bodies.append(opening + b"}")
            else:
                bodies.append(b'%b,"prev_kv":%b}' % (opening, encode_kv(result.previous)))
        return bodies

    def encode_range(self, answer: RangeAnswer, term: int) -> bytes:
        return self.opening(answer.revision, term) + _range_fields(answer)

    def encode_each(self, found: Iterable[Fields | None], revision: int, term: int) -> list[bytes]:
        """The answers to ranges that name one key each, of one moment, in one go."""
        if revision != self._revision or term != self._term:
            self._opening, self._revision = self.opening(revision, term), revision
        opening = self._opening
        bodies: list[bytes] = []
        for each in found:
            if each is None:
                bodies.append(opening + b"}")
                continue
            key, create, mod, version, lease, value, _ = each
            if not value or lease:
                bodies.append(b'%b,"kvs":[%b],"count":"1"}' % (opening, encode_kv(each)))
                continue
            bodies.append(
                b'%b,"kvs":[{"key":%b,"create_revision":"%d","mod_revision":"%d","version":"%d",'
                b'"value":%b}],"count":"1"}'
                % (opening, _encode_json(key), create, mod, version, _encode_json(value))
            )  # base64 in quotes, quicker than binascii's
        return bodies

    def encode_delete(self, result: DeleteResult, term: int) -> bytes:
        return self.opening(result.revision, term) + _delete_fields(result)

    def encode_deletes(self, results: Iterable[DeleteResult], term: int) -> list[bytes]:
        return [self.encode_delete(each, term) for each in results]

    def encode_compactions(self, results: Iterable[CompactResult], term: int) -> list[bytes]:
        return [self.encode_plain(each.revision, term) for each in results]

    def encode_txn(self, result: TxnResult, term: int) -> bytes:
        return self.opening(result.revision, term) + _txn_fields(result)

    def encode_plain(self, revision: int, term: int) -> bytes:
        return self.opening(revision, term) + b"}"

    def encode_fields(self, revision: int, term: int, fields: Message) -> bytes:
        """With further fields, which are in the order of the protocol; zeros are left out. 64-bit
        numbers come as numbers and leave as strings."""
        shown = encode_message(fields)
        opening = self.opening(revision, term)
        return opening + (b"}" if shown == b"{}" else b"," + shown[1:])


def _range_fields(answer: RangeAnswer) -> bytes:
    """What follows the header of a range, with the closing brace."""
    count = b',"count":"%d"}' % answer.count if answer.count else b"}"
    if not answer.items:
        return b',"more":true' + count if answer.more else count
    shown = _kvs(answer.items)
    if answer.more:
        return b',"kvs":[%b],"more":true%b' % (shown, count)
    return b',"kvs":[%b]%b' % (shown, count)


def _kvs(items: Iterable[KeyValue]) -> bytes:
    return b",".join([encode_kv(each) for each in items])


def _delete_fields(result: DeleteResult) -> bytes:
    deleted = b',"deleted":"%d"' % result.deleted if result.deleted else b""
    if result.previous:
        return b'%b,"prev_kvs":[%b]}' % (deleted, _kvs(result.previous))
    return deleted + b"}"


def _txn_fields(result: TxnResult) -> bytes:
    succeeded = b',"succeeded":true' if result.succeeded else b""
    if not result.responses:
        return succeeded + b"}"
    shown = b",".join([_response(each) for each in result.responses])
    return b'%b,"responses":[%b]}' % (succeeded, shown)


def _response(result: TxnResponse) -> bytes:
    """Inner headers hold the revision only; that of a nested transaction is empty."""
    if isinstance(result, TxnResult):
        return b'{"response_txn":{"header":{}%b}' % _txn_fields(result)
    header = b'"header":{"revision":"%d"}' % result.revision
    if isinstance(result, PutResult):
        if result.previous is None:
            return b'{"response_put":{%b}}' % header
        return b'{"response_put":{%b,"prev_kv":%b}}' % (header, encode_kv(result.previous))
    if isinstance(result, RangeAnswer):
        return b'{"response_range":{%b%b}' % (header, _range_fields(result))
    return b'{"response_delete_range":{%b%b}' % (header, _delete_fields(result))


# --- any other message ------------------------------------------------------------------------

_encode_json: Final = msgspec.json.Encoder().encode


class Number32(int):
    """A number that leaves as a number."""


class Present(dict[str, Any]):
    """A message that stays even if it is empty."""


def quoted(words: str) -> bytes:
    return _encode_json(words)


def encode_message(fields: Message) -> bytes:
    return _encode_json(_shown(fields))


def _shown(value: Any) -> Any:
    if isinstance(value, bool | str | bytes):
        return value
    if isinstance(value, Number32):
        return int(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        return {name: _shown(it) for name, it in value.items() if it or isinstance(it, Present)}
    return [_shown(each) for each in value]
