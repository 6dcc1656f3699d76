"""What every node does for whoever divides shards: it measures what it serves, and reports.

    once a second   each shard's meter ticks; a leader looks at some keys that were written, and at
                    some records, for their mean size
    asked           how each replica here stands, what is asked of it, how large it is
    asked for a     its leader walks over half of the keys, some hundred at a time, so that the loop
    middle          is never held up; the next reports have the key

All of it is bounded and may be lost: the next one that asks is told what is so then.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

import msgspec

from kv.cluster.mail import Notes
from kv.cluster.said_once import SaidOnce
from kv.division.cuts import before_known
from kv.division.messages import (
    REPORT_VERSION,
    Ask,
    Hot,
    Load,
    ReplicaReport,
    Report,
    Size,
    Standing,
    decode_ask,
    encode,
)
from kv.division.meter import Meter
from kv.lock_keys import place_at
from raftgroups.group import Group
from raftgroups.host import GroupHost
from raftgroups.machine import ShardMachine
from raftgroups.transport import NodeId
from storage.clock import Clock, Rng, Scheduler, Timer
from storage.mvcc_events import key_at

_log = logging.getLogger(__name__)

ASK: Final = "division-ask"
REPORT: Final = "division-report"
TICK_S: Final = 1.0
WRITTEN: Final = 8
"""Keys looked at a tick and shard, of those written since the last one."""
RECORDS: Final = 32
"""Looked at a tick and shard, one after the other around the shard, for their mean size."""
WALK_KEYS: Final = 500
WALK_REST_S: Final = 0.005
MIDDLE_KEPT: Final = 0.1
"""A middle that was found is good while the number of keys has changed by no more than this."""


class _Shard:
    """What is kept of one shard here. Replaced when the shard is split or merged."""

    def __init__(self, epoch: int, revision: int) -> None:
        self.epoch = epoch
        self.revision = revision
        self.cursor = b""
        self.mean_bytes = 0.0
        self.looked_at = 0
        self.middle = b""
        self.middle_keys = 0
        """How many keys there were when it was found."""

    def note(self, record_bytes: int) -> None:
        """A mean over the last records, or over all while they are few."""
        self.looked_at = min(self.looked_at + 1, 64 * RECORDS)
        self.mean_bytes += (record_bytes - self.mean_bytes) / self.looked_at


class _Walk:
    def __init__(self, group: int, kept: _Shard, start: bytes, keys: int) -> None:
        self.group = group
        self.kept = kept
        self.at = start
        self.keys = keys
        self.left = keys // 2


class Attendant:
    """For the node's loop only."""

    def __init__(
        self,
        *,
        host: GroupHost,
        notes: Notes,
        scheduler: Scheduler,
        clock: Clock,
        rng: Rng,
    ) -> None:
        self._host = host
        self._notes = notes
        self._scheduler = scheduler
        self._clock = clock
        self._rng = rng
        self._said = SaidOnce(_log)
        self._meters: dict[int, Meter] = {}
        self._shards: dict[int, _Shard] = {}
        self._wanted: list[int] = []
        self._walk: _Walk | None = None
        self._timer: Timer | None = None
        self._walk_timer: Timer | None = None
        notes.on(ASK, self._asked)

    def start(self) -> None:
        self._tick()

    def stop(self) -> None:
        for timer in (self._timer, self._walk_timer):
            if timer is not None:
                timer.cancel()

    def meter(self, group: int) -> Meter:
        """Kept while the group is here."""
        found = self._meters.get(group)
        if found is None:
            found = self._meters[group] = Meter(self._rng)
        return found

    # --- measuring ----------------------------------------------------------------------------

    def _tick(self) -> None:
        self._timer = self._scheduler.call_later(TICK_S, self._tick)
        now_s, groups = self._clock.monotonic(), self._host.groups
        for gone in (self._meters.keys() | self._shards.keys()) - groups.keys():
            self._meters.pop(gone, None)
            self._shards.pop(gone, None)
        for group_id, group in groups.items():
            machine = _machine(group)
            if machine is not None:
                self._measure(group_id, machine, now_s, group.settled)

    def _measure(self, group_id: int, machine: ShardMachine, now_s: float, leads: bool) -> None:
        state, meter = machine.shard.state, self.meter(group_id)
        kept = self._shards.get(group_id)
        if kept is None or kept.epoch != state.epoch:
            kept = self._shards[group_id] = _Shard(state.epoch, state.revision)
            meter.forget()
        before, kept.revision = kept.revision, state.revision
        writes = max(0, state.revision - before) if leads else 0
        meter.tick(now_s, writes, self._written(machine, before, writes))
        if leads and not machine.frozen and (writes or kept.looked_at < RECORDS):
            self._weigh(machine, kept)

    def _written(self, machine: ShardMachine, before: int, writes: int) -> list[bytes]:
        drawn = (before + 1 + self._rng.randrange(0, writes) for _ in range(min(WRITTEN, writes)))
        found = (key_at(machine.view, revision) for revision in drawn)
        return [key for key in found if key is not None]

    def _weigh(self, machine: ShardMachine, kept: _Shard) -> None:
        own, seen = machine.shard.view.segments.own, 0
        start = max(kept.cursor, own.start)
        for key, body in machine.view.records(start, own.end, limit=RECORDS):
            kept.cursor, seen = key + b"\x00", seen + 1
            if body is not None:
                kept.note(len(key) + len(body))
            if seen >= RECORDS:
                return
        kept.cursor = b""

    # --- the middle ---------------------------------------------------------------------------

    def _want(self, groups: Iterable[int]) -> None:
        walking = None if self._walk is None else self._walk.group
        for group in groups:
            kept, found = self._shards.get(group), self._host.groups.get(group)
            machine = None if found is None else _machine(found)
            if kept is None or machine is None or found is None or not found.settled:
                continue
            moved = abs(machine.shard.state.keys - kept.middle_keys)
            stale = not kept.middle or moved > MIDDLE_KEPT * kept.middle_keys
            if stale and group != walking and group not in self._wanted:
                self._wanted.append(group)
        if self._walk is None:
            self._walk_on()

    def _walk_on(self) -> None:
        self._walk_timer = None
        if self._walk is None:
            self._walk = self._next_walk()
        elif self._walk_some(self._walk):
            self._walk = None
        if self._walk is not None or self._wanted:
            self._walk_timer = self._scheduler.call_later(WALK_REST_S, self._walk_on)

    def _next_walk(self) -> _Walk | None:
        while self._wanted:
            group = self._wanted.pop(0)
            found, kept = self._host.groups.get(group), self._shards.get(group)
            machine = None if found is None else _machine(found)
            if machine is not None and kept is not None and not machine.frozen:
                state = machine.shard.state
                if state.counted is None and state.keys > 1:
                    return _Walk(group, kept, machine.shard.view.segments.own.start, state.keys)
        return None

    def _walk_some(self, walk: _Walk) -> bool:
        """True: the walk is over."""
        found = self._host.groups.get(walk.group)
        machine = None if found is None else _machine(found)
        gone = self._shards.get(walk.group) is not walk.kept
        if machine is None or gone or machine.frozen:
            return True
        own, seen = machine.shard.view.segments.own, 0
        for key, body in machine.view.records(walk.at, own.end, limit=WALK_KEYS):
            if body is not None and walk.left <= 0:
                walk.kept.middle, walk.kept.middle_keys = _cut_at(machine, key), walk.keys
                return True
            walk.left -= body is not None
            walk.at, seen = key + b"\x00", seen + 1
            if seen >= WALK_KEYS:
                return False
        return True

    # --- reports ------------------------------------------------------------------------------

    def _asked(self, peer: NodeId, body: bytes) -> None:
        try:
            ask = decode_ask(body)
        except msgspec.DecodeError as error:
            self._said.warn(f"peer {peer}", "malformed_question", f"cannot be read: {error}")
            return
        self._notes.tell(peer, REPORT, encode(self.report(ask)))

    def report(self, ask: Ask) -> Report:
        if ask.middles:
            self._want(ask.middles)
        replicas = []
        for group_id, group in sorted(self._host.groups.items()):
            machine = _machine(group)
            if machine is not None:
                replicas.append(self._replica(group_id, group, machine, ask.detail))
        return Report(REPORT_VERSION, ask.number, self._host.incarnation, tuple(replicas))

    def _replica(
        self, group_id: int, group: Group, machine: ShardMachine, detail: bool
    ) -> ReplicaReport:
        journal = group.replica.journal
        durable = 0 if group.replica.installing else journal.durable_applied
        leads = group.settled
        return ReplicaReport(
            group_id,
            group.term,
            durable,
            standing_of(group, machine) if leads else None,
            self.load(group_id, machine) if detail else None,
            self.size(group_id, machine) if detail and leads else None,
        )

    def load(self, group_id: int, machine: ShardMachine) -> Load:
        meter = self.meter(group_id)
        total = meter.operations_a_second
        return Load(
            meter.reads_a_second,
            meter.writes_a_second,
            tuple(_cut_at(machine, key) for key in meter.marks()),
            tuple(Hot(each.key, each.share * total) for each in meter.hot_keys()),
        )

    def size(self, group_id: int, machine: ShardMachine) -> Size:
        keys, kept = machine.shard.state.keys, self._shards.get(group_id)
        if kept is None:
            return Size(keys, 0)
        return Size(keys, int(keys * kept.mean_bytes), kept.middle)


def _machine(group: Group) -> ShardMachine | None:
    """Of a replica that has a state of its own."""
    machine = group.machine
    if group.blank or not group.readable or not isinstance(machine, ShardMachine):
        return None
    return machine


def _cut_at(machine: ShardMachine, key: bytes) -> bytes:
    """The key, or that before which a lock's queue begins, if it is a place in one."""
    own = machine.view.segments.own
    if place_at(key) is None or not own.holds_key(key):
        return key
    found = machine.view.get(key)
    return key if found is None else before_known(key, found.lease, own.start)


def standing_of(group: Group, machine: ShardMachine) -> Standing:
    """As raftgroups/merging.py Seen has it."""
    journal, state = group.replica.journal, machine.shard.state
    config, place = journal.config, machine.view.place
    applied = group.replica.raft.applied_index
    return Standing(
        state.keyspace,
        place.start,
        place.end,
        state.epoch,
        applied,
        state.merging_with,
        state.merge,
        state.frozen_by,
        state.frozen_merge,
        state.absorbed,
        tuple(sorted(config.voters.items())),
        tuple(sorted(config.learners.items())),
        journal.config_index <= applied and not group.changing,
        group.feature_level,
        sum(group.replica.sender.there(peer)[1] for peer in config.learners),
    )
