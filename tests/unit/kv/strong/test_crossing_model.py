"""Many coordinators at once, in any order of steps, with lost replies, dead coordinators, retries,
splits, merges and restarts: what they answer is what one dictionary answers, each transaction at
the moment of its Decide, each single command at that of its entry."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import example, given, seed, settings
from hypothesis import strategies as st

from kv.strong.crossing import clear, vouch
from raftgroups.commands import (
    TO_THE_END,
    BatchWrite,
    Command,
    Compare,
    CompareTarget,
    Comparison,
    Decide,
    Delete,
    Increment,
    Put,
    Range,
    Token,
    Txn,
)
from raftgroups.ranges import bounds
from raftgroups.refusals import LockedError
from raftgroups.results import CrossResult, DecideResult, DeleteResult, IncrementResult, RangeAnswer
from raftgroups.twophase import YOUNGEST
from storage.errors import JanusError, Outcome
from tests.unit.kv.strong.crossing_world import Drive, Ground, World, crossing

KEYS = [b"%c%d" % (letter, digit) for letter in b"bcdiklqrs" for digit in range(2)]


class Model:
    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}

    def _keys(self, key: bytes, range_end: bytes) -> list[bytes]:
        start, end = bounds(key, range_end)
        return sorted(k for k in self.data if k >= start and (end is None or k < end))

    def _holds(self, compare: Compare) -> bool:
        found = self._keys(compare.key, compare.range_end)
        if compare.target == CompareTarget.VALUE:
            return bool(found) and all(self.data[key] == compare.operand for key in found)
        return not found if compare.result == Comparison.EQUAL else bool(found)

    def execute(self, operation: Any) -> Any:
        if isinstance(operation, Put):
            self.data[operation.key] = operation.value
            return None
        if isinstance(operation, Increment):
            value = int(self.data.get(operation.key, b"0")) + operation.delta
            self.data[operation.key] = b"%d" % value
            return value
        found = self._keys(operation.key, operation.range_end)
        if isinstance(operation, Delete):
            for key in found:
                del self.data[key]
            return len(found)
        return [(key, self.data[key]) for key in found]

    def run(self, command: Txn | BatchWrite) -> tuple[bool, list[Any]]:
        if isinstance(command, BatchWrite):
            return True, [self.execute(each) for each in command.operations]
        taken = all(self._holds(compare) for compare in command.compares)
        branch = command.then if taken else command.otherwise
        return taken, [self.execute(each) for each in branch]


def shown(response: Any) -> Any:
    if isinstance(response, DeleteResult):
        return response.deleted
    if isinstance(response, IncrementResult):
        return response.value
    if isinstance(response, RangeAnswer):
        return [(item.key, item.value) for item in response.items]
    return None


def answered(answer: CrossResult) -> tuple[bool, list[Any]]:
    result = answer.result
    if hasattr(result, "responses"):
        return result.succeeded, [shown(each) for each in result.responses]
    assert result.failed == -1
    return True, [shown(each) for each in result.results]


class Run:
    def __init__(self, number: int) -> None:
        self.rng = Random(number)
        self.world = World(b"h", b"p")
        self.model = Model()
        self.drives: list[Drive] = []
        self.commands: dict[bytes, Txn | BatchWrite] = {}
        self.tokens: dict[bytes, Token] = {}
        self.expected: dict[bytes, Any] = {}
        self.done_tokens: set[Token] = set()
        self.clients = 0
        self.answered = 0
        self.world.on_applied = self.applied

    # --- what happened ---

    def applied(self, command: Command, result: Any) -> None:
        if isinstance(command, Decide) and isinstance(result, DecideResult) and result.committed:
            client = command.txn.client
            if client in self.expected:
                return
            self.expected[client] = self.model.run(self.commands[client])
            token = self.tokens.get(client)
            if token is not None:
                assert token not in self.done_tokens, "done twice"
                self.done_tokens.add(token)

    def ended(self, client: bytes, answer: Any) -> None:
        if isinstance(answer, CrossResult):
            self.answered += 1
            token = self.tokens.get(client)
            if client in self.expected:
                assert answered(answer) == self.expected[client], self.commands[client]
            else:
                assert token in self.done_tokens, "answered, and never decided"
        elif isinstance(answer, JanusError) and answer.outcome is Outcome.NONE:
            assert client not in self.expected, answer

    # --- what to do ---

    def operation(self, writes: bool) -> Any:
        rng = self.rng
        key, other = rng.choice(KEYS), rng.choice([*KEYS, TO_THE_END])
        kind = rng.randrange(6) if writes else 5
        if kind < 2:
            return Increment(key, rng.randrange(5))
        if kind == 2:
            return Put(key, b"%d" % rng.randrange(9))
        if kind == 3:
            return Delete(key, rng.choice([b"", b"", other]))
        return Range(key, rng.choice([b"", other]))

    def command(self) -> Txn | BatchWrite:
        rng = self.rng
        if rng.random() < 0.5:
            keys = rng.sample(KEYS, 2)
            return BatchWrite((Increment(keys[0], -1), Increment(keys[1], 1)))
        compares = tuple(
            Compare(
                rng.choice(KEYS),
                rng.choice([b"", rng.choice(KEYS)]),
                CompareTarget.CREATE,
                rng.choice([Comparison.EQUAL, Comparison.NOT_EQUAL]),
                0,
            )
            for _ in range(rng.randrange(3))
        )
        writes = rng.random() < 0.7
        branches = [self.branch(writes), self.branch(writes)]
        return Txn(compares, *branches)

    def branch(self, writes: bool) -> tuple[Any, ...]:
        """As REST has it: no increments, and a key is written once."""
        puts = {key: Put(key, b"5") for key in self.rng.sample(KEYS, 2)} if writes else {}
        reads = [Range(key) for key in self.rng.sample(KEYS, 2)]
        gone = self.rng.choice(KEYS)
        deletes = [Delete(gone)] if writes and gone not in puts else []
        return (*puts.values(), *deletes, *reads, Range(b"\x00", TO_THE_END))

    def begin(self, command: Txn | BatchWrite | None = None, token: Token | None = None) -> None:
        self.clients += 1
        client = b"c%06d" % self.clients
        command = command or self.command()
        if token is None and self.rng.random() < 0.3:
            token = Token(b"user", self.clients)
        self.commands[client] = command
        if token is not None:
            self.tokens[client] = token
        ground = Ground(self.world, client, self.world.clock_ms + 5_000)
        made = crossing(ground, command, token)
        drive = Drive(ground, made.run())
        drive.lose = lambda: self.rng.random() < 0.1

        def done(answer: Any) -> None:
            self.ended(client, answer)
            if made.after is not None:
                self.drives.append(Drive(ground, made.after))

        drive.done = done
        if drive.ended:
            done(drive.answer)
        else:
            self.drives.append(drive)

    def single(self) -> None:
        operation = self.operation(True)
        command: Any = Txn((), (operation,)) if isinstance(operation, Range) else operation
        result = self.world.do(command)
        if isinstance(result, LockedError):
            holder = self.rng.choice(result.holders)
            ground = Ground(self.world, b"settler")
            self.drives.append(Drive(ground, clear(holder, operation.key, YOUNGEST)))
        elif not isinstance(result, JanusError):
            expected = self.model.execute(operation)
            found = result.responses[0] if isinstance(operation, Range) else result
            assert shown(found) == expected

    def read(self) -> None:
        key = self.rng.choice(KEYS)
        machine = self.world.machines[self.world.table().of_key(key).shard]
        met = machine.intents.written_in((key, key + b"\x00"))
        seen, expected = self.world.value(key), self.model.data.get(key)
        if not met:
            assert seen == expected
            return
        drive = Drive(Ground(self.world, b"reader"), vouch(met, key))

        def done(good: bool) -> None:
            assert not good or seen == expected

        drive.done = done
        self.drives.append(drive)

    def step(self) -> None:
        rng = self.rng
        chance = rng.random()
        if chance < 0.10 and len(self.drives) < 8:
            self.begin()
        elif chance < 0.16:
            self.single()
        elif chance < 0.20:
            self.read()
        elif chance < 0.22 and self.drives:
            self.die()
        elif chance < 0.23:
            self.world.split(rng.choice(KEYS) + b"!")
        elif chance < 0.24:
            self.world.merge(rng.choice(list(self.world.machines)))
        elif chance < 0.25:
            self.world.reopen()
        elif chance < 0.30:
            self.world.clock_ms += rng.choice([1, 10, 1_000])
        elif self.drives:
            drive = rng.choice(self.drives)
            drive.step(rng.randrange(8))
            if drive.ended:
                self.drives.remove(drive)

    def die(self) -> None:
        """A coordinator is heard of no more; perhaps its client asks another one."""
        drive = self.rng.choice(self.drives)
        self.drives.remove(drive)
        token = self.tokens.get(drive.ground.client)
        if token is not None:
            self.begin(self.commands[drive.ground.client], token)

    def finish(self) -> None:
        for drive in self.drives:
            drive.lose = lambda: False
        waiting = list(self.drives)
        for _ in range(20_000):
            self.world.clock_ms += 5
            waiting = [drive for drive in (*waiting, *self.drives) if not drive.ended]
            self.drives = []
            if not waiting:
                break
            self.rng.choice(waiting).step()
        assert not waiting
        self.world.clock_ms += 60_000
        for _ in range(3):
            for machine in list(self.world.machines.values()):
                own = machine.shard.view.segments.own
                refs = {part.txn for part in machine.intents.parts.values()}
                refs |= {record.txn for record in machine.intents.records.values()}
                for txn in sorted(refs, key=lambda txn: txn.age):
                    Drive(Ground(self.world, b"last"), clear(txn, own.start, YOUNGEST)).run()
        assert not self.world.locked
        for key in KEYS:
            assert self.world.value(key) == self.model.data.get(key)


@example(16)  # the anchor's shard was split between Prepare and Decide
@given(st.integers(0, 2**32))
@settings(max_examples=12, deadline=None)
def test_they_answer_as_one_dictionary_would(number: int) -> None:
    run = Run(number)
    for _ in range(400):
        run.step()
    run.finish()


@seed(1)
@given(st.integers(0, 2**32))
@settings(max_examples=3, deadline=None)
def test_and_they_do_answer(number: int) -> None:
    """The checks above are about something."""
    run = Run(number)
    for _ in range(600):
        run.step()
    run.finish()
    assert run.answered > 5
