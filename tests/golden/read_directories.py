"""Everything that a fixture directory holds, read by today's code, as one JSON value.

make_directories.py asks while the objects that wrote the data are still alive, and keeps the answer
beside the fixture; tests/contract/test_old_directories.py asks of a copy and compares. Bytes are
told as Latin-1 text, so that each stands for itself and people can read most of them; long ones by
their length and hash.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from raftgroups.commands import Token
from raftgroups.group import Group
from raftgroups.host import GroupHost, HostConfig
from raftgroups.machine import ShardMachine
from raftgroups.machine_api import StateMachine
from raftgroups.machine_parts import ShardPlace
from raftgroups.transport import Link, NodeId
from storage.committer import Committer
from storage.engine import Batch, Engine, iterate
from storage.hints import hint_usages, last_sequence, read_hints
from storage.latest import Latest
from storage.mvcc import Shard
from storage.mvcc_events import read_events
from storage.mvcc_records import KeyValue
from storage.objects import index_leaves, scan_objects, scan_reapable
from storage.siblings import SiblingSet
from storage.system_clock import SystemClock
from storage.writers import InlineWriter

SHARD = 5
SHARD_GROUP = 4
"""The one whose machine is that of a shard; the others' is RowsMachine."""
WALL_MS = 1_767_225_600_000
"""When each shard began. Revisions of one, entries of the other are a second apart."""
KEYSPACES = (1, 2)
TARGETS = ("node-b", "node-c")
LEASES = (901, 902)
CLIENT = b"client-a"
SEQUENCES = (1, 2)
LAST_BUCKET = (1 << 20) - 1
FOREVER_MS = 1 << 62
TOLD_MAX_BYTES = 400


class RowsMachine:
    """One row an operation, under its number: as plain as a machine can be."""

    def __init__(self, group_id: int, engine: Engine) -> None:
        self._engine = engine
        self._prefix = b"\xf0" + group_id.to_bytes(8, "big")
        self._overlay: dict[bytes, bytes] = {}
        self._count = 0

    def apply_each(self, index: int, payloads: Sequence[bytes]) -> list[object]:
        return [self.apply(index, payload) for payload in payloads]

    def apply(self, index: int, payload: bytes) -> object:
        self._overlay[self._prefix + self._count.to_bytes(4, "big")] = payload
        self._count += 1
        return self._count

    def prepare(self, batch: Batch) -> None:
        for key, value in self._overlay.items():
            batch.put(key, value)

    def after_commit(self) -> None:
        self._overlay.clear()

    def owned_ranges(self) -> Sequence[tuple[bytes, bytes]]:
        return [(self._prefix, self._prefix + b"\xff" * 5)]

    def reset(self) -> None:
        self._overlay.clear()

    def restored(self, index: int) -> None:
        self._count = len(self.rows())

    def rows(self) -> list[bytes]:
        (start, end), *_ = self.owned_ranges()
        with self._engine.snapshot() as rows:
            found = dict(iterate(rows, start, end))
        found.update(self._overlay)
        return [found[key] for key in sorted(found)]


def make_machine(group_id: int, engine: Engine) -> RowsMachine | ShardMachine:
    if group_id != SHARD_GROUP:
        return RowsMachine(group_id, engine)
    place = ShardPlace(group=SHARD_GROUP, shard=6, keyspace=8, segment=12)
    return ShardMachine(Latest(engine, SystemClock()), place)


def make_host(
    node: NodeId,
    engine: Engine,
    link: Link,
    loop: asyncio.AbstractEventLoop,
    incarnation: int,
) -> tuple[GroupHost, Committer]:
    clock = SystemClock()

    def fatal(error: BaseException) -> None:
        raise AssertionError("a committer failed") from error

    committer = Committer(engine, InlineWriter(clock), loop, clock, on_fatal=fatal)
    host = GroupHost(
        node_id=node,
        incarnation=incarnation,
        boot_id=random.Random().randbytes(8).hex(),
        engine=engine,
        committer=committer,
        link=link,
        clock=clock,
        rng=random.Random(),
        scheduler=loop,
        config=HostConfig(election_timeout_s=(0.2, 0.4), heartbeat_s=0.05),
        machines=lambda group_id: make_machine(group_id, engine),
    )
    return host, committer


# --- the strong regime -----------------------------------------------------------------------


