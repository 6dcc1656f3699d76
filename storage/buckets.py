"""Where a key falls on the ring, and what the Merkle leaf of its bucket is.

The ring of 2^64 tokens is cut into 2^20 buckets of equal width. A key's token is the first half of
the 128-bit murmur3 hash (x64 form, seed 0) of its bytes; its bucket is the token's top 20 bits.
The hash is part of the format on disk and of the protocol between nodes: it never changes.

A leaf sums up one bucket of one keyspace: the number of its keys and the sum, modulo 2^128, of one
hash a key over (key, sibling set in digest form).

Why a sum. It does not depend on the order in which keys arrive, and taking one key's old hash out
and its new one in is all that a write costs, whatever else the bucket holds. A xor has the same
two properties but forgets too much: two equal hashes cancel to nothing, a change applied twice
undoes itself instead of showing, and any 129 hashes are linearly dependent, so sets of keys with
an equal xor are found by elimination. In a sum a double change stays visible, and equal sums of
different sets are as rare as chance (2^-128 a pair) for hashes that nobody has chosen. Somebody who
chooses values to collide could hide a difference from repair in his own keys only: the hash of a
key covers the key, read repair compares sets and not leaves, and keys of others are not his.

Leaves of several buckets add up in the same way, so the sum over any set of buckets is the root of
a tree over them, and nodes that share a different set with each peer need no tree on disk. Nor do
they need leaves there: a leaf is added up from the digests of its keys (scan_index of objects.py)
when somebody asks. This file is pure.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import mmh3

from storage.siblings import SiblingSet, encode_set

BUCKET_BITS: Final = 20
BUCKETS: Final = 1 << BUCKET_BITS
DIGEST_BYTES: Final = 16
LEAF_BYTES: Final = 4 + DIGEST_BYTES
_MASK: Final = (1 << 128) - 1
_SHIFT: Final = 64 - BUCKET_BITS


def key_token(key: bytes) -> int:
    """The key's place on the ring, 0..2^64-1."""
    return mmh3.mmh3_x64_128_utupledigest(key, 0)[0]


def bucket_of(key: bytes) -> int:
    return mmh3.mmh3_x64_128_utupledigest(key, 0)[0] >> _SHIFT


def set_digest(key: bytes, siblings: SiblingSet, encoded: bytes | None = None) -> int:
    """The 128-bit hash of one key and what it holds. `encoded` saves encoding the set again."""
    if encoded is None or any(version.expiry_ms for version in siblings.versions):
        encoded = encode_set(siblings, for_digest=True)
    return plain_digest(key, encoded)


def plain_digest(key: bytes, encoded: bytes) -> int:
    """The same of a set of which no version expires."""
    size = len(key)
    head = b"%c" % size if size < 0x80 else b"%c%c" % (size & 0x7F | 0x80, size >> 7)
    return mmh3.mmh3_x64_128_uintdigest(head + key + encoded, 0)


class Leaf(NamedTuple):
    """What a bucket holds, summed up. Equal leaves of two nodes mean equal keys and sets."""

    keys: int = 0
    total: int = 0
    """The sum of the keys' digests modulo 2^128."""

    def plus(self, keys: int, total: int) -> Leaf:
        """The sum with a difference of leaves, which may be negative."""
        return Leaf(self.keys + keys, (self.total + total) & _MASK)

    def __add__(self, other: Leaf) -> Leaf:  # type: ignore[override]
        return Leaf(self.keys + other.keys, (self.total + other.total) & _MASK)

    def __sub__(self, other: Leaf) -> Leaf:
        return Leaf(self.keys - other.keys, (self.total - other.total) & _MASK)

    def to_bytes(self) -> bytes:
        return (self.keys << 128 | self.total).to_bytes(LEAF_BYTES, "big")

    @classmethod
    def from_bytes(cls, body: bytes) -> Leaf:
        number = int.from_bytes(body, "big")
        return cls(number >> 128, number & _MASK)


EMPTY_LEAF: Final = Leaf()
