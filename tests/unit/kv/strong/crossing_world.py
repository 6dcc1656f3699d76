"""Several shards of a keyspace on one engine, driven by hand: what coordinators ask is applied as
entries, in an order that the test chooses; replies may be lost, shards split and merge between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kv.router import one_shard, scope_of
from kv.strong.crossing import Answers, Crossing, Look, Pause, Steps
from raftgroups.commands import (
    Absorb,
    BatchWrite,
    Command,
    Decide,
    Freeze,
    MergeBegin,
    Prepare,
    Split,
    Token,
    Txn,
    encode,
)
from raftgroups.lineage import Neighbour
from raftgroups.machine import ShardMachine
from raftgroups.machine_parts import ShardPlace
from raftgroups.meta.records import ShardRecord
from raftgroups.meta.view import ShardTable
from raftgroups.results import Failure, error_of
from storage.clock import ManualClock
from storage.engine import Batch
from storage.errors import JanusError, WrongShardError
from storage.latest import Latest
from storage.memory import MemoryEngine

KEYSPACE = 5


class World:
    def __init__(self, *cuts: bytes) -> None:
        self.engine = MemoryEngine()
        self.clock_ms = 1_000
        self.machines: dict[int, ShardMachine] = {}
        self.indexes: dict[int, int] = {}
        self._numbers = 100
        self.on_applied: Callable[[Command, Any], None] = lambda command, result: None
        bounds = [b"", *cuts, None]
        for place, start in enumerate(bounds[:-1]):
            shard = place + 1
            assert start is not None
            where = ShardPlace(shard, shard, KEYSPACE, shard, start, bounds[place + 1])
            self._open(shard, where)
        self.turn()

    def _open(self, shard: int, place: ShardPlace) -> ShardMachine:
        machine = ShardMachine(Latest(self.engine, ManualClock()), place)
        machine.restored(machine.shard.state.applied_index)
        machine.neighbours = self._neighbour
        self.machines[shard] = machine
        self.indexes[shard] = machine.shard.state.applied_index
        return machine

    def _neighbour(self, shard: int) -> Neighbour | None:
        machine = self.machines.get(shard)
        return None if machine is None else Neighbour(machine, self.indexes[shard])

    def turn(self) -> None:
        batch = Batch()
        for machine in self.machines.values():
            machine.prepare(batch)
        self.engine.write(batch, sync=True)
        for machine in self.machines.values():
            machine.after_commit()

    def reopen(self) -> None:
        """As after a restart: all from the rows."""
        self.turn()
        for shard in list(self.machines):
            self._open(shard, ShardPlace.stored(shard))

    # --- the log ---

    def apply(self, shard: int, command: Command, token: Token | None = None) -> Any:
        self.indexes[shard] += 1
        payload = encode(command, token, self.clock_ms, 0)
        result = self.machines[shard].apply(self.indexes[shard], payload)
        self.on_applied(command, result)
        return error_of(result) if isinstance(result, Failure) else result

    def table(self) -> ShardTable:
        records = []
        for shard, machine in self.machines.items():
            own = machine.shard.view.segments.own
            records.append(ShardRecord(shard, KEYSPACE, own.start, own.end, own.segment))
        return ShardTable(records)

    def do(self, command: Command, token: Token | None = None) -> Any:
        """A result, or the JanusError."""
        try:
            shard = one_shard(self.table(), scope_of(command), "").shard
        except JanusError as error:
            return error
        return self.apply(shard, command, token)

    def value(self, key: bytes) -> bytes | None:
        record = self.machines[self.table().of_key(key).shard].view.get(key)
        return None if record is None else record.value

    @property
    def locked(self) -> bool:
        return any(m.intents.parts or m.intents.records for m in self.machines.values())

    # --- splits and merges ---

    def split(self, key: bytes) -> bool:
        shard = self.table().of_key(key).shard
        self._numbers += 3
        right = self._numbers
        result = self.apply(shard, Split(key, right, right + 1, right + 2))
        if isinstance(result, JanusError):
            return False
        self.machines[shard].take_change()
        self.turn()
        self._open(right, ShardPlace.stored(right))
        return True

    def merge(self, left: int) -> bool:
        table = self.table()
        place = next(i for i, record in enumerate(table.shards) if record.shard == left)
        if place + 1 >= len(table.shards):
            return False
        right = table.shards[place + 1]
        attempt = self.apply(left, MergeBegin(right.shard)).merge
        frozen = self.apply(right.shard, Freeze(left, attempt)).index
        self.turn()
        self._numbers += 3
        absorb = Absorb(right.shard, attempt, frozen, self._numbers, KEYSPACE, right.start)
        result = self.apply(left, absorb)
        assert not isinstance(result, JanusError), result
        self.machines[left].take_change()
        del self.machines[right.shard], self.indexes[right.shard]
        self.turn()
        return True


@dataclass
class Ground:
    """One coordinator, for all that it drives."""

    world: World
    client: bytes
    deadline_ms: int = 10_000
    numbers: int = 0
    open: set[int] = field(default_factory=set)

    def table(self) -> ShardTable:
        return self.world.table()

    def number(self) -> int:
        self.numbers += 1
        self.open.add(self.numbers)
        return self.numbers

    def over(self, number: int) -> None:
        self.open.discard(number)

    def wall_ms(self) -> int:
        return self.world.clock_ms

    def left_ms(self) -> int:
        return self.deadline_ms - self.world.clock_ms

    def token(self) -> Token:
        number = self.number()
        return Token(self.client, number, min(self.open))


class Drive:
    """Steps under way: `step` applies one question of those that wait, or goes on."""

    def __init__(self, ground: Ground, steps: Steps[Any]) -> None:
        self.ground = ground
        self._steps = steps
        self.answer: Any = None
        self.ended = False
        self._wanted: tuple[Command, ...] = ()
        self._tokens: list[Token | None] = []
        self._answers: dict[int, Any] = {}
        self.lose: Callable[[], bool] = lambda: False
        """Whether the next reply is lost: asked again then, with the same token."""
        self.done: Callable[[Any], None] = lambda answer: None
        self._go_on(None)

    def _go_on(self, answers: Answers | None) -> None:
        try:
            wanted = next(self._steps) if answers is None else self._steps.send(answers)
        except StopIteration as stop:
            self.answer, self.ended = stop.value, True
            self.done(stop.value)
            return
        if isinstance(wanted, Pause | Look):
            self._wanted, self._answers = (), {}
            return
        self._wanted, self._answers = wanted, {}
        self._tokens = [
            self.ground.token() if isinstance(each, Prepare | Decide) else None for each in wanted
        ]

    def step(self, choice: int = 0) -> None:
        waiting = [place for place in range(len(self._wanted)) if place not in self._answers]
        if not waiting:
            self._go_on([])
            return
        place = waiting[choice % len(waiting)]
        token = self._tokens[place]
        answer = self.ground.world.do(self._wanted[place], token)
        if self.lose() or isinstance(answer, WrongShardError):
            return
        self._answers[place] = answer
        if token is not None:
            self.ground.over(token.sequence)
        if len(self._answers) == len(self._wanted):
            self._go_on([self._answers[each] for each in range(len(self._wanted))])

    def run(self, most: int = 10_000) -> Any:
        for _ in range(most):
            if self.ended:
                return self.answer
            self.step()
        raise AssertionError("it does not end")


def crossing(ground: Ground, command: Txn | BatchWrite, asked: Token | None = None) -> Crossing:
    return Crossing(command, asked, ground)


def run(ground: Ground, command: Txn | BatchWrite, asked: Token | None = None) -> Any:
    """From the beginning to the end, nobody in between."""
    made = crossing(ground, command, asked)
    answer = Drive(ground, made.run()).run()
    if made.after is not None:
        Drive(ground, made.after).run()
    return answer
