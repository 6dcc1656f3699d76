"""Two nodes, every order of deliveries and losses: they agree on one connection.

`World` is the shell around two Pairs with everything else taken away: connections are two FIFO
queues of messages, a closed side tells the other by an EOF at the end of its queue, and a silent
break tells nobody. Whoever runs it decides what happens next: all orders (test_every_order...) or
drawn ones (test_any_history...).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.cluster.link_pair import TWIN_LIMIT, Accepted, Denied, Pair
from raftgroups.transport import NodeId

LOW, HIGH = 0, 1
NAMES = (NodeId("a"), NodeId("b"))


@dataclass
class Wire:
    """One TCP connection. Index 0 is the dialer's side, 1 the acceptor's."""

    key: int
    dialer: int
    number: int
    toward: tuple[deque[object], deque[object]] = field(default_factory=lambda: (deque(), deque()))
    closed: list[bool] = field(default_factory=lambda: [False, False])
    silent: bool = False

    def node(self, side: int) -> int:
        return self.dialer if side == 0 else 1 - self.dialer


EOF = object()


class World:
    def __init__(self) -> None:
        self.wires: dict[int, Wire] = {}
        self.keys = itertools.count()
        self.boots = [0, 0]
        self.pairs: list[Pair] = [self.fresh(LOW), self.fresh(HIGH)]
        self.wire_of_dial: list[int | None] = [None, None]
        self.dials = [0, 0]

    def fresh(self, node: int) -> Pair:
        return Pair(NAMES[node], NAMES[1 - node], itertools.count(1).__next__)

    def boot(self, node: int) -> str:
        return f"{NAMES[node]}-{self.boots[node]}"

    # --- what may happen ------------------------------------------------------------------

    def dial(self, node: int) -> None:
        self.dials[node] += 1
        number = self.pairs[node].begin_dial()
        wire = Wire(next(self.keys), node, number)
        self.wires[wire.key] = wire
        self.wire_of_dial[node] = wire.key
        wire.toward[1].append("hello")

    def deliverable(self) -> list[tuple[int, int]]:
        return [
            (wire.key, side)
            for wire in self.wires.values()
            for side in (0, 1)
            if wire.toward[side] and not wire.closed[side] and not wire.silent
        ]

    def deliver(self, key: int, side: int) -> None:
        wire = self.wires[key]
        message = wire.toward[side].popleft()
        if message is EOF:
            self.close(wire, side)
        elif side == 1:
            self.at_acceptor(wire, message)
        else:
            self.at_dialer(wire, message)

    def at_acceptor(self, wire: Wire, message: object) -> None:
        node = wire.node(1)
        if message == "hello":
            wire.toward[0].append(("hello", self.boot(node)))
            return
        assert isinstance(message, tuple)
        _, boot_id, dial, seen = message
        answer = self.pairs[node].proved(wire.key, boot_id, dial, seen)
        if isinstance(answer, Denied):
            wire.toward[0].append("bye")
            self.close(wire, 1)
            return
        self.give_up_dial(node)
        if answer.replaced is not None and answer.replaced in self.wires:
            replaced = self.wires[answer.replaced]
            self.close(replaced, 0 if replaced.dialer == node else 1)
        wire.toward[0].append(("welcome", self.boot(node), answer.serial))

    def at_dialer(self, wire: Wire, message: object) -> None:
        node = wire.node(0)
        pair = self.pairs[node]
        if message == "bye":
            self.close(wire, 0)
            return
        assert isinstance(message, tuple)
        if message[0] == "hello":
            answer = pair.met(wire.number, message[1])
            if isinstance(answer, Denied):
                self.close(wire, 0)
            else:
                wire.toward[1].append(("proof", self.boot(node), *answer))
        elif pair.welcomed(wire.key, wire.number, message[1], message[2]):
            self.wire_of_dial[node] = None
        else:
            self.close(wire, 0)

    def give_up_dial(self, node: int) -> None:
        key, self.wire_of_dial[node] = self.wire_of_dial[node], None
        if key is not None:
            self.close(self.wires[key], 0)

    def close(self, wire: Wire, side: int) -> None:
        """This side is done with the connection; the other hears of it in order."""
        if wire.closed[side]:
            return
        wire.closed[side] = True
        wire.toward[1 - side].append(EOF)
        node = wire.node(side)
        if side == 0:
            self.pairs[node].dial_ended(wire.number)
            if self.wire_of_dial[node] == wire.key:
                self.wire_of_dial[node] = None
        self.pairs[node].lost(wire.key)

    def reset(self, key: int) -> None:
        """Both ends are told, what was under way is gone."""
        wire = self.wires[key]
        for side in (0, 1):
            wire.toward[side].clear()
            wire.toward[side].append(EOF)

    def half_open(self, key: int, side: int) -> None:
        """One side loses it, and the news never arrives at the other."""
        wire = self.wires[key]
        self.close(wire, side)
        wire.silent = True

    def restart(self, node: int) -> None:
        """kill -9: the sockets close, the next start has another boot id and remembers nothing."""
        for wire in self.wires.values():
            for side in (0, 1):
                if wire.node(side) == node and not wire.closed[side]:
                    wire.closed[side] = True
                    wire.toward[1 - side].append(EOF)
        self.boots[node] += 1
        self.pairs[node] = self.fresh(node)
        self.wire_of_dial[node] = None

    # --- what must hold -------------------------------------------------------------------

    def check(self) -> None:
        for node in (LOW, HIGH):
            pair = self.pairs[node]
            assert pair.connection is None or pair.dial is None
            held = [
                wire.key
                for wire in self.wires.values()
                for side in (0, 1)
                if wire.node(side) == node and not wire.closed[side]
            ]
            if pair.connection is not None:
                assert pair.connection.key in held, "a connection in use is open"
            if pair.dial is not None:
                assert self.wire_of_dial[node] in held, "a dial under way is open"

    def agreed(self) -> bool:
        low, high = (pair.connection for pair in self.pairs)
        return low is not None and high is not None and low.key == high.key

    def settle(self) -> None:
        while self.deliverable():
            self.deliver(*self.deliverable()[0])
            self.check()

    def open_ends(self) -> int:
        return sum(not closed for wire in self.wires.values() for closed in wire.closed)


def every_order(actions: Callable[[World], list[Callable[[], object]]]) -> Iterator[World]:
    """All worlds that some order of the enabled actions leads to."""
    prefixes: list[list[int]] = [[]]
    while prefixes:
        prefix = prefixes.pop()
        world = World()
        for choice in prefix:
            actions(world)[choice]()
            world.check()
        enabled = actions(world)
        if not enabled:
            yield world
        prefixes += [[*prefix, choice] for choice in range(len(enabled))]


def deliveries(world: World) -> list[Callable[[], object]]:
    return [partial(world.deliver, *at) for at in world.deliverable()]


def test_every_order_of_a_simultaneous_dial_gives_one_connection_at_once() -> None:
    def actions(world: World) -> list[Callable[[], object]]:
        if not all(world.dials):  # both dial before anything arrives
            return [partial(world.dial, world.dials.index(0))]
        return deliveries(world)

    worlds = list(every_order(actions))
    assert len(worlds) > 40
    for world in worlds:
        assert world.agreed(), "no retry was needed"
        assert world.open_ends() == 2, "and nothing else is left open"


def test_every_order_with_late_dials_agrees() -> None:
    """Each node may also begin its dial at any later moment at which it has no connection."""

    def actions(world: World) -> list[Callable[[], object]]:
        late = [
            partial(world.dial, node)
            for node in (LOW, HIGH)
            if world.dials[node] == 0 and world.pairs[node].may_dial()
        ]
        return [*late, *deliveries(world)]

    worlds = list(every_order(actions))
    assert len(worlds) > 100
    for world in worlds:
        assert world.agreed()
        assert world.open_ends() == 2


def anything(world: World) -> list[Callable[[], object]]:
    """What may happen next to a running pair; what is usual is named more often."""
    enabled = deliveries(world) * 4
    for node in (LOW, HIGH):
        if world.pairs[node].may_dial():
            enabled += [partial(world.dial, node)] * 3
    for wire in world.wires.values():
        if not all(wire.closed):
            enabled.append(partial(world.reset, wire.key))
        enabled += [
            partial(world.half_open, wire.key, side) for side in (0, 1) if not wire.closed[side]
        ]
    if sum(world.boots) < TWIN_LIMIT - 1:
        enabled += [partial(world.restart, LOW), partial(world.restart, HIGH)]
    return enabled


def find_dead_connections(world: World) -> None:
    """What the keepalive and the deadline of handshakes do."""
    for wire in world.wires.values():
        for side in (0, 1):
            if wire.closed[1 - side]:
                world.close(wire, side)


@given(choices=st.lists(st.integers(0, 10_000), max_size=60))
def test_any_history_ends_in_one_agreed_connection(choices: list[int]) -> None:
    world = World()
    for choice in choices:
        enabled = anything(world)
        enabled[choice % len(enabled)]()
        world.check()
    world.settle()
    for _ in range(3):
        find_dead_connections(world)
        for node in (LOW, HIGH):
            if world.pairs[node].may_dial():
                world.dial(node)
        world.settle()
    assert world.agreed()
    assert world.open_ends() == 2


def connected() -> World:
    world = World()
    world.dial(LOW)
    world.settle()
    assert world.agreed()
    return world


@pytest.mark.parametrize("loser", [LOW, HIGH])
def test_a_dial_of_a_peer_that_lost_the_connection_replaces_it_at_once(loser: int) -> None:
    world = connected()
    old = world.pairs[1 - loser].connection
    assert old is not None
    world.half_open(old.key, 0 if loser == LOW else 1)
    assert world.pairs[1 - loser].connection is old, "the other side has not noticed"
    world.dial(loser)
    world.settle()
    assert world.agreed(), "without waiting for a keepalive"
    new = world.pairs[LOW].connection
    assert new is not None
    assert new.key != old.key


@pytest.mark.parametrize("node", [LOW, HIGH])
def test_a_restarted_peer_replaces_its_former_self(node: int) -> None:
    world = connected()
    for wire in world.wires.values():
        wire.silent = True  # the old connection never says that it is gone
    world.restart(node)
    world.dial(node)
    world.settle()
    assert world.agreed()
    held = world.pairs[1 - node].connection
    assert held is not None
    assert held.boot_id == world.boot(node)


def test_an_older_dial_that_was_long_under_way_is_refused() -> None:
    pair = Pair(NAMES[LOW], NAMES[HIGH], itertools.count(1).__next__)
    assert isinstance(pair.proved(1, "b-0", dial=5, seen=0), Accepted)
    assert isinstance(pair.proved(2, "b-0", dial=4, seen=0), Denied)
    assert pair.proved(3, "b-0", dial=6, seen=0) == Accepted(2, replaced=1, gave_up_dial=False)


def test_two_processes_under_one_node_id_are_found_out() -> None:
    pair = Pair(NAMES[LOW], NAMES[HIGH], itertools.count(1).__next__)
    accepted: list[str] = []
    denied: list[Denied] = []
    for turn in range(20):  # whoever lost its place dials again
        boot_id = "b-0" if pair.connection and pair.connection.boot_id == "b-1" else "b-1"
        answer = pair.proved(turn, boot_id, dial=turn, seen=0)
        if isinstance(answer, Denied):
            denied.append(answer)
        else:
            accepted.append(boot_id)
    assert len(accepted) == 2 * TWIN_LIMIT, "they take each other's place only for a while"
    assert {answer.reason for answer in denied} == {"twin"}
    assert "two processes run as node 'b'" in denied[0].sentence
    assert pair.connection is not None, "and the one that is in is left in peace"


def test_one_late_message_of_a_dead_process_shuts_nobody_out() -> None:
    pair = Pair(NAMES[LOW], NAMES[HIGH], itertools.count(1).__next__)
    pair.proved(1, "b-1", dial=1, seen=0)
    assert isinstance(pair.proved(2, "b-0", dial=1, seen=0), Accepted), "it cannot be known yet"
    pair.lost(2)
    assert isinstance(pair.proved(3, "b-1", dial=2, seen=0), Accepted)
