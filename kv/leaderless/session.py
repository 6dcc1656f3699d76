"""What one session has seen of which keys, as a token that the client carries.

A reply to a request of a session gives the token of what the session has seen now; the next request
sends it along, and a read of a key that the token names covers what the session has seen of it:
read-your-writes and monotonic reads. A token remembers KEYS_MAX keys, those that were touched last;
of an older one it promises nothing. (The client of this project keeps a token a key.)

    text     base64 (URL alphabet, no padding) of: version u8 = 1 | seal 12 bytes | body
    body     entries: keyspace u32 | digest of the key 8 bytes | clock, the one touched last first
    seal     BLAKE2b-96, keyed by the cluster's secret, of version and body

Like a context (context.py) it is sealed, since a clock that nobody had would make reads wait for
what does not exist. This file is pure.
"""

from __future__ import annotations

import binascii
import hmac
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from types import MappingProxyType
from typing import Final

from kv.leaderless.dvv import join
from kv.model import InvalidSessionError
from storage.siblings import EMPTY_CLOCK, Clock, MalformedSetError, read_clock, write_clock

KEYS_MAX: Final = 32
TOKEN_MAX_CHARS: Final = 6 * 1024
"""A header has 8 KiB; older keys are forgotten until the token is so short."""
BEGIN: Final = "new"
"""What a session sends first. An empty header means the same."""
_VERSION: Final = b"\x01"
_SEAL_BYTES: Final = 12
_ENTRY: Final = struct.Struct(">I8s")

Place = tuple[int, bytes]
"""A keyspace and the digest of a key."""
Seen = Mapping[Place, Clock]
"""What a session has seen, the key touched last first."""
NOTHING: Final[Seen] = MappingProxyType({})


def place_of(keyspace: int, key: bytes) -> Place:
    return keyspace, blake2b(key, digest_size=8).digest()


def seen_of(seen: Seen, keyspace: int, key: bytes) -> Clock:
    """What a read of this key must cover."""
    return seen.get(place_of(keyspace, key), EMPTY_CLOCK) if seen else EMPTY_CLOCK


def saw(seen: Seen, keyspace: int, key: bytes, clock: Clock) -> Seen:
    """The session after it has seen this, too."""
    place = place_of(keyspace, key)
    known = join(seen.get(place, EMPTY_CLOCK), clock)
    others = ((each, its) for each, its in seen.items() if each != place)
    return {place: known, **dict(others)} if known else dict(others)


class SessionCodec:
    def __init__(self, secrets: Sequence[bytes]) -> None:
        assert secrets, "a session codec needs at least one secret"
        self._keys = [
            blake2b(secret, digest_size=32, person=b"januskv-session").digest()
            for secret in secrets
        ]

    def encode(self, seen: Seen) -> str:
        entries: list[bytes] = []
        chars = 0
        for (keyspace, digest), clock in list(seen.items())[:KEYS_MAX]:
            entry = bytearray(_ENTRY.pack(keyspace, digest))
            write_clock(entry, clock)
            chars += len(entry) * 4 // 3 + 1
            if entries and chars > TOKEN_MAX_CHARS:
                break
            entries.append(bytes(entry))
        body = b"".join(entries)
        return urlsafe_b64encode(_VERSION + _seal(self._keys[0], body) + body).rstrip(b"=").decode()

    def decode(self, text: str) -> Seen:
        """Raises InvalidSessionError."""
        if not text or text == BEGIN:
            return NOTHING
        try:
            data = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        except (binascii.Error, UnicodeEncodeError):
            raise _invalid("it has characters that no token has, or is cut short") from None
        seal, body = data[1 : 1 + _SEAL_BYTES], data[1 + _SEAL_BYTES :]
        seals = (_seal(key, body) for key in self._keys)
        if data[:1] != _VERSION or not any(hmac.compare_digest(seal, each) for each in seals):
            raise _invalid("it was changed on its way, or belongs to another cluster")
        found: dict[Place, Clock] = {}
        at = 0
        try:
            while at < len(body):
                keyspace, digest = _ENTRY.unpack_from(body, at)
                found[keyspace, digest], _, at = read_clock(body, at + _ENTRY.size)
        except (MalformedSetError, IndexError, struct.error, UnicodeDecodeError) as error:
            raise _invalid(f"it cannot be read: {error}") from None
        return found


def _seal(key: bytes, body: bytes) -> bytes:
    return blake2b(_VERSION + body, key=key, digest_size=_SEAL_BYTES).digest()


def _invalid(why: str) -> InvalidSessionError:
    return InvalidSessionError(
        f"this session token is not one that a reply gave: {why}; send back the one of the last "
        f"reply as it is, or {BEGIN!r} to begin a session"
    )
