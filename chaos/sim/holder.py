"""Holders of leases, in the simulation of nodes that serve (chaos/sim/served.py).

A holder grants a lease, hangs keys of several shards on it, keeps it for a while and looks at the
keys, then lets it go or leaves it to run out. Judged is each look that is answered while its holder
may rely on the lease (`Held.sure_until`): the key must be there.

A look may be on its way for long, so it is judged by the lease that it was made for, and by what
its holder has done to that one since. Where some clock ran fast or leapt since the last answered
renewal was asked for, nobody may rely on anything, and nothing is judged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from chaos.checkers.violation import Violation
from kv.api.queries import KeysQuery
from kv.model import ReadOptions, WriteOptions
from raftgroups.commands import Command, LeaseGrant, LeaseKeepAlive, LeaseRevoke, Put, Token
from storage.errors import JanusError

if TYPE_CHECKING:
    from chaos.sim.served import ServedSimulation
    from chaos.sim.served_node import ServedNode

THINK_S: Final = 0.5
TTLS_S: Final = (2, 4)
WIRE_S: Final = (0.0001, 0.003)
LETTERS: Final = b"bfjnrvz"
SURE_PART: Final = 0.8
"""Of a lease's time, for which its holder may rely on it."""


@dataclass(slots=True)
class Held:
    """One lease, as its holder knows it."""

    lease: int
    ttl_s: int
    keys: tuple[bytes, ...]
    asked: float = float("-inf")
    """When that was asked for which was answered last."""
    sure_until: float = float("-inf")
    """Its holder may rely on it until then, if all clocks have run well since `asked`."""

    def kept(self, asked: float) -> None:
        """An answer came: its time began anew, no sooner than it was asked for."""
        self.asked = asked
        self.sure_until = asked + SURE_PART * self.ttl_s

    def let_go(self) -> None:
        """It may be over from when this is asked for."""
        self.sure_until = float("-inf")

    def surely_lives(self, now: float, clocks_well_since: float) -> bool:
        return now <= self.sure_until and clocks_well_since < self.asked


class Holder:
    """One lease after the other."""

    def __init__(self, simulation: ServedSimulation, number: int) -> None:
        self.simulation = simulation
        self.cluster = simulation.cluster
        self.world = self.cluster.world
        self.number = number
        self.rng = self.world.rng(f"holder/{number}")
        self.client = b"holder-%d" % number
        self.count = 0
        self.sequence = 0
        self.busy = False
        self.held = Held(0, 0, ())
        """The last one."""
        self._rounds = 0

    def pause(self, step: Callable[[], None]) -> None:
        self.world.after(self.rng.expovariate(1.0 / THINK_S), step)

    def begin(self) -> None:
        if self.simulation.workload.stopped:
            self.busy = False
            return
        self.busy = True
        self.count += 1
        lease = 1_000 * (self.number + 1) + self.count
        ttl_s = self.rng.choice(TTLS_S)
        self._rounds = self.rng.randrange(1, 9)
        letters = self.rng.sample(LETTERS, 3)
        keys = tuple(b"%c7-%d" % (letter, lease) for letter in sorted(letters))
        self.held = Held(lease, ttl_s, keys)
        self.simulation.hung |= set(keys)
        self._write(LeaseGrant(lease, ttl_s), self._granted)

    def _granted(self, answer: Any, asked: float) -> None:
        if isinstance(answer, JanusError):
            self._end("not granted")
            return
        self.held.kept(asked)
        self._hang(0)

    def _hang(self, place: int) -> None:
        if place == len(self.held.keys):
            self.pause(self._keep)
            return

        def hung(answer: Any, asked: float) -> None:
            if isinstance(answer, JanusError):
                self._end(f"not hung: {answer.code}")
            else:
                self._hang(place + 1)

        key = self.held.keys[place]
        self._write(Put(key, key, lease=self.held.lease), hung)

    def _keep(self) -> None:
        self._rounds -= 1
        if self._rounds < 0 or self.simulation.workload.stopped:
            if self.rng.random() < 0.5:
                self.held.let_go()
                self._write(LeaseRevoke(self.held.lease), lambda _, asked: self._end("let go"))
            else:
                self._end("left")
            return
        self._write(LeaseKeepAlive((self.held.lease,)), self._kept)

    def _kept(self, answer: Any, asked: float) -> None:
        if isinstance(answer, JanusError):
            self._end("not kept")
            return
        if not all(answer.ttls_s):
            self._end("over")  # when this was executed: it had been on its way for too long
            return
        self.held.kept(asked)
        self.pause(self._look)  # its own time may be over by then, and that of the renewal not

    def _look(self) -> None:
        held = self.held
        key = self.rng.choice(held.keys)

        def found(answer: Any) -> None:
            if isinstance(answer, JanusError):
                return
            if not held.surely_lives(self.world.now, self.simulation.clocks_well_since()):
                return
            self.simulation.workload.results["lease looked at"] += 1
            if not answer.results[0].found:
                self.simulation.wrong.append(
                    Violation("leases", f"{key!r} is gone, lease {held.lease} is not over")
                )

        node = self._node()
        if node is not None:
            self.world.after(
                self.rng.uniform(*WIRE_S), self._read, node, key, found,
                owner=node.process, frame=True,
            )  # fmt: skip
        self.pause(self._keep)

    def _read(self, node: ServedNode, key: bytes, found: Callable[[Any], None]) -> None:
        assert node.keyspace is not None
        node.keyspace.read(KeysQuery((key,)), found, ReadOptions(deadline_s=1.0))

    def _end(self, how: str) -> None:
        self.simulation.workload.results[f"lease {how}"] += 1
        self.pause(self.begin)

    # --- calls ---------------------------------------------------------------------------------

    def _node(self) -> ServedNode | None:
        nodes = [node for node in self.cluster.serving if node.running]
        return self.rng.choice(nodes) if nodes else None

    def _write(self, command: Command, done: Callable[[Any, float], None]) -> None:
        """Asked again, with its token, until there is an answer."""
        self.sequence += 1
        token, asked = Token(self.client, self.sequence), self.world.now
        over = False

        def ended(answer: Any) -> None:
            nonlocal over
            again = isinstance(answer, JanusError) and answer.retryable
            if over or (again and self.world.now < asked + 20.0):
                return
            over = True
            self.world.after(self.rng.uniform(*WIRE_S), done, answer, asked)

        def attempt() -> None:
            if over:
                return
            node = self._node()
            if node is not None:
                self.world.after(
                    self.rng.uniform(*WIRE_S), ask, node, owner=node.process, frame=True
                )
            self.world.after(1.0, attempt)

        def ask(node: ServedNode) -> None:
            assert node.keyspace is not None
            node.keyspace.write(command, ended, WriteOptions(token, deadline_s=2.0))

        attempt()
