"""Reads as values: what can be evaluated here, or sent to a node that has a replica. Pure.

A query is a frozen struct that is called with a ShardReader, like the closures that reads of a
shard on this node may be. Beyond that it has

    scope()     the keys that it looks at, so that its shard is found
    reads()     the same, or more: all keys whose locks concern it
    tag         its kind in a frame; each face registers its own kinds (`register`)
    Answer      the type of what evaluating it gives, so that it can be read from a frame

Both ends run the same function, so what a forwarded read answers is the same to the byte.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from kv.reading import ShardReader
from kv.router import Scope
from storage.errors import JanusError

T = TypeVar("T")


class MalformedQueryError(JanusError):
    code = "malformed_query"


class Query(msgspec.Struct, Generic[T], frozen=True, array_like=True, gc=False):
    """Subclasses say `tag="face.name"` and `Answer`."""

    Answer: ClassVar[Any]

    def scope(self) -> Scope:
        raise NotImplementedError

    def reads(self) -> Scope:
        """Where the scope is one key that leads to a range, the range; beyond the shard, too."""
        return self.scope()

    def __call__(self, reader: ShardReader) -> T:
        raise NotImplementedError


_encode = msgspec.msgpack.Encoder().encode
_kinds: list[type[Query[Any]]] = []
_decoders: dict[object, msgspec.msgpack.Decoder[Any]] = {}


def register(*kinds: type[Query[Any]]) -> None:
    """Once, where they are defined."""
    for kind in kinds:
        assert kind not in _kinds
        _kinds.append(kind)
    _decoders.clear()


def encode_query(query: Query[Any]) -> bytes:
    return _encode(query)


def decode_query(body: bytes) -> Query[Any]:
    """Raises MalformedQueryError."""
    decoder = _decoders.get(Query)
    if decoder is None:
        decoder = _decoders[Query] = msgspec.msgpack.Decoder(reduce(or_, _kinds))
    try:
        query: Query[Any] = decoder.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise MalformedQueryError(
            "a forwarded read is none that this program knows; it may come from a newer version"
        ) from error
    return query


def encode_answer(answer: object) -> bytes:
    return _encode(answer)


def decode_answer(query: Query[T], body: bytes) -> T:
    """Raises MalformedQueryError."""
    kind = type(query)
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind.Answer)
    try:
        answer: T = decoder.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise MalformedQueryError(
            "the answer to a forwarded read cannot be read here; it may be of a newer version"
        ) from error
    return answer
