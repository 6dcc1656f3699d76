"""The causal context as clients carry it: opaque text that only this cluster can write.

A client gets a context with each answer and sends it back with the write that replaces what he saw.
It holds a clock, and a clock that claims dots nobody minted would make replicas take future writes
for replaced ones. So the text is sealed with a keyed hash, under the cluster's secret, over
keyspace, key and content: garbage, a changed byte, a context of another key or of another cluster
are all refused, never half believed.

    text     base64 (URL alphabet, no padding) of: version u8 = 1 | seal 12 bytes | body
    body     timestamp u64 | clock as in storage/FORMAT-versions.md
    seal     BLAKE2b-96, keyed, of: version | keyspace u32 | key length u32 | key | body

Secrets may be rotated: the first seals, all of them open. This file is pure.
"""

from __future__ import annotations

import binascii
import hmac
import re
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from kv.leaderless.dvv import Context
from storage.errors import InvalidRequestError
from storage.siblings import MalformedSetError, read_clock, write_clock

CONTEXT_MAX_CHARS: Final = 32 * 1024
_VERSION: Final = b"\x01"
_SEAL_BYTES: Final = 12
_PLACE: Final = struct.Struct(">II")
_U64: Final = struct.Struct(">Q")
_ALPHABET: Final = re.compile(r"[A-Za-z0-9_-]*\Z")


class InvalidContextError(InvalidRequestError):
    code = "invalid_context"


class ContextCodec:
    def __init__(self, secrets: Sequence[bytes]) -> None:
        assert secrets, "a context codec needs at least one secret"
        # BLAKE2b takes keys up to 64 bytes; hashing makes any secret fit.
        self._keys = [blake2b(secret, digest_size=32).digest() for secret in secrets]

    def encode(self, keyspace: int, key: bytes, context: Context) -> str:
        clock = bytearray()
        write_clock(clock, context.clock)
        return self.encode_bytes(keyspace, key, context.timestamp, bytes(clock))

    def encode_bytes(self, keyspace: int, key: bytes, timestamp: int, clock: bytes) -> str:
        """The same of a clock that is bytes already."""
        body = _U64.pack(timestamp) + clock
        seal = _seal(self._keys[0], keyspace, key, body)
        return urlsafe_b64encode(_VERSION + seal + body).rstrip(b"=").decode()

    def decode(self, keyspace: int, key: bytes, text: str) -> Context:
        data = _from_text(text)
        version, seal, body = data[:1], data[1 : 1 + _SEAL_BYTES], data[1 + _SEAL_BYTES :]
        if version != _VERSION:
            raise InvalidContextError(
                f"this causal context has version {version.hex() or 'none'}, and this node reads "
                f"{_VERSION.hex()}; read the key again and send the context of that answer"
            )
        seals = (_seal(secret, keyspace, key, body) for secret in self._keys)
        if not any(hmac.compare_digest(seal, expected) for expected in seals):
            raise InvalidContextError(
                "this causal context was changed on its way, or belongs to another key, keyspace "
                "or cluster; read the key again and send the context of that answer"
            )
        try:
            (timestamp,) = _U64.unpack_from(body)
            clock, _, end = read_clock(body, _U64.size)
        except (MalformedSetError, IndexError, struct.error, UnicodeDecodeError) as error:
            raise InvalidContextError(f"this causal context cannot be read: {error}") from None
        if end != len(body):
            raise InvalidContextError("this causal context is longer than its clock")
        return Context(clock, timestamp)


def _seal(secret: bytes, keyspace: int, key: bytes, body: bytes) -> bytes:
    hashed = blake2b(
        _VERSION + _PLACE.pack(keyspace, len(key)), key=secret, digest_size=_SEAL_BYTES
    )
    hashed.update(key)
    hashed.update(body)
    return hashed.digest()


def _from_text(text: str) -> bytes:
    if len(text) > CONTEXT_MAX_CHARS:
        raise InvalidContextError(
            f"this causal context has {len(text)} characters; none has over {CONTEXT_MAX_CHARS}"
        )
    if not _ALPHABET.match(text):
        raise InvalidContextError(
            "this causal context has characters that no context has; send it exactly as it was got"
        )
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise InvalidContextError("this causal context is cut short") from None
    if urlsafe_b64encode(data).rstrip(b"=").decode() != text:
        raise InvalidContextError("this causal context was not written by a node")
    return data
