"""What is refused before it enters a log, and whether a node may take a write now."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kv.errors import OverloadedError
from kv.strong.admission import check, purpose_of
from kv.strong.gate import Gate
from raftgroups.commands import (
    BatchWrite,
    Cas,
    Command,
    Compact,
    Delete,
    Expire,
    Increment,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseRevoke,
    Put,
    Range,
    SetTtl,
    Tick,
    Txn,
)
from raftgroups.refusals import DuplicateKeyError
from storage.engine import EngineStatistics, WritePressure
from storage.errors import EmptyKeyError, KeyTooLongError, NoSpaceError, ValueTooLargeError
from storage.space import Purpose, SpaceGuard

PUT = Put(b"k", b"v")
STATISTICS = EngineStatistics(
    engine="memory", keys=0, keys_exact=True, disk_bytes=0, live_bytes=0, reusable_bytes=0,
    disk_free_bytes=10_000, batches=0, put_bytes=0, open_snapshots=0, oldest_snapshot_age_s=0.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("command", "purpose"),
    [
        (PUT, Purpose.GROW),
        (Increment(b"k"), Purpose.GROW),
        (Cas(b"k", b"v"), Purpose.GROW),
        (Cas(b"k", None), Purpose.FREE),
        (LeaseGrant(1, 10), Purpose.GROW),
        (Delete(b"k"), Purpose.FREE),
        (LeaseRevoke(1), Purpose.FREE),
        (Compact(5), Purpose.FREE),
        (Expire((1,)), Purpose.FREE),
        (LeaseKeepAlive((1,)), Purpose.REPAIR),
        (Tick(), Purpose.REPAIR),
        (SetTtl(b"k", 5), Purpose.REPAIR),
        (BatchWrite((Delete(b"a"), Cas(b"b", None))), Purpose.FREE),
        (BatchWrite((Delete(b"a"), PUT)), Purpose.GROW),
        (Txn(then=(Delete(b"a"), Range(b"b"))), Purpose.FREE),
        (Txn(then=(Delete(b"a"),), otherwise=(PUT,)), Purpose.GROW),
        (Txn(then=(Txn(then=(PUT,)),)), Purpose.GROW),
        (Txn(then=(Txn(then=(Delete(b"a"),)),)), Purpose.FREE),
    ],
)
def test_the_purpose_of_every_command(command: Command, purpose: Purpose) -> None:
    assert purpose_of(command) is purpose


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (Put(b"", b"v"), EmptyKeyError),
        (Put(b"k" * 433, b"v"), KeyTooLongError),
        (Put(b"k", bytes(1024 * 1024 + 1)), ValueTooLargeError),
        (Cas(b"", b"v"), EmptyKeyError),
        (Cas(b"k", bytes(1024 * 1024 + 1)), ValueTooLargeError),
        (Increment(b""), EmptyKeyError),
        (SetTtl(b"k" * 433, 1), KeyTooLongError),
        (Txn(then=(PUT, PUT)), DuplicateKeyError),
    ],
)
def test_what_no_state_can_make_right_never_enters_a_log(
    command: Command, error: type[Exception]
) -> None:
    with pytest.raises(error):
        check(command)


def test_a_deletion_by_cas_has_no_value_to_check() -> None:
    check(Cas(b"k", None))


def test_growth_is_refused_while_this_disk_or_another_is_nearly_full() -> None:
    gate = Gate(SpaceGuard(1_000))
    gate.admit(PUT, 10)
    gate.full_peers = ["n2"]
    with pytest.raises(NoSpaceError, match="n2"):
        gate.admit(PUT, 10)
    gate.admit(Delete(b"k"), 10)
    gate.full_peers = []
    gate.admit(PUT, 10)
    guard = SpaceGuard(1_000)
    gate = Gate(guard)
    guard.observe(replace(STATISTICS, disk_free_bytes=500))
    with pytest.raises(NoSpaceError):
        gate.admit(PUT, 10)
    gate.admit(Delete(b"k"), 10)


def test_nothing_is_taken_while_the_engine_takes_no_writes() -> None:
    pressure = WritePressure.STOPPED
    gate = Gate(SpaceGuard(1_000), pressure=lambda: pressure)
    for command in (PUT, Delete(b"k")):
        with pytest.raises(OverloadedError):
            gate.admit(command, 10)
    pressure = WritePressure.SLOWDOWN
    gate.admit(PUT, 10)
