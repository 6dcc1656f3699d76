"""The rules of keyspaces: names, options, and how they are made, altered and dropped. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace as with_fields

from raftgroups.meta.changing import Answered, next_view, plus
from raftgroups.meta.commands import (
    AlterKeyspace,
    Changed,
    CreateKeyspace,
    CreateLeaderless,
    DropKeyspace,
    KeyspaceMade,
)
from raftgroups.meta.node_rules import node_of
from raftgroups.meta.records import (
    DEFAULT_KEYSPACE_ID,
    MERGE_RULES,
    KeyspaceOptions,
    KeyspaceRecord,
    KeyspaceState,
    NodeState,
    Regime,
    RingRecord,
    RingSeat,
    ShardRecord,
    ShardState,
)
from raftgroups.meta.refusals import (
    InvalidKeyspaceError,
    KeyspaceExistsError,
    KeyspaceNotFoundError,
    StaleEpochError,
    UnknownNodeError,
)
from raftgroups.meta.shard_rules import check_idle, new_shards, without_dropped
from raftgroups.meta.view import MetaView

DEFAULT_NAME: Final = "default"
NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9_.-]{0,62}$"
KEYSPACES_MAX: Final = 1024
REPLICATION_MAX: Final = 15
SIBLINGS_MAX: Final = 1000
_NAME: Final = re.compile(NAME_PATTERN)


def _keyspace(view: MetaView, name: str) -> KeyspaceRecord:
    found = view.keyspace_named(name)
    if found is None:
        raise KeyspaceNotFoundError(f"there is no keyspace {name!r}; list or create it")
    return found


def check_options(options: KeyspaceOptions) -> None:
    quotas = options.quotas
    for name, value, least, most in (
        ("replication", options.replication, 1, REPLICATION_MAX),
        ("read_quorum", options.read_quorum, 1, REPLICATION_MAX),
        ("write_quorum", options.write_quorum, 1, REPLICATION_MAX),
        ("shards_max", options.shards_max, 0, 2**31),
        ("split_bytes", options.split_bytes, 0, 2**62),
        ("split_operations_a_second", options.split_operations_a_second, 0, 2**31),
        ("merge_bytes", options.merge_bytes, 0, 2**62),
        ("quotas.bytes", quotas.bytes, 0, 2**62),
        ("quotas.keys", quotas.keys, 0, 2**62),
        ("quotas.operations_a_second", quotas.operations_a_second, 0, 2**31),
        ("quotas.watchers", quotas.watchers, 0, 2**31),
    ):
        if not least <= value <= most:
            raise InvalidKeyspaceError(f"{name} is {value}; give {least} to {most}")
    if quotas.bytes:
        raise InvalidKeyspaceError(
            f"quotas.bytes is {quotas.bytes}: this version does not count the bytes of a keyspace "
            "exactly enough to refuse writes by them; give 0, or a quota of keys"
        )
    if options.rule not in MERGE_RULES:
        raise InvalidKeyspaceError(
            f"rule is {options.rule[:64]!r}; give one of {', '.join(MERGE_RULES)}"
        )
    if not 1 <= options.siblings <= SIBLINGS_MAX:
        raise InvalidKeyspaceError(f"siblings is {options.siblings}; give 1 to {SIBLINGS_MAX}")
    if options.split_bytes and options.split_bytes < 2 * options.merge_bytes:
        raise InvalidKeyspaceError(
            f"merge_bytes is {options.merge_bytes} and split_bytes {options.split_bytes}: what was "
            "merged would be split again; merge_bytes is at most half of split_bytes"
        )


def check_ring_options(options: KeyspaceOptions) -> None:
    """Of a leaderless keyspace."""
    for name, value in (("R", options.read_quorum), ("W", options.write_quorum)):
        if value > options.replication:
            raise InvalidKeyspaceError(
                f"{name} is {value} and there are {options.replication} copies (N); {name} is at "
                "most N"
            )
    quotas = options.quotas
    if options.shards_max or quotas.keys or quotas.operations_a_second or quotas.watchers:
        raise InvalidKeyspaceError(
            "shards_max and quotas are of strong keyspaces: nobody counts what a leaderless one "
            "holds or takes in all; leave them away"
        )


def check_ring(view: MetaView, ring: Sequence[RingSeat]) -> None:
    if not ring:
        raise InvalidKeyspaceError("a leaderless keyspace has no node to be on; add nodes first")
    for seat in ring:
        if node_of(view, seat.node).state is NodeState.DEAD:
            raise UnknownNodeError(f"node {seat.node} is dead; look at the ring again")


def _check_new_name(view: MetaView, name: str) -> None:
    if not _NAME.match(name):
        raise InvalidKeyspaceError(
            f"{name[:64]!r} is no name for a keyspace: 1 to 63 of a-z, 0-9, _ . and -, "
            "the first a letter or digit"
        )
    if view.keyspace_named(name) is not None:
        raise KeyspaceExistsError(f"a keyspace {name!r} exists already; alter or drop it")
    if len(view.keyspaces) >= KEYSPACES_MAX:
        raise InvalidKeyspaceError(f"there are {KEYSPACES_MAX} keyspaces already; drop one")


def create_leaderless(view: MetaView, command: CreateLeaderless, wall_ms: int) -> Answered:
    _check_new_name(view, command.name)
    check_options(command.options)
    check_ring_options(command.options)
    check_ring(view, command.ring)
    number = view.next.keyspace
    made = KeyspaceRecord(
        number,
        command.name,
        Regime.LEADERLESS,
        command.options,
        created_ms=wall_ms,
        ring=command.ring,
    )
    after = next_view(
        view,
        keyspaces=plus(view.keyspaces, number, made),
        next=with_fields(view.next, keyspace=number + 1),
        ring=view.ring or RingRecord(command.ring),
    )
    return after, KeyspaceMade(after.version, made)


def create_keyspace(view: MetaView, command: CreateKeyspace, wall_ms: int) -> Answered:
    _check_new_name(view, command.name)
    check_options(command.options)
    number, counters = view.next.keyspace, view.next
    shards: list[ShardRecord] = []
    if command.regime is Regime.STRONG:
        shards, counters = new_shards(view, number, command.shards, counters)
    elif command.shards:
        raise InvalidKeyspaceError("a leaderless keyspace has no shards; its keys are on the ring")
    made = KeyspaceRecord(number, command.name, command.regime, command.options, created_ms=wall_ms)
    after = next_view(
        view,
        keyspaces=plus(view.keyspaces, number, made),
        shards={**view.shards, **{each.shard: each for each in shards}},
        next=with_fields(counters, keyspace=number + 1),
    )
    return after, KeyspaceMade(after.version, made)


def alter_keyspace(view: MetaView, command: AlterKeyspace, _: int) -> Answered:
    known = _keyspace(view, command.name)
    if known.options != command.expected:
        raise StaleEpochError(
            f"the keyspace {command.name!r} was altered meanwhile; look again and decide anew"
        )
    check_options(command.options)
    if known.regime is Regime.LEADERLESS:
        check_ring_options(command.options)
        _check_stays(known.options, command.options)
    record = with_fields(known, options=command.options)
    after = next_view(view, keyspaces=plus(view.keyspaces, record.keyspace, record))
    return after, KeyspaceMade(after.version, record)


def _check_stays(old: KeyspaceOptions, new: KeyspaceOptions) -> None:
    """What cannot change while a leaderless keyspace holds data."""
    if new.replication != old.replication:
        raise InvalidKeyspaceError(
            f"the keyspace keeps {old.replication} copies (N) of each key, and that is chosen when "
            "it is made; make another keyspace and copy the keys"
        )
    if new.rule != old.rule and {new.rule, old.rule} != {"siblings", "lww"}:
        raise InvalidKeyspaceError(
            f"the keyspace merges by {old.rule!r}: what it holds means something else by "
            f"{new.rule!r}; only siblings and lww can take each other's place"
        )


def drop_keyspace(view: MetaView, command: DropKeyspace, _: int) -> Answered:
    known = _keyspace(view, command.name)
    if known.keyspace == DEFAULT_KEYSPACE_ID:
        raise InvalidKeyspaceError("the keyspace 'default' cannot be dropped; delete its keys")
    if known.state is KeyspaceState.DROPPING:
        return view, Changed(view.version)
    shards = view.shards_of(known.keyspace)
    for each in shards:
        check_idle(view, each.shard)
    record = with_fields(known, state=KeyspaceState.DROPPING)
    retired = {
        each.shard: with_fields(each, state=ShardState.RETIRED, epoch=each.epoch + 1)
        for each in shards
    }
    after = next_view(
        view,
        keyspaces=plus(view.keyspaces, record.keyspace, record),
        shards={**view.shards, **retired},
    )
    return without_dropped(after), Changed(after.version)
