"""What the commands about leases and keys' times to live do to a shard. Pure.

    at the keyspace's first shard    grant, keep alive, revoke; Expire names leases that are over
    at every shard                   Expire names keys that are over; LeaseEnd and UnderLease
                                     of the first one's leases (lease.py)

Time is the machine's clock, which only payloads raise. What an Expire names is judged again here:
it was proposed when it looked over, and may have been kept alive since.

Leases and TTLs themselves are kept by lease.py and keyttl.py; the table of handlers.py calls these.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from raftgroups.commands import (
    Delete,
    Expire,
    LeaseEnd,
    LeaseForget,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseRevoke,
    SetTtl,
    Tick,
    UnderLease,
)
from raftgroups.lease import lease_missing
from raftgroups.operations import Operations
from raftgroups.operations import set_ttl as set_key_ttl
from raftgroups.refusals import LeaseFencedError
from raftgroups.results import (
    ExpireResult,
    KeepAliveResult,
    LeaseEndResult,
    LeaseResult,
    Result,
    TickResult,
    TtlResult,
)

if TYPE_CHECKING:
    from raftgroups.machine import ShardMachine


def tick(machine: ShardMachine, _: Tick) -> TickResult:
    machine.dedupe.prune(machine.clock_ms)
    return TickResult(machine.shard.state.revision, machine.clock_ms)


def set_ttl(machine: ShardMachine, command: SetTtl) -> TtlResult:
    key, ttl_ms = command.key, command.ttl_ms
    version = set_key_ttl(machine.shard.view, machine.ttls, key, ttl_ms, machine.clock_ms)
    return TtlResult(machine.shard.state.revision, version, ttl_ms if version else 0)


# --- leases at home --------------------------------------------------------------------------


def grant(machine: ShardMachine, command: LeaseGrant) -> LeaseResult:
    lease = machine.leases.grant(command.lease, command.ttl_s, machine.clock_ms)
    return LeaseResult(machine.shard.state.revision, command.lease, lease.ttl_s)


def keep_alive(machine: ShardMachine, command: LeaseKeepAlive) -> KeepAliveResult:
    ttls_s = tuple(machine.leases.keep_alive(lease, machine.clock_ms) for lease in command.leases)
    return KeepAliveResult(machine.shard.state.revision, ttls_s)


def revoke(machine: ShardMachine, command: LeaseRevoke) -> LeaseResult:
    if command.lease not in machine.leases:
        raise lease_missing(command.lease)
    _end_lease(machine, command.lease)
    return LeaseResult(machine.shard.state.revision, command.lease, 0)


def _end_lease(machine: ShardMachine, lease: int) -> None:
    machine.in_scope(lambda operations: _delete_attached(machine, operations, lease))
    if machine.shard.view.segments.own.end is None:
        machine.leases.remove(lease)
    else:
        machine.leases.remove_everywhere(lease)


def _delete_attached(machine: ShardMachine, operations: Operations, lease: int) -> None:
    for key in machine.lease_keys(lease):
        operations.delete(Delete(key))


# --- what is over ----------------------------------------------------------------------------


def expire(machine: ShardMachine, command: Expire) -> ExpireResult:
    """Each lease is one revision, as in etcd; the keys with a TTL of their own are another."""
    leases, clock_ms = machine.leases, machine.clock_ms
    over = [lease for lease in command.leases if leases.is_over(lease, clock_ms)]
    ended = list(dict.fromkeys(over))
    for lease in ended:
        _end_lease(machine, lease)
    keys = _expire_keys(machine, sorted(set(command.keys)))
    return ExpireResult(machine.shard.state.revision, len(ended), keys)


def _expire_keys(machine: ShardMachine, keys: list[bytes]) -> int:
    """Those still bound to their TTL are deleted; what others left of theirs is removed."""
    over: list[bytes] = []
    bound: list[Delete] = []
    for key in keys:
        ttl = machine.ttls.get(key)
        if ttl is None or ttl.deadline_ms > machine.clock_ms:
            continue
        over.append(key)
        record = machine.shard.view.get(key)
        if record is not None and record.mod_revision == ttl.mod_revision:
            bound.append(Delete(key))
    machine.in_scope(lambda operations: [operations.delete(each) for each in bound])
    for key in over:
        machine.ttls.remove(key)
    return len(bound)


# --- leases of another shard -----------------------------------------------------------------


def end_leases(machine: ShardMachine, command: LeaseEnd) -> LeaseEndResult:
    own, state = machine.shard.view.segments.own, machine.shard.state
    keys = 0
    for lease in command.leases:
        if lease not in machine.leases:  # at home, it may have been granted again
            attached = len(machine.lease_keys(lease))
            machine.in_scope(partial(_delete_attached, machine, lease=lease))
            keys += attached
    machine.leases.epoch = max(machine.leases.epoch, command.epoch)
    return LeaseEndResult(state.revision, keys, own.start, own.end)


def forget_leases(machine: ShardMachine, command: LeaseForget) -> KeepAliveResult:
    for lease in command.leases:
        machine.leases.forget(lease)
    return KeepAliveResult(machine.shard.state.revision, ())


def under_lease(machine: ShardMachine, command: UnderLease) -> Result:
    if machine.is_home:
        return machine.execute(command.command)
    if command.epoch < machine.leases.epoch:
        raise LeaseFencedError(
            f"the leases were looked at in epoch {command.epoch}, and some have ended by epoch "
            f"{machine.leases.epoch}; look again, and try again"
        )
    machine.trusting = True
    try:
        return machine.execute(command.command)
    finally:
        machine.trusting = False