def dump_shard(engine: Engine, shard: Shard | None = None) -> dict[str, Any]:
    latest = Latest(engine, SystemClock())
    shard = shard or Shard.load(latest, SHARD)
    assert shard is not None, f"the engine holds no shard {SHARD}"
    state, view = shard.state, shard.view
    revisions = range(state.compact_revision, state.revision + 1)
    page = read_events(view, state.compact_revision)
    return {
        "shard": state.shard,
        "keyspace": state.keyspace,
        "segment": state.segment,
        "revision": state.revision,
        "compact_revision": state.compact_revision,
        "applied_index": state.applied_index,
        "sweep_pending": shard.sweep_pending,
        "keys": [_key_value(item) for item in view.range(b"", None).items],
        "at_revision": {
            str(revision): [_key_value(item) for item in view.range(b"", None, revision).items]
            for revision in revisions
        },
        "events": [
            [event.is_delete, _key_value(event.kv), event.prev and _key_value(event.prev)]
            for event in page.events
        ],
        "lease_keys": {
            str(lease): [_text(key) for key in view.lease_keys(lease)] for lease in LEASES
        },
    }


def _key_value(item: KeyValue) -> list[Any]:
    key, create, mod, version, lease, value, modified_ms = item
    return [_text(key), create, mod, version, lease, _text(value), modified_ms]


def dump_groups(host: GroupHost) -> dict[str, Any]:
    return {
        "incarnation": host.incarnation,
        "groups": {str(group_id): _group(group) for group_id, group in host.groups.items()},
    }


def _group(group: Group) -> dict[str, Any]:
    status = group.status()
    machine = group.machine
    return {
        "removed": status.role == "removed",
        "term": status.term,
        "voted_for": status.voted_for,
        "applied_index": status.durable_applied_index,
        "first_index": status.first_index,
        "last_index": status.last_index,
        "voters": list(status.voters),
        "learners": list(status.learners),
        "log": [
            [entry.number, entry.term, _text(entry.payload)]
            for entry in group.log(status.first_index, status.last_index)
        ],
        **_machine(machine),
    }


def _machine(machine: StateMachine) -> dict[str, Any]:
    if isinstance(machine, RowsMachine):
        return {"rows": [_text(row) for row in machine.rows()]}
    assert isinstance(machine, ShardMachine)
    items = machine.shard.view.range(b"", None).items
    ttls = {item.key: machine.ttls.get(item.key) for item in items}
    return {
        "revision": machine.shard.state.revision,
        "applied": machine.shard.state.applied_index,
        "clock_ms": machine.clock_ms,
        "keys": [_key_value(item) for item in items],
        "ttls": {_text(key): list(ttl) for key, ttl in ttls.items() if ttl is not None},
        "leases": {
            str(lease): [list(machine.leases.get(lease) or ()), *map(_text, _keys(machine, lease))]
            for lease in machine.leases.ids()
        },
        "remembered": [len(machine.dedupe), machine.dedupe.clients],
        "answers": {
            str(sequence): _text(machine.dedupe.answer(Token(CLIENT, sequence)) or b"")
            for sequence in SEQUENCES
        },
    }


def _keys(machine: ShardMachine, lease: int) -> list[bytes]:
    return machine.shard.view.lease_keys(lease)


# --- the leaderless regime -------------------------------------------------------------------


def dump_objects(engine: Engine) -> dict[str, Any]:
    with engine.snapshot() as rows:
        return {
            "keyspaces": {
                str(keyspace): {
                    "objects": {
                        _text(key): {"epoch": record.epoch, **_siblings(record.siblings)}
                        for key, record in scan_objects(rows, keyspace).items
                    },
                    "leaves": {
                        str(bucket): [leaf.keys, str(leaf.total)]
                        for bucket, leaf in sorted(index_leaves(rows, keyspace).items())
                    },
                    "reapable": [
                        [due, _text(key)]
                        for due, key in scan_reapable(rows, keyspace, FOREVER_MS).items
                    ],
                }
                for keyspace in KEYSPACES
            },
            "hints": {
                target: [
                    [
                        *(hint.sequence, hint.keyspace, _text(hint.key), hint.queued_ms),
                        *(_siblings(hint.siblings), hint.size_bytes),
                    ]
                    for hint in read_hints(rows, target).hints
                ]
                for target in TARGETS
            },
            "hint_usage": {
                target: [usage.count, usage.size_bytes, usage.overflowed]
                for target, usage in sorted(hint_usages(rows).items())
            },
            "last_hint_sequence": last_sequence(rows),
        }


def _siblings(siblings: SiblingSet) -> Mapping[str, Any]:
    clock = siblings.clock
    return {
        "versions": [
            [
                *version.dot,
                None if version.value is None else _text(version.value),
                *(version.timestamp, version.expiry_ms),
            ]
            for version in siblings.versions
        ],
        "clock": [
            [*actor, clock.base.get(actor, 0), *clock.beyond.get(actor, ())]
            for actor in clock.actors()
        ],
    }


def _text(octets: bytes) -> str:
    if len(octets) > TOLD_MAX_BYTES:
        return f"{len(octets)} bytes, sha256 {sha256(octets).hexdigest()}"
    return octets.decode("latin-1")
