"""What may be asked of the meta group, and the bytes of it. Pure.

    version u8 | wall u64 | request 16 bytes | body: msgpack [kind, field, ...]

- wall: of whoever proposes, in milliseconds; for people, and for deadlines of hours.
- request: chosen by whoever asks; the answers of the last ones are remembered, so that asking again
  after a lost answer does nothing twice. All zero: not remembered.

Every command that changes something says what it believes (an epoch, a step), and is refused if
that is not so any more: two planners that overlap for a moment cannot both be obeyed.
"""

from __future__ import annotations

from struct import Struct as Packing
from typing import Final

import msgspec

from raftgroups.meta.records import (
    KeyspaceOptions,
    KeyspaceRecord,
    NodeRecord,
    NodeState,
    OperationRecord,
    Regime,
    RingSeat,
    ShardRecord,
)
from raftgroups.refusals import NewerCommandError, UnknownCommandError

VERSION: Final = 1
REQUEST_BYTES: Final = 16
NOT_REMEMBERED: Final = bytes(REQUEST_BYTES)
_HEAD: Final = Packing(">BQ16s")


class _Body(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    pass


class NewShard(_Body, frozen=True):
    """A range that a keyspace begins with, and who forms its group: (node, incarnation)."""

    start: bytes
    end: bytes | None
    founders: tuple[tuple[str, int], ...]


class Bootstrap(_Body, frozen=True, tag=1):
    """What a cluster begins with; obeyed once, later ones change nothing. `shards` are those of the
    keyspace `default`, in order. `meta_replicas`: who hosts group 0. `formed`: the group of the
    first shard exists already (a directory from before there was a meta group)."""

    nodes: tuple[NodeRecord, ...]
    meta_replicas: tuple[str, ...]
    options: KeyspaceOptions
    shards: tuple[NewShard, ...]
    formed: bool = False


class PutNode(_Body, frozen=True, tag=2):
    """Admit a node, or renew what is known of it. A state is changed by SetNodeState only."""

    record: NodeRecord


class SetNodeState(_Body, frozen=True, tag=3):
    node: str
    state: NodeState


class RemoveNode(_Body, frozen=True, tag=4):
    """Refused while a shard names it among its replicas."""

    node: str


class CreateKeyspace(_Body, frozen=True, tag=5):
    """`shards` in order, without gaps; empty for the leaderless regime."""

    name: str
    regime: Regime
    options: KeyspaceOptions
    shards: tuple[NewShard, ...]


class AlterKeyspace(_Body, frozen=True, tag=6):
    """`expected`: the options that the change was made from."""

    name: str
    expected: KeyspaceOptions
    options: KeyspaceOptions


class DropKeyspace(_Body, frozen=True, tag=7):
    name: str


class ReportFormed(_Body, frozen=True, tag=8):
    """These shards' groups were formed by this node, durably."""

    node: str
    shards: tuple[int, ...]


class ReportErased(_Body, frozen=True, tag=9):
    """This node has no replica of these retired shards any more."""

    node: str
    shards: tuple[int, ...]


class BeginOperation(_Body, frozen=True, tag=11):
    """`operation.operation` is 0: the machine chooses it. `epochs`: of each of its shards, as the
    planner saw them. `new_shards` and `new_segments` say HOW MANY ids it needs: nobody else gets
    them, and those that are never used are no loss."""

    operation: OperationRecord
    epochs: tuple[int, ...]
    new_shards: int = 0
    new_segments: int = 0


class StepOperation(_Body, frozen=True, tag=12):
    """From one step to the next. The same step again: another attempt, or progress."""

    operation: int
    from_step: str
    to_step: str
    note: str = ""
    progress: float = 0.0
    replaced: tuple[tuple[int, int], ...] = ()
    """(shard, epoch) that the step ends ..."""
    shards: tuple[ShardRecord, ...] = ()
    """... and what takes their place, together with exactly the same ranges. A shard that keeps its
    id is named in both. Their epochs are set by the machine."""


class EndOperation(_Body, frozen=True, tag=13):
    """Done or given up; with it a last replacement of shards, as in StepOperation."""

    operation: int
    from_step: str
    replaced: tuple[tuple[int, int], ...] = ()
    shards: tuple[ShardRecord, ...] = ()


class SetReplicas(_Body, frozen=True, tag=14):
    """What the configuration of a group has become, outside of an operation."""

    shard: int
    epoch: int
    replicas: tuple[str, ...]


class BootstrapLeaderless(_Body, frozen=True, tag=15):
    """As Bootstrap, of a cluster whose keyspace `default` is leaderless: it has no shards, and all
    nodes found the ring. From feature level RING_LEVEL on (raftgroups/levels.py), as the next."""

    nodes: tuple[NodeRecord, ...]
    meta_replicas: tuple[str, ...]
    options: KeyspaceOptions
    ring: tuple[RingSeat, ...]


class CreateLeaderless(_Body, frozen=True, tag=16):
    """A keyspace on the ring. `ring`: as it is now; if there was none yet, who founds it."""

    name: str
    options: KeyspaceOptions
    ring: tuple[RingSeat, ...]


OF_RING: Final = (BootstrapLeaderless, CreateLeaderless)

MetaCommand = (
    Bootstrap
    | PutNode
    | SetNodeState
    | RemoveNode
    | CreateKeyspace
    | AlterKeyspace
    | DropKeyspace
    | ReportFormed
    | ReportErased
    | BeginOperation
    | StepOperation
    | EndOperation
    | SetReplicas
    | BootstrapLeaderless
    | CreateLeaderless
)


class Changed(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """`version`: of the view in which it holds."""

    version: int


class KeyspaceMade(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    version: int
    record: KeyspaceRecord


class OperationMade(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    version: int
    record: OperationRecord


MetaAnswerBody = Changed | KeyspaceMade | OperationMade

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(MetaCommand).decode
_decode_answer: Final = msgspec.msgpack.Decoder(MetaAnswerBody).decode


def encode(command: MetaCommand, request: bytes = NOT_REMEMBERED, wall_ms: int = 0) -> bytes:
    assert len(request) == REQUEST_BYTES
    return _HEAD.pack(VERSION, wall_ms, request) + _encode(command)


def decode(payload: bytes) -> tuple[MetaCommand, bytes, int]:
    """(command, request, wall time). Raises UnknownCommandError, NewerCommandError."""
    if len(payload) <= _HEAD.size:
        raise UnknownCommandError(f"a meta command of {len(payload)} bytes is too short to be one")
    version, wall_ms, request = _HEAD.unpack_from(payload)
    if version > VERSION:
        raise NewerCommandError(
            f"the log of the meta group holds a command of version {version} and this program "
            f"knows {VERSION}; run the version that wrote it on this node"
        )
    try:
        if not version:
            raise ValueError
        command: MetaCommand = _decode(payload[_HEAD.size :])
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        raise UnknownCommandError(
            f"a meta command of {len(payload)} bytes is not one of version {VERSION}"
        ) from error
    return command, request, wall_ms


def encode_answer(answer: MetaAnswerBody) -> bytes:
    return _encode(answer)


def decode_answer(body: bytes) -> MetaAnswerBody:
    answer: MetaAnswerBody = _decode_answer(body)
    return answer
