"""A bank over shards, in the simulator: tellers move money between accounts that lie in different
shards, and auditors read all of them at once, while shards split and merge and everything fails.

The coordinator is the production one (kv/strong/crossing.py); a teller drives its steps, stands
outside like every client, and sometimes dies in the middle of one: then others clear what it has
locked. Judged are: transfers and audits strictly serializable (checkers/serializable.py), the sum
in each audit and at the end, nobody's money moved twice, no locks left in the calm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from chaos.checkers.serializable import Transaction, check_serializable
from chaos.checkers.violation import Violation
from kv.errors import OutcomeUnknownError, UnavailableError
from kv.router import scope_of
from kv.strong.crossing import Answers, Crossing, Look, Pause, Steps, clear
from raftgroups.commands import (
    BatchWrite,
    Command,
    Decide,
    Increment,
    Prepare,
    Range,
    Token,
    Txn,
    encode,
)
from raftgroups.levels import TXN_LEVEL
from raftgroups.meta.records import ShardRecord
from raftgroups.meta.view import ShardTable
from raftgroups.outcomes import Applied, ProposeResult, Refused
from raftgroups.results import BatchResult, CrossResult, Failure, RangeAnswer, TxnResult, error_of
from raftgroups.twophase import YOUNGEST
from raftgroups.txnref import TxnRef
from storage.errors import JanusError, Outcome, WrongShardError

if TYPE_CHECKING:
    from chaos.sim.shard_node import ShardCluster, ShardNode

ACCOUNTS: Final = tuple(b"%c9" % letter for letter in b"bfjnrvz")
TELLERS: Final = 5
WIRE_S: Final = (0.0001, 0.003)
THINK_S: Final = 0.03
UNKNOWN_MAX: Final = 14
"""More of them could explain nearly anything."""
DEATH_P: Final = 0.05
"""Of a teller's coordinator, a transaction."""


