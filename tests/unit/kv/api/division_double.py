"""Operators' calls about keyspaces and shards over a map in memory: the real administration, wishes
and rules. What is begun is over at once, as `fate` says; time that is waited for passes at once."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

from msgspec.structs import replace

from kv.division.wishes import Wishes
from kv.division.words import MERGE, SPLIT
from kv.meta.keyspace_admin import KeyspaceAdmin
from raftgroups.meta.commands import (
    BeginOperation,
    Bootstrap,
    EndOperation,
    MetaAnswerBody,
    MetaCommand,
    NewShard,
    OperationMade,
)
from raftgroups.meta.records import KeyspaceOptions, OperationRecord, RingSeat, ShardRecord
from raftgroups.meta.view import even_ranges
from storage.clock import ManualClock

from .placement_double import MapDouble, record


class Fate(Enum):
    DONE = 1
    GIVEN_UP = 2
    GOES_ON = 3


class HastyClock(ManualClock):
    """Each look at it is one second later."""

    def monotonic(self) -> float:
        self.advance(1.0)
        return super().monotonic()


class DivisionDouble(MapDouble):
    """Nodes a, b, c; `default` has three shards there, and no other keyspace."""

    def __init__(self) -> None:
        super().__init__()
        self.fate = Fate.DONE
        self.first: list[MetaCommand] = []
        """What somebody else's call does just before the next one is decided."""
        self.serving = 3
        """Nodes of a new leaderless keyspace that serve it."""
        founders = tuple((f"id-{name}", 7) for name in "abc")
        nodes = tuple(record(name) for name in "abc")
        shards = tuple(NewShard(start, end, founders) for start, end in even_ranges(3))
        hosts = tuple(node for node, _ in founders)
        self.execute(Bootstrap(nodes, hosts, KeyspaceOptions(), shards, formed=True))
        wishes = Wishes(meta=self, view=lambda: self.view, why=self._why, clock=HastyClock())
        self.admin = KeyspaceAdmin(
            self,  # type: ignore[arg-type]
            wishes,
            lambda shard: "id-a" if shard == 1 else None,
            lambda: tuple(RingSeat(f"id-{name}", 16) for name in "abc"),
            self._served,
        )

    @property
    def map(self) -> DivisionDouble:
        return self

    async def propose(
        self, command: MetaCommand, deadline_s: float | None = None
    ) -> MetaAnswerBody:
        for other in self.first:
            self.execute(other)
        answer = await super().propose(command, deadline_s)
        if isinstance(command, BeginOperation) and self.fate is not Fate.GOES_ON:
            assert isinstance(answer, OperationMade)
            self._end(answer.record)
        return answer

    def begin(self, kind: str, step: str, *shards: int) -> None:
        """Something that is under way, and stays so."""
        wanted = OperationRecord(0, kind, step, shards, note="asked for")
        epochs = tuple(self.view.shards[shard].epoch for shard in shards)
        self.execute(BeginOperation(wanted, epochs, new_segments=1))

    def _end(self, made: OperationRecord) -> None:
        before = tuple(self.view.shards[shard] for shard in made.shards)
        ended: tuple[tuple[int, int], ...] = ()
        after: tuple[ShardRecord, ...] = ()
        if self.fate is Fate.DONE:
            ended = tuple((each.shard, each.epoch) for each in before)
            after = _halves(made, *before) if made.kind == SPLIT else _one(made, *before)
        self.execute(EndOperation(made.operation, made.step, ended, after))

    async def _why(self, operation: int) -> str:
        return "a node with a replica is away"

    async def _served(self, keyspace: int, nodes: Collection[str], enough: int) -> int:
        return min(self.serving, len(nodes))


def _halves(made: OperationRecord, whole: ShardRecord) -> tuple[ShardRecord, ...]:
    (right,), (left_segment, right_segment) = made.new_shards, made.new_segments
    return (
        replace(whole, end=made.key, segment=left_segment),
        replace(whole, shard=right, start=made.key, segment=right_segment, founders=(), formed=()),
    )


def _one(made: OperationRecord, left: ShardRecord, right: ShardRecord) -> tuple[ShardRecord, ...]:
    assert made.kind == MERGE
    return (replace(left, end=right.end, segment=made.new_segments[0]),)
