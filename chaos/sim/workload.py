"""Clients: actors that read, write, compare-and-set and append, and write down what they saw.

Each client does one operation after the other, with a pause between. It asks any node, mostly the
one it believes to lead. Values are unique in the whole run, so that whoever sees one knows who
brought it. A client that waits too long gives up: the outcome is unknown, and the answer, if it
comes after all, is ignored. It goes on under a new name, since its old self may still be writing.

Requests and answers travel for a moment, and wait while the node is frozen; a node that is down
refuses the connection, so nothing was asked and nothing is recorded.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from chaos.history import History, Kind, Operation
from chaos.sim.machine import Action, Answer, Command
from chaos.sim.world import World
from raftgroups.outcomes import Applied, ProposeResult, ReadReady, ReadResult, Refused
from raftgroups.transport import NodeId

if TYPE_CHECKING:
    from chaos.sim.node import SimNode

WIRE_S: Final = (0.0001, 0.003)
LIST_PERIOD_S: Final = 5.0
"""A new list is begun this often, so that none grows long."""
ACTIONS: Final = {Kind.WRITE: Action.WRITE, Kind.CAS: Action.CAS, Kind.APPEND: Action.APPEND}


class Workload:
    """All clients of one run. Invariant: every operation asked is in `history`."""

    def __init__(
        self,
        world: World,
        nodes: Sequence[SimNode],
        groups: Sequence[int],
        *,
        clients: int,
        think_s: float,
        registers: int,
        lists: int,
        served: set[int],
    ) -> None:
        """`served` is told which groups have taken a write."""
        self.world = world
        self.nodes = nodes
        self.groups = groups
        self.think_s = think_s
        self.registers = registers
        self.lists = lists
        self.history = History()
        self.results: Counter[str] = Counter()
        self.stopped = False
        self.served = served
        self.leaders: dict[int, NodeId] = {}
        """What clients believe, shared: it is only a hint."""
        self._clients = [Client(self, f"c{number}") for number in range(clients)]

    def start(self) -> None:
        for client in self._clients:
            client.pause()

    def stop(self) -> None:
        """No further operation is begun; those under way may still be answered."""
        self.stopped = True

    def idle(self) -> bool:
        return all(client.waiting is None for client in self._clients)

    def node(self, node_id: NodeId) -> SimNode | None:
        return next((node for node in self.nodes if node.node_id == node_id), None)


class Client:
    def __init__(self, workload: Workload, name: str) -> None:
        self.workload = workload
        self.name = name
        self.rng = workload.world.rng(f"client/{name}")
        self.lives = 0
        self.count = 0
        self.waiting: Operation | None = None
        self._last_seen: dict[str, str | None] = {}

    def pause(self) -> None:
        delay = self.rng.expovariate(1.0 / self.workload.think_s)
        self.workload.world.after(delay, self._act)

    def _act(self) -> None:
        if self.workload.stopped:
            return
        group = self.rng.choice(self.workload.groups)
        node = self._choose_node(group)
        if node is None or not node.running:
            self.pause()
            return
        operation = self._compose(group, node.label)
        self.waiting = self.workload.history.invoke(operation)
        world = self.workload.world
        world.after(self.rng.choice((0.3, 1.0, 4.0)), self._give_up, operation)
        world.after(
            self.rng.uniform(*WIRE_S), self._ask, node, group, operation,
            owner=node.process, frame=True,
        )  # fmt: skip

    def _choose_node(self, group: int) -> SimNode | None:
        believed = self.workload.leaders.get(group)
        if believed is not None and self.rng.random() < 0.8:
            return self.workload.node(believed)
        return self.rng.choice(self.workload.nodes)

    def _compose(self, group: int, node: str) -> Operation:
        rng, now = self.rng, self.workload.world.now
        self.count += 1
        value = f"{self.name}.{self.count}"
        dice = rng.random()
        if dice < 0.3:
            number = rng.randrange(self.workload.lists)
            key = f"g{group}/list{number}-{int(now / LIST_PERIOD_S)}"
            kind = Kind.APPEND if dice < 0.18 else Kind.READ
            value += ","
        else:
            key = f"g{group}/reg{rng.randrange(self.workload.registers)}"
            kind = Kind.READ if dice < 0.65 else Kind.WRITE if dice < 0.85 else Kind.CAS
            value += "x" * rng.choice((0, 0, 0, 30, 200))
        operation = Operation(
            id=f"{self.name}.{self.count}",
            client=f"{self.name}/{self.lives}",
            node=node,
            key=key,
            kind=kind,
            invoked=now,
        )
        if kind is not Kind.READ:
            operation.value = value
        if kind is Kind.CAS:
            operation.expected = self._last_seen.get(key)
        return operation

    # --- the call, on the node's side ----------------------------------------------------------

    def _ask(self, node: SimNode, group_id: int, operation: Operation) -> None:
        assert node.host is not None, "a dead node is asked"
        group = node.host.groups.get(group_id)
        if group is None:
            self._answer_later(self._fail, operation, "no such group here", None, group_id)
        elif operation.kind is Kind.READ:
            group.read(lambda result: self._read(node, group_id, operation, result))
        else:
            assert operation.value is not None
            action = ACTIONS[operation.kind]
            command = Command(
                operation.id,
                action,
                operation.key,
                operation.value,
                operation.expected,
                group.feature_level,
            )
            group.propose(
                command.encode(), lambda result: self._proposed(group_id, operation, result)
            )

    def _read(self, node: SimNode, group_id: int, operation: Operation, result: ReadResult) -> None:
        if isinstance(result, ReadReady):
            machine = node.machines[group_id]
            value = machine.read(operation.key)
            self._answer_later(self._done, operation, Answer(True, value), None)
        else:
            self._answer_later(self._fail, operation, result.reason, result.leader, group_id)

    def _proposed(self, group_id: int, operation: Operation, result: ProposeResult) -> None:
        if isinstance(result, Applied):
            assert isinstance(result.result, Answer)
            self.workload.served.add(group_id)
            self._answer_later(self._done, operation, result.result, result.index)
        elif isinstance(result, Refused):
            self._answer_later(self._fail, operation, result.reason, result.leader, group_id)
        else:
            self._answer_later(self._lose, operation, result.reason)

    def _answer_later(self, step: Callable[..., None], *args: object) -> None:
        self.workload.world.after(self.rng.uniform(*WIRE_S), step, *args)

    # --- the answer, on the client's side ------------------------------------------------------

    def _done(self, operation: Operation, answer: Answer, index: int | None) -> None:
        if self._close(operation, "done"):
            now = self.workload.world.now
            self.workload.history.done(operation, now, answer.value, changed=answer.changed)
            operation.index = index
            self._last_seen[operation.key] = answer.value
            self._trace(operation)
            self.pause()

    def _fail(self, operation: Operation, why: str, leader: NodeId | None, group_id: int) -> None:
        if leader is not None:
            self.workload.leaders[group_id] = leader
        else:
            self.workload.leaders.pop(group_id, None)
        if self._close(operation, "failed"):
            self.workload.history.failed(operation, self.workload.world.now, why)
            self._trace(operation)
            self.pause()

    def _lose(self, operation: Operation, why: str) -> None:
        if self._close(operation, "unknown"):
            self.lives += 1
            self.workload.history.unknown(operation, why)
            self._trace(operation)
            self.pause()

    def _give_up(self, operation: Operation) -> None:
        self._lose(operation, "no answer in time")

    def _close(self, operation: Operation, result: str) -> bool:
        """False if the client no longer waits for this one."""
        if self.waiting is not operation:
            return False
        self.waiting = None
        kind = "read" if operation.kind is Kind.READ else "write"
        self.workload.results[f"{kind} {result}"] += 1
        return True

    def _trace(self, operation: Operation) -> None:
        note = f" ({operation.note})" if operation.note else ""
        self.workload.world.trace(f"client {operation}{note}")


def pick(rng: random.Random, weights: dict[str, float]) -> str:
    """One name, by weight; in sorted order, so that it depends on the dice alone."""
    names = sorted(weights)
    return rng.choices(names, [weights[name] for name in names])[0]