class Bank:
    def __init__(self, cluster: ShardCluster) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.done: dict[int, list[Transaction]] = {each: [] for each in cluster.keyspaces}
        self.moved: dict[int, list[BatchWrite]] = {each: [] for each in cluster.keyspaces}
        self.unknown: dict[int, list[BatchWrite]] = {each: [] for each in cluster.keyspaces}
        self.results: Counter[str] = Counter()
        self.wrong: list[Violation] = []
        self.stopped = False
        self.under_way = 0
        self.tellers = [Teller(self, n) for n in range(TELLERS)]

    def start(self) -> None:
        for teller in self.tellers:
            teller.pause()

    def stop(self) -> None:
        self.stopped = True

    # --- the map, as somebody outside sees it ---------------------------------------------------

    def table(self, keyspace: int) -> ShardTable:
        """By where shards begin on any replica: whoever asks for too much is refused."""
        starts: dict[bytes, tuple[int, int]] = {}
        for node in self.cluster.shard_nodes:
            for group_id, _ in node.groups():
                shard = node.shard(group_id)
                if shard is None or shard.shard.state.keyspace != keyspace or shard.frozen:
                    continue
                if group_id not in self.cluster.gone:
                    place = shard.view.place
                    found = (place.epoch, group_id)
                    starts[place.start] = max(found, starts.get(place.start, found))
        if b"" not in starts:
            raise UnavailableError("nothing was done: no shard is known")
        order = sorted(starts)
        return ShardTable(
            [
                ShardRecord(starts[start][1], keyspace, start, end, 1)
                for start, end in zip(order, [*order[1:], None], strict=True)
            ]
        )

    def clear(self) -> bool:
        """In the calm: whether no leader holds a lock any more; else somebody looks after it."""
        held = self.locks()
        for keyspace, start, txn in held:
            if self.under_way < TELLERS:
                steps = clear(txn, start, YOUNGEST)
                Drive(self, keyspace, steps, self.world.now + 2.0, lambda _: None)
        return not held and not self.under_way

    def locks(self) -> list[tuple[int, bytes, TxnRef]]:
        found = []
        for group_id in self.cluster.groups:
            leader = self.cluster.admin.leader(group_id)
            shard = None if leader is None else leader[0].shard(group_id)  # type: ignore[attr-defined]
            if shard is None:
                continue
            start, keyspace = shard.view.place.start, shard.shard.state.keyspace
            refs = {part.txn for part in shard.intents.parts.values()}
            refs |= {record.txn for record in shard.intents.records.values()}
            found += [(keyspace, start, txn) for txn in sorted(refs, key=lambda txn: txn.age)]
        return found

    # --- the verdict ----------------------------------------------------------------------------

    def judge(self) -> list[Violation]:
        found = list(self.wrong)
        for transactions in self.done.values():
            found += check_serializable(transactions)
        for group_id in self.cluster.groups:
            for node in self.cluster.shard_nodes:
                shard = node.shard(group_id)
                if (
                    shard is not None
                    and shard.intents
                    and node.label in self.cluster.members(group_id)
                ):
                    found.append(Violation("locks", f"{node.label} g{group_id} holds locks"))
        for keyspace in self.cluster.keyspaces:
            balances = [self._balance(keyspace, account) for account in ACCOUNTS]
            if sum(balances):
                found.append(Violation("bank", f"keyspace {keyspace}: the sum became {balances}"))
            found += self._explained(keyspace, balances)
        return found

    def _explained(self, keyspace: int, held: list[int]) -> list[Violation]:
        """By every transfer that was done, and some of those of which it is not known."""
        rest = dict(zip(ACCOUNTS, held, strict=True))
        for transfer in self.moved[keyspace]:
            for each in transfer.operations:
                assert isinstance(each, Increment)
                rest[each.key] -= each.delta
        unknown = self.unknown[keyspace]
        if len(unknown) > UNKNOWN_MAX:
            return []
        left = {tuple(rest.values())}
        for transfer in unknown:
            left |= {_without(transfer, balances) for balances in left}
        if (0,) * len(ACCOUNTS) in left:
            return []
        what = f"keyspace {keyspace}: no part of {len(unknown)} unknown transfers explains {rest}"
        return [Violation("bank", what)]

    def _balance(self, keyspace: int, account: bytes) -> int:
        for _, group_id in reversed(self.cluster.places(keyspace, account)):
            leader = self.cluster.admin.leader(group_id)
            if leader is not None:
                record = leader[0].shard(group_id).view.get(account)  # type: ignore[attr-defined]
                return 0 if record is None else int(record.value)
        raise AssertionError("a shard at rest has no leader")


def _without(transfer: BatchWrite, balances: tuple[int, ...]) -> tuple[int, ...]:
    changed = dict(zip(ACCOUNTS, balances, strict=True))
    for each in transfer.operations:
        assert isinstance(each, Increment)
        changed[each.key] -= each.delta
    return tuple(changed.values())


