"""Writes that other nodes forwarded to the leader of a shard: bytes of strangers until looked at.

    payloads --> all plain puts, and nothing against them? -- yes, nearly always --> proposed
                     | no
                     '--> each decoded, checked, admitted --> those that may be: proposed
                                                          '-> the others: told why not

Invariant: each asker is told exactly once, never from inside the call. A write that the machine
would refuse in this state (a frozen shard's) is refused here without an entry of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kv.errors import OverloadedError, UnavailableError
from kv.strong.admission import CROSS, LINEAGE, PLAIN_BYTES, check
from kv.strong.gate import Gate
from kv.strong.machine import ServedMachine
from raftgroups.commands import Command, Put, decode
from raftgroups.group import Group
from raftgroups.levels import LINEAGE_LEVEL, TXN_LEVEL
from raftgroups.outcomes import AppliedEach, DoneEach, EachResult, Refused
from raftgroups.putrun import plain_puts
from raftgroups.results import failure_of
from storage.clock import Scheduler
from storage.errors import InvalidRequestError, JanusError, NoSpaceError, WrongShardError


class ForwardedWrites:
    def __init__(
        self, group: Group, machine: ServedMachine, gate: Gate, scheduler: Scheduler
    ) -> None:
        self._group = group
        self._machine = machine
        self._gate = gate
        self._scheduler = scheduler

    def lead_each(self, payloads: Sequence[bytes], askers: Sequence[Any], done: DoneEach) -> None:
        """Propose them if this node leads, nothing else."""
        if not self._takes(payloads):
            payloads, askers = self._admitted(payloads, askers, done)
        if payloads:
            self._group.propose_each(payloads, askers, done)

    def _takes(self, payloads: Sequence[bytes]) -> bool:
        """Whether all are plain puts that nothing stands against, as nearly always; then they are
        admitted. Else each is looked at by itself."""
        if self._machine.shard.state.frozen_by:
            return False
        puts, _ = plain_puts(payloads)
        if len(puts) < len(payloads):
            return False
        for key, value, _, _ in puts:
            if not 0 < len(key) <= PLAIN_BYTES - len(value):
                return False
        return self._gate.takes(sum(map(len, payloads)))

    def _admitted(
        self, payloads: Sequence[bytes], askers: Sequence[Any], done: DoneEach
    ) -> tuple[list[bytes], list[Any]]:
        """Those that may be proposed; the others are answered."""
        admitted: tuple[list[bytes], list[Any]] = [], []
        for payload, asker in zip(payloads, askers, strict=True):
            refusal = self._refusal(payload)
            if refusal is None:
                admitted[0].append(payload)
                admitted[1].append(asker)
            else:
                self._scheduler.call_soon(done, (asker,), refusal)
        return admitted

    def _refusal(self, payload: bytes) -> EachResult | None:
        """Why this write of another node may not be proposed."""
        try:
            command = decode(payload)[0]
            if type(command) is not Put:
                self._check_known(command)
            check(command)
            self._gate.admit(command, len(payload))
            if self._machine.shard.state.frozen_by and not isinstance(command, LINEAGE):
                raise self._machine.view.wrong_shard("this is")
        except (InvalidRequestError, NoSpaceError, WrongShardError) as error:
            return AppliedEach(0, (failure_of(error, self._machine.revision),))
        except JanusError as error:
            return Refused(str(error), busy=isinstance(error, OverloadedError))
        return None

    def _check_known(self, command: Command) -> None:
        """Whether every member's program knows such commands. Raises UnavailableError."""
        if isinstance(command, LINEAGE) and self._group.feature_level < LINEAGE_LEVEL:
            raise UnavailableError(
                "not every node of this shard runs a version that can split and merge; upgrade "
                "them all"
            )
        if isinstance(command, CROSS) and self._group.feature_level < TXN_LEVEL:
            raise UnavailableError(
                "not every node of this shard runs a version that knows transactions over "
                "several shards; upgrade them all"
            )
