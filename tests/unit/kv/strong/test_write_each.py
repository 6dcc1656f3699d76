"""Several writes taken together by a shard are what each of them would be by itself."""

from __future__ import annotations

from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kv.division.meter import Meter
from kv.size_limits import SizeLimits
from kv.strong.gate import Gate
from kv.strong.machine import ServedMachine
from kv.strong.shard import ShardSettings, StrongShard
from raftgroups.commands import Command, Delete, Put
from raftgroups.machine_parts import ShardPlace
from raftgroups.outcomes import AppliedEach, DoneEach
from raftgroups.results import PutResult
from storage.codec import KEY_MAX_BYTES
from storage.errors import JanusError
from storage.latest import Latest
from storage.memory import MemoryEngine
from storage.space import SpaceGuard

RESERVE_BYTES = 1_000


class Rig:
    def __init__(self, loop: Any, sizes: SizeLimits) -> None:
        self.loop = loop
        self.proposed: list[tuple[bytes, Any]] = []
        self.answers: list[tuple[int, Any]] = []
        self.guard = SpaceGuard(RESERVE_BYTES)
        self.group = SimpleNamespace(
            group_id=1, leads=True, feature_level=2, on_turn=None, leader=None, readable=True
        )
        self.group.propose_each = self.propose
        self.shard = StrongShard(
            cast(Any, self.group),
            ServedMachine(Latest(MemoryEngine(), loop.clock), ShardPlace(1, 1, 3, 1)),
            cast(Any, self),
            scheduler=loop,
            clock=loop.clock,
            gate=Gate(self.guard),
            settings=ShardSettings(sizes=sizes),
            meter=Meter(Random(1)),
        )

    def propose(self, payloads: Any, askers: Any, done: DoneEach) -> None:
        self.proposed += [
            (each, partial(done, (it,))) for each, it in zip(payloads, askers, strict=True)
        ]

    def observe(self, left_bytes: int) -> None:
        statistics = SimpleNamespace(disk_free_bytes=left_bytes, reusable_bytes=0)
        self.guard.observe(cast(Any, statistics))

    def ask(self, commands: list[Command], *, together: bool) -> tuple[list[bytes], Any]:
        """What it proposes and answers."""
        self.proposed.clear()
        self.answers = []
        dones = [self._done(place) for place in range(len(commands))]
        if together:
            self.shard.write_each(commands, dones)
        else:
            for command, done in zip(commands, dones, strict=True):
                self.shard.write(command, done)
        assert not self.answers, "never from inside the call"
        for payload, told in self.proposed:
            told(AppliedEach(1, (PutResult(len(payload)),)))
        self.loop.run()
        return [payload for payload, _ in self.proposed], sorted(self.answers)

    def _done(self, place: int) -> Any:
        def done(answer: Any) -> None:
            shown = repr(answer) if isinstance(answer, JanusError) else str(answer)
            self.answers.append((place, shown))

        return done


PUTS: list[Command] = [Put(b"a", b"1"), Put(b"b", b"22"), Put(b"c", b"", lease=7)]
RUNS: dict[str, list[Command]] = {
    "puts": PUTS,
    "an empty key": [*PUTS, Put(b""), *PUTS],
    "a long key": [*PUTS, Put(b"k" * (KEY_MAX_BYTES + 1))],
    "a large value": [Put(b"k", bytes(70_000)), *PUTS],
    "a lease of too many bits": [Put(b"k", lease=1 << 70), *PUTS],
    "a delete": [PUTS[0], Delete(b"a"), PUTS[1]],
}


@pytest.mark.parametrize("sizes", [SizeLimits(), SizeLimits(key_bytes=1, value_bytes=1)])
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("left_bytes", [0, RESERVE_BYTES + 60, 10**9])
@pytest.mark.parametrize("full", [(), ("n2",)])
@pytest.mark.parametrize("stopped", [False, True])
def test_each_is_what_it_is_alone(
    loop: Any, run: list[Command], left_bytes: int, full: Any, stopped: bool, sizes: SizeLimits
) -> None:
    outcomes = []
    for together in (False, True):
        rig = Rig(loop, sizes)
        rig.observe(left_bytes)
        rig.shard._gate.full_peers = full
        rig.shard.waiting.stopped = stopped
        outcomes.append((rig.ask(run, together=together), rig.guard.available_bytes))
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0][0][1]) == len(run)