class Teller:
    """A client and its coordinator. It is crossing.py's Ground."""

    def __init__(self, bank: Bank, number: int) -> None:
        self.bank = bank
        self.world = bank.world
        self.name = f"t{number}"
        self.client = b"coordinator-%d" % number
        self.rng = bank.world.rng(f"teller/{self.name}")
        self.count = 0
        self.keyspace = 0
        self.deadline_s = 0.0
        self._number = 0
        self._open: dict[int, None] = {}

    def pause(self) -> None:
        self.world.after(self.rng.expovariate(1.0 / THINK_S), self._act)

    # --- Ground ---------------------------------------------------------------------------------

    def table(self) -> ShardTable:
        return self.bank.table(self.keyspace)

    def number(self) -> int:
        self._number += 1
        self._open[self._number] = None
        return self._number

    def over(self, number: int) -> None:
        self._open.pop(number, None)

    def wall_ms(self) -> int:
        return int(self.world.now * 1000)

    def left_ms(self) -> int:
        return int((self.deadline_s - self.world.now) * 1000)

    def token(self) -> Token:
        number = self.number()
        return Token(self.client, number, next(iter(self._open)))

    # --- one transaction ------------------------------------------------------------------------

    def _act(self) -> None:
        if self.bank.stopped:
            return
        rng = self.rng
        self.count += 1
        self.keyspace = rng.choice(self.bank.cluster.keyspaces)
        self.deadline_s = self.world.now + rng.choice((1.0, 3.0, 6.0))
        self._run(self._compose(), rng.choice((1, 1, 2)), self.world.now)

    def _compose(self) -> Txn | BatchWrite:
        if self.rng.random() < 0.3:
            ranged = self.rng.random() < 0.5
            return Txn((), tuple(Range(key, key + b"0" if ranged else b"") for key in ACCOUNTS))
        giver, taker = self.rng.sample(ACCOUNTS, 2)
        amount = self.rng.randrange(1, 9)
        return BatchWrite((Increment(giver, -amount), Increment(taker, amount)))

    def _run(
        self, command: Txn | BatchWrite, tries: int, began: float, *, unsure: bool = False
    ) -> None:
        """`unsure`: an earlier try may have done it."""
        token = Token(self.name.encode(), self.count) if isinstance(command, BatchWrite) else None
        crossing = Crossing(command, token, self)

        def ended(answer: Any) -> None:
            if crossing.after is not None:
                self._drive(crossing.after, lambda _: None)
            lost = isinstance(answer, JanusError) and answer.outcome is Outcome.UNKNOWN
            if lost and tries > 1:
                self.deadline_s = self.world.now + 3.0
                self._run(command, tries - 1, began, unsure=True)
                return
            if unsure and not isinstance(answer, CrossResult):
                answer = OutcomeUnknownError("an earlier try was lost")
            self._note(command, began, answer)
            self.pause()

        drive = self._drive(crossing.run(), ended)
        if self.rng.random() < DEATH_P:
            self.world.after(self.rng.uniform(0.0, 0.05), drive.die)

    def _drive(self, steps: Steps[Any], done: Callable[[Any], None]) -> Drive:
        return Drive(self.bank, self.keyspace, steps, self.deadline_s, done, self)

    def _note(self, command: Txn | BatchWrite, began: float, answer: Any) -> None:
        bank = self.bank
        kind = "transfer" if isinstance(command, BatchWrite) else "audit"
        if not isinstance(answer, CrossResult):
            bank.results[f"{kind} {getattr(answer, 'code', 'died')}"] += 1
            none = isinstance(answer, JanusError) and answer.outcome is Outcome.NONE
            if isinstance(command, BatchWrite) and not none:
                bank.unknown[self.keyspace].append(command)
            return
        bank.results[f"{kind} done"] += 1
        made = Transaction(f"{self.name}.{self.count}", began, self.world.now)
        result = answer.result
        if isinstance(command, BatchWrite):
            assert isinstance(result, BatchResult)
            bank.moved[self.keyspace].append(command)
            for operation, each in zip(command.operations, result.results, strict=True):
                made.writes[operation.key.decode()] = each.revision
        else:
            assert isinstance(result, TxnResult)
            total = 0
            for account, found in zip(ACCOUNTS, result.responses, strict=True):
                assert isinstance(found, RangeAnswer)
                items = found.items
                made.reads[account.decode()] = items[0].mod_revision if items else 0
                total += int(items[0].value) if items else 0
            if total:
                what = f"an audit of keyspace {self.keyspace} found {total}"
                bank.wrong.append(Violation("bank", what, (str(made),)))
        bank.done[self.keyspace].append(made)


