"""The bytes of gossip: what nodes tell each other (kv/cluster/gossip.py), and what one keeps. Pure.

    digest    [versions: [[node, generation, heartbeat], ...]]        "what do you know?"
    answer    [newer records, wanted nodes, deaths]
    records   [records, deaths]
    kept      [format, own record, others' records, deaths, filled]   on the node's disk

A record is a NodeInfo field by field, a death [node, declared by, reason], `filled` the buckets
that the node surely has (kv/leaderless/filling.py): {keyspace: [[first, last], ...]}. What cannot
be read raises MalformedGossipError and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

import msgspec

from kv.cluster.membership import Answer, Death, NodeInfo, Status, Version
from kv.cluster.ring import BucketRange
from raftgroups.transport import NodeId
from storage.errors import JanusError

KEPT_FORMAT: Final = 1
_T = TypeVar("_T")
_Text = Annotated[str, msgspec.Meta(max_length=1024)]
_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]


class MalformedGossipError(JanusError):
    code = "malformed_gossip"


class _Record(msgspec.Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True):
    node: _Id
    generation: _Number
    heartbeat: _Number
    status: Status
    address: _Text
    client_address: _Text
    vnodes: _Count
    rack: _Text
    datacentre: _Text
    ring: Annotated[int, msgspec.Meta(ge=0)]
    ring_version: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]


class _Death(msgspec.Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True):
    node: _Id
    declared_by: _Id
    reason: _Text


class _Answer(msgspec.Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True):
    newer: list[_Record]
    wanted: list[_Id]
    deaths: list[_Death]


class _Records(msgspec.Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True):
    records: list[_Record]
    deaths: list[_Death]


class _Kept(msgspec.Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True):
    format: int
    mine: _Record
    others: list[_Record]
    deaths: list[_Death]
    filled: dict[int, list[tuple[_Number, _Number]]]


@dataclass(frozen=True, slots=True)
class Kept:
    """What a node knew of the cluster when it last wrote it down."""

    mine: NodeInfo
    others: tuple[NodeInfo, ...]
    deaths: tuple[Death, ...]
    filled: Mapping[int, tuple[BucketRange, ...]]


_encode: Final = msgspec.msgpack.Encoder().encode
_digest: Final = msgspec.msgpack.Decoder(list[tuple[_Id, _Number, _Number]])
_answer: Final = msgspec.msgpack.Decoder(_Answer)
_records: Final = msgspec.msgpack.Decoder(_Records)
_kept: Final = msgspec.msgpack.Decoder(_Kept)


def encode_digest(digest: Mapping[NodeId, Version]) -> bytes:
    return _encode([(node, *version) for node, version in digest.items()])


def decode_digest(body: bytes) -> dict[NodeId, Version]:
    rows = _decoded(_digest, body)
    return {NodeId(node): Version(generation, beat) for node, generation, beat in rows}


def encode_answer(answer: Answer) -> bytes:
    return _encode(_Answer(_out(answer.newer), list(answer.wanted), _dead(answer.deaths)))


def decode_answer(body: bytes) -> Answer:
    answer = _decoded(_answer, body)
    wanted = tuple(map(NodeId, answer.wanted))
    return Answer(_in(answer.newer), wanted, _deaths(answer.deaths))


def encode_records(records: Iterable[NodeInfo], deaths: Iterable[Death]) -> bytes:
    return _encode(_Records(_out(records), _dead(deaths)))


def decode_records(body: bytes) -> tuple[tuple[NodeInfo, ...], tuple[Death, ...]]:
    found = _decoded(_records, body)
    return _in(found.records), _deaths(found.deaths)


def encode_kept(kept: Kept) -> bytes:
    filled = {
        keyspace: [(found.first, found.last) for found in ranges]
        for keyspace, ranges in kept.filled.items()
    }
    (mine,) = _out([kept.mine])
    return _encode(_Kept(KEPT_FORMAT, mine, _out(kept.others), _dead(kept.deaths), filled))


def decode_kept(body: bytes) -> Kept:
    kept = _decoded(_kept, body)
    if kept.format != KEPT_FORMAT:
        raise MalformedGossipError(f"a list of members of format {kept.format}, not {KEPT_FORMAT}")
    filled = {
        keyspace: tuple(BucketRange(first, last) for first, last in ranges)
        for keyspace, ranges in kept.filled.items()
    }
    (mine,) = _in([kept.mine])
    return Kept(mine, _in(kept.others), _deaths(kept.deaths), filled)


def _decoded(decoder: msgspec.msgpack.Decoder[_T], body: bytes) -> _T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise MalformedGossipError(f"{len(body)} bytes of gossip cannot be read: {error}") from None


def _out(infos: Iterable[NodeInfo]) -> list[_Record]:
    return [
        _Record(
            info.node,
            info.generation,
            info.heartbeat,
            info.status,
            info.address,
            info.client_address,
            info.vnodes,
            info.rack,
            info.datacentre,
            info.ring,
            info.ring_version,
        )
        for info in infos
    ]


def _in(records: Iterable[_Record]) -> tuple[NodeInfo, ...]:
    return tuple(
        NodeInfo(
            NodeId(each.node),
            each.generation,
            each.heartbeat,
            each.status,
            each.address,
            each.client_address,
            each.vnodes,
            each.rack,
            each.datacentre,
            each.ring,
            each.ring_version,
        )
        for each in records
    )


def _dead(deaths: Iterable[Death]) -> list[_Death]:
    return [_Death(death.node, death.declared_by, death.reason) for death in deaths]


def _deaths(deaths: Iterable[_Death]) -> tuple[Death, ...]:
    return tuple(Death(NodeId(d.node), NodeId(d.declared_by), d.reason) for d in deaths)