class Drive:
    """Steps under way, asked of the simulated nodes."""

    def __init__(
        self,
        bank: Bank,
        keyspace: int,
        steps: Steps[Any],
        deadline_s: float,
        done: Callable[[Any], None],
        teller: Teller | None = None,
    ) -> None:
        self.bank = bank
        self.world = bank.world
        self.keyspace = keyspace
        self.deadline_s = deadline_s
        self.teller = teller
        self.rng = bank.world.rng(f"drive/{bank.results.total()}/{bank.world.now}")
        self.over = False
        self._steps = steps
        self._done = done
        self._answers: dict[int, Any] = {}
        self._wanted = 0
        bank.under_way += 1
        self._go_on(None)

    def die(self) -> None:
        """Nothing of it happens any more, and nobody tells anybody."""
        if not self.over:
            self.world.trace("bank: a coordinator dies")
            self._steps.close()
            self._end(None)

    def _end(self, answer: Any) -> None:
        self.over = True
        self.bank.under_way -= 1
        self._done(answer)

    def _go_on(self, answers: Answers | None) -> None:
        if self.over:
            return
        try:
            wanted = next(self._steps) if answers is None else self._steps.send(answers)
        except StopIteration as stop:
            self._end(stop.value)
            return
        if isinstance(wanted, Pause | Look):
            seconds = wanted.seconds if isinstance(wanted, Pause) else 0.02
            self.world.after(seconds, self._go_on, [])
            return
        self._answers, self._wanted = {}, len(wanted)
        for place, command in enumerate(wanted):
            Ask(self, place, command)

    def answered(self, place: int, answer: Any) -> None:
        self._answers[place] = answer
        if len(self._answers) == self._wanted:
            self._go_on([self._answers[each] for each in range(self._wanted)])


class Ask:
    """One command, asked again until it is answered or the deadline passes."""

    def __init__(self, drive: Drive, place: int, command: Command) -> None:
        self.drive = drive
        self.place = place
        self.command = command
        self.key = scope_of(command)[0]
        tokened = isinstance(command, Prepare | Decide) and drive.teller is not None
        self.token = drive.teller.token() if tokened and drive.teller is not None else None
        grace_s = 0.0 if isinstance(command, Prepare) else 1.0
        self.deadline_s = max(drive.deadline_s, drive.world.now + grace_s)
        self.attempt = 0
        self.unsure = False
        self.over = False
        self.leaders: dict[int, Any] = {}
        self._try()

    def _try(self) -> None:
        drive, rng = self.drive, self.drive.rng
        world = drive.world
        if self.over or drive.over:
            return
        if world.now > self.deadline_s:
            kind = OutcomeUnknownError if self.unsure else UnavailableError
            self._answer(kind("no answer in time"))
            return
        self.attempt += 1
        places = drive.bank.cluster.places(drive.keyspace, self.key)
        nodes = [node for node in drive.bank.cluster.shard_nodes if node.running]
        world.after(rng.choice((0.2, 0.5)), self._impatient, self.attempt)
        if not places or not nodes:
            return
        _, group_id = places[-1] if rng.random() < 0.9 else rng.choice(places)
        believed = self.leaders.get(group_id)
        node = next((each for each in nodes if each.node_id == believed), None)
        if node is None or rng.random() < 0.1:
            node = rng.choice(nodes)
        delay_s = rng.uniform(*WIRE_S)
        world.after(delay_s, self._ask, node, group_id, owner=node.process, frame=True)

    def _impatient(self, attempt: int) -> None:
        if attempt == self.attempt:
            self._try()

    def _ask(self, node: ShardNode, group_id: int) -> None:
        assert node.host is not None, "a dead node is asked"
        group = node.host.groups.get(group_id)
        if self.over or group is None or group.feature_level < TXN_LEVEL:
            self._later(self._again)
            return
        self.unsure = True
        payload = node.stamped(group_id, encode(self.command, self.token))
        group.propose(payload, lambda result: self._later(self._proposed, group_id, result))

    def _later(self, step: Any, *args: object) -> None:
        self.drive.world.after(self.drive.rng.uniform(*WIRE_S), step, *args)

    def _again(self) -> None:
        self.drive.world.after(self.drive.rng.uniform(0.01, 0.05), self._impatient, self.attempt)

    def _proposed(self, group_id: int, result: ProposeResult) -> None:
        if isinstance(result, Applied):
            answer: Any = result.result
            if isinstance(answer, Failure):
                answer = error_of(answer)
            if isinstance(answer, WrongShardError):
                self._again()
            else:
                self._answer(answer)
            return
        if isinstance(result, Refused):
            self.leaders[group_id] = result.leader
        self._again()

    def _answer(self, answer: Any) -> None:
        if self.over:
            return
        self.over = True
        if self.token is not None and self.drive.teller is not None:
            self.drive.teller.over(self.token.sequence)
        self.drive.answered(self.place, answer)
